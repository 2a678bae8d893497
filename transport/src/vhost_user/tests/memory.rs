//! Memory comes and goes while messages are in flight.

use std::{
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use vhost::vhost_user::message::FrontendReq as Code;

use super::super::{MemoryError, memory::Mapping};
use super::client::{Client, HIGH, LEN, LOW, memfd, single};

/// A third region, in the second half of the memory.
const THIRD: [u64; 4] = [2 << 32, 0x1000, 0x7200_0000_0000, LEN + 0xff000];

fn remove(client: &mut Client, region: [u64; 4]) -> u64 {
    client.ack(Code::REM_MEM_REG, &single(region))
}

#[test]
fn a_region_is_added_to_a_running_queue() {
    let mut client = Client::ready();
    assert_eq!(client.set_memory(&[LOW]), 0);
    client.start(0);
    assert_eq!(client.add(HIGH), 0);
    client.put(0, 0, HIGH, b"in the new one");
    client.wait_for_used(0, 1);
    assert!(client.is_echoed(0, HIGH, b"in the new one"));
}

#[test]
fn a_region_goes_when_no_message_is_in_it_any_more() {
    let mut client = Client::running();
    client.put(0, 0, HIGH, b"held");
    client.put(0, 2, LOW, b"in another region");
    client.device.wait_for_in_flight(1);
    client.wait_for_used(0, 1);
    let device = client.device.clone();
    let later = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        device.release.send(true).unwrap();
    });
    let began = Instant::now();
    assert_eq!(remove(&mut client, HIGH), 0);
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
    assert!(client.is_echoed(0, HIGH, b"held"));
    later.join().unwrap();
    // What is in it now is no message any more; the others go on.
    client.put(0, 4, HIGH, b"nowhere");
    client.put(0, 6, LOW, b"still there");
    client.wait_for_used(0, 4);
    assert!(client.is_echoed(6, LOW, b"still there") && !client.is_echoed(4, HIGH, b"nowhere"));
}

#[test]
fn other_messages_do_not_keep_a_region() {
    let mut client = Client::running();
    client.put(0, 0, LOW, b"held");
    client.device.wait_for_in_flight(1);
    let began = Instant::now();
    assert_eq!(remove(&mut client, HIGH), 0);
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
}

#[test]
fn what_is_parked_in_a_region_that_goes_ends() {
    let mut client = Client::running();
    client.put(0, 0, HIGH, b"parked");
    client.device.wait_for_in_flight(1);
    assert_eq!(remove(&mut client, HIGH), 0);
    assert!(client.is_echoed(0, HIGH, b"parked"));
    client.put(0, 2, LOW, b"the queue goes on");
    client.wait_for_used(0, 2);
}

#[test]
fn the_same_table_again_waits_for_nobody() {
    let mut client = Client::running();
    client.put(0, 0, HIGH, b"held");
    client.device.wait_for_in_flight(1);
    let began = Instant::now();
    assert_eq!(client.set_memory(&[LOW, HIGH, THIRD]), 0);
    assert_eq!(client.set_memory(&[HIGH, LOW]), 0);
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    client.device.release.send(true).unwrap();
    client.wait_for_used(0, 1);
    assert!(client.is_echoed(0, HIGH, b"held"));
}

#[test]
fn a_region_is_replaced_by_another_file() {
    let mut client = Client::running();
    client.put(0, 0, HIGH, b"parked");
    client.device.wait_for_in_flight(1);
    let other = memfd(2 * LEN);
    let body = [super::client::words(&[2]), super::client::words(&LOW)].concat();
    let body = [body, super::client::words(&HIGH)].concat();
    let low = client.memory.try_clone().unwrap();
    assert_eq!(client.ack_fds(Code::SET_MEM_TABLE, &body, &[low.as_fd(), other.as_fd()]), 0);
    assert!(client.is_echoed(0, HIGH, b"parked"));
}

#[test]
fn regions_that_cannot_be_are_refused_and_the_session_goes_on() {
    let mut client = Client::running();
    let [guest, len, user, _] = THIRD;
    let overlapping = [HIGH[0] + HIGH[1] - 1, len, user, 0];
    let around = [LOW[0], HIGH[0] + 1, user, 0];
    let behind_the_end = [guest, len, user, 2 * LEN - len + 1];
    for region in [overlapping, around, behind_the_end, HIGH] {
        assert_ne!(client.add(region), 0, "{region:?}");
    }
    assert_ne!(client.set_memory(&[LOW, HIGH, overlapping]), 0);
    for (file, region) in
        [("/dev/zero", THIRD), ("/", THIRD), ("/proc/self/status", THIRD), ("/dev/null", THIRD)]
    {
        let file = std::fs::File::open(file).unwrap();
        assert_ne!(client.ack_fds(Code::ADD_MEM_REG, &single(region), &[file.as_fd()]), 0);
    }
    let pipe = std::io::pipe().unwrap().0;
    assert_ne!(client.ack_fds(Code::ADD_MEM_REG, &single(THIRD), &[pipe.as_fd()]), 0);
    assert_ne!(remove(&mut client, THIRD), 0);
    // The ring is in this one.
    assert_ne!(remove(&mut client, LOW), 0);
    assert_ne!(client.set_memory(&[HIGH]), 0);
    assert_eq!(client.add(THIRD), 0);
    client.put(0, 0, HIGH, b"all as before");
    client.wait_for_used(0, 1);
    assert!(client.is_echoed(0, HIGH, b"all as before"));
}

#[test]
fn empty_regions_and_those_that_wrap_end_the_session() {
    let [guest, len, user, offset] = THIRD;
    for region in [
        [guest, 0, user, offset],
        [u64::MAX - 0xfff, len + 1, user, offset],
        [guest, len, u64::MAX - 1, offset],
        [guest, len, user, u64::MAX - 1],
    ] {
        let mut client = Client::running();
        client.message(Code::ADD_MEM_REG as u32, 1, &single(region), &[client_fd().as_fd()]);
        assert!(client.ended().cause.is_some(), "{region:?}");
    }
}

fn client_fd() -> std::fs::File {
    memfd(4 * LEN)
}

#[test]
fn there_are_not_more_regions_than_slots() {
    let mut client = Client::ready();
    for slot in 2..509 {
        let region = [(slot + 2) << 32, 0x1000, (0x8000 + slot) << 32, 0];
        assert_eq!(client.add(region), 0, "{slot}");
    }
    assert_ne!(client.add(THIRD), 0);
    client.start(0);
    client.put(0, 0, HIGH, b"found among many");
    client.wait_for_used(0, 1);
}

#[test]
fn an_offset_that_is_no_multiple_of_a_page_is_taken() {
    let mut client = Client::ready();
    let odd = [HIGH[0], LEN - 0x1000, HIGH[2], HIGH[3] + 0x200];
    assert_eq!(client.set_memory(&[LOW, odd]), 0);
    client.start(0);
    client.put(0, 0, odd, b"at an odd place");
    client.wait_for_used(0, 1);
    assert!(client.is_echoed(0, odd, b"at an odd place"));
}

#[test]
fn memory_whose_truncation_would_end_the_process_is_not_mapped() {
    let file = memfd(0x1000);
    let mut held = Vec::new();
    let refused = (0..2000).find_map(|_| match Mapping::new(&file, 0, 0x1000) {
        Ok(mapping) => {
            held.push(mapping);
            None
        }
        Err(error) => Some(error),
    });
    assert!(matches!(refused, Some(MemoryError::Unwatched)), "{refused:?}");
    drop(held);
    assert!(Mapping::new(&file, 0, 0x1000).is_ok());
}
