//! The driver against a device in this process.

mod device;

use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::*;
use crate::memory::Region;
use device::{Chain, Device};

const LIMIT: Duration = Duration::from_secs(10);
const SIZE: u16 = 8;

fn queue(event_idx: bool) -> (Queue, Device) {
    let mut arena = Arena::new(Region::new(1 << 20, 1 << 20).unwrap());
    let options = QueueOptions { size: SIZE, table_len: 4, event_idx };
    let queue = Queue::new(&mut arena, options).unwrap();
    let device = Device::new(queue.ring(), SIZE);
    (queue, device)
}

fn segments(first: u64, count: u32) -> Vec<Segment> {
    (0..count).map(|at| Segment { addr: first + u64::from(at) * 100, len: 10 + at }).collect()
}

#[test]
fn a_chain_arrives_as_it_was_submitted() {
    for form in [Form::Chained, Form::Indirect] {
        let (mut queue, mut device) = queue(true);
        let (readable, writable) = (segments(5, 3), segments(1000, 1));
        let head = queue.submit(&readable, &writable, form).unwrap();
        assert_eq!(device.take(), None, "nothing is visible before it is published");
        queue.publish().unwrap();
        assert_eq!(device.take(), Some(Chain { head, readable, writable }));
        assert_eq!(device.take(), None);
    }
}

#[test]
fn a_full_ring_refuses_and_takes_again_what_came_back() {
    let (mut queue, mut device) = queue(true);
    // Eight descriptors: two chains of three, and two are left.
    let three = segments(0, 3);
    queue.submit(&three, &[], Form::Chained).unwrap();
    queue.submit(&three, &[], Form::Chained).unwrap();
    assert!(matches!(queue.submit(&three, &[], Form::Chained), Err(Error::NoRoom(_))));
    queue.publish().unwrap();

    let chain = device.take().unwrap();
    device.give(chain.head, 7);
    device.publish(true);
    assert_eq!(queue.pop().unwrap(), Some(Used { head: chain.head, len: 7 }));
    queue.submit(&three, &[], Form::Chained).unwrap();
    assert_eq!(queue.in_flight(), 2);
}

#[test]
fn a_table_that_is_too_short_refuses() {
    let (mut queue, _device) = queue(true);
    let five = segments(0, 5);
    assert!(matches!(queue.submit(&five, &[], Form::Indirect), Err(Error::NoRoom(_))));
    assert_eq!(queue.in_flight(), 0);
}

#[test]
fn answers_may_come_in_any_order_and_indices_wrap() {
    let (mut queue, mut device) = queue(true);
    for round in 0..30_000u32 {
        let heads: Vec<u16> = (0..3)
            .map(|at| queue.submit(&segments(at, 1), &segments(500, 1), Form::Chained).unwrap())
            .collect();
        queue.publish().unwrap();
        let mut taken: Vec<u16> = (0..3).map(|_| device.take().unwrap().head).collect();
        assert_eq!(taken, heads);
        taken.rotate_left(round as usize % 3);
        taken.iter().for_each(|head| device.give(*head, round));
        device.publish(true);
        for head in taken {
            assert_eq!(queue.pop().unwrap(), Some(Used { head, len: round }));
        }
        assert_eq!(queue.pop().unwrap(), None);
    }
    assert_eq!(queue.used_index(), (90_000u32 % 65_536) as u16);
}

#[test]
fn a_device_that_gives_back_what_it_does_not_have_breaks_the_protocol() {
    for head in [3, 100] {
        let (mut queue, mut device) = queue(true);
        queue.submit(&segments(0, 1), &[], Form::Chained).unwrap();
        device.give(head, 0);
        device.publish(true);
        assert!(matches!(queue.pop(), Err(Error::Protocol(_))));
    }
}

#[test]
fn kicks_are_sent_only_when_the_device_asked() {
    let (mut queue, mut device) = queue(true);
    let kicked = |queue: &Queue| rustix::io::read(queue.kick_fd(), &mut [0; 8]).is_ok();
    assert!(!device.want_kick());
    queue.submit(&segments(0, 1), &[], Form::Chained).unwrap();
    queue.publish().unwrap();
    assert!(kicked(&queue));
    // The device is busy and did not ask again.
    queue.submit(&segments(0, 1), &[], Form::Chained).unwrap();
    queue.publish().unwrap();
    assert!(!kicked(&queue));
    assert!(device.want_kick(), "the device sees what it was not told of");
}

#[test]
fn calls_are_asked_for_only_while_waiting() {
    let (mut queue, mut device) = queue(false);
    let head = queue.submit(&segments(0, 1), &[], Form::Chained).unwrap();
    device.give(head, 0);
    assert!(!device.publish(false), "nobody waits");
    queue.pop().unwrap();
    assert!(matches!(queue.wait(Duration::from_millis(1)), Err(Error::Timeout(_))));
}

#[test]
fn a_device_on_another_thread_answers_everything() {
    for (event_idx, form) in [(true, Form::Chained), (true, Form::Indirect), (false, Form::Chained)]
    {
        const REQUESTS: u32 = 20_000;
        let (mut queue, device) = queue(event_idx);
        let kick = queue.kick_fd().try_clone_to_owned().unwrap();
        let call = queue.call_fd().try_clone_to_owned().unwrap();
        let server = thread::spawn(move || serve(device, &kick, &call, event_idx, REQUESTS));
        let (mut sent, mut received) = (0, 0);
        while received < REQUESTS {
            while sent < REQUESTS && queue.in_flight() < 4 {
                queue.submit(&segments(0, 1), &segments(500, 1), form).unwrap();
                sent += 1;
            }
            queue.publish().unwrap();
            queue.wait(LIMIT).unwrap();
            while let Some(used) = queue.pop().unwrap() {
                assert_eq!(used.len, received);
                received += 1;
            }
        }
        server.join().unwrap();
    }
}

/// Answers each request with its number, sleeping when there is none.
fn serve(
    mut device: Device,
    kick: &impl std::os::fd::AsFd,
    call: &impl std::os::fd::AsFd,
    event_idx: bool,
    requests: u32,
) {
    let mut answered = 0;
    while answered < requests {
        while let Some(chain) = device.take() {
            device.give(chain.head, answered);
            answered += 1;
        }
        if device.publish(event_idx) {
            rustix::io::write(call, &1u64.to_ne_bytes()).unwrap();
        }
        if answered < requests && !device.want_kick() {
            poll(&mut [PollFd::new(kick, PollFlags::IN)], None).unwrap();
            assert!(matches!(rustix::io::read(kick, &mut [0; 8]), Ok(8) | Err(Errno::AGAIN)));
        }
    }
}

#[test]
fn an_index_passes_an_event_only_when_it_is_in_between() {
    assert!(passed(5, 6, 5));
    assert!(!passed(6, 6, 5));
    assert!(passed(65_535, 1, 65_534));
    assert!(!passed(4, 8, 5));
}
