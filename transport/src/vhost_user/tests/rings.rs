//! Rings start and stop as the front-end says.

use std::{os::fd::AsFd, sync::atomic::Ordering, thread, time::Duration};

use vhost::vhost_user::message::FrontendReq as Code;

use super::{
    super::error::{Error, Refusal},
    client::{
        Client, FEATURES, GATED, HIGH, LOW, SIZE, address, event, eventually, ring, state, words,
    },
};

#[test]
fn a_ring_starts_looks_once_and_answers() {
    let mut client = Client::ready();
    client.offer(0, 0, HIGH, b"already there");
    client.start(0);
    client.wait_for_used(0, 1);
    assert!(client.is_echoed(0, HIGH, b"already there"));
    client.put(0, 2, LOW, b"kicked");
    client.wait_for_used(0, 2);
    assert!(client.is_echoed(2, LOW, b"kicked"));
}

#[test]
fn a_ring_stops_with_the_index_of_what_comes_next_and_goes_on_there() {
    let mut client = Client::running();
    for head in [0, 2, 4] {
        client.put(0, head, LOW, b"one");
    }
    client.wait_for_used(0, 3);
    assert_eq!(client.get_base(0), 3);
    client.put(0, 6, LOW, b"while it is stopped");
    thread::sleep(Duration::from_millis(50));
    assert_eq!(client.used(0), 3);
    client.set_up(0, 3);
    client.give_kick(0);
    client.wait_for_used(0, 4);
    // Asking twice, and about one that never ran.
    assert_eq!((client.get_base(0), client.get_base(0), client.get_base(1)), (4, 4, 0));
}

#[test]
fn messages_in_flight_are_answered_before_a_ring_has_stopped() {
    let mut client = Client::running();
    client.put(0, 0, LOW, b"held");
    client.device.wait_for_in_flight(1);
    let device = client.device.clone();
    let later = thread::spawn(move || {
        thread::sleep(Duration::from_millis(1500));
        device.release.send(true).unwrap();
    });
    assert_eq!((client.get_base(0), client.used(0)), (1, 1));
    later.join().unwrap();
}

#[test]
fn what_is_parked_ends_when_its_ring_stops() {
    let mut client = Client::running();
    client.put(0, 0, LOW, b"parked");
    client.device.wait_for_in_flight(1);
    assert_eq!((client.get_base(0), client.used(0)), (1, 1));
}

#[test]
fn with_protocol_features_a_ring_runs_only_while_it_is_enabled() {
    let mut client = Client::ready();
    client.set_up(0, 0);
    client.give_kick(0);
    client.put(0, 0, LOW, b"too early");
    thread::sleep(Duration::from_millis(50));
    assert_eq!(client.used(0), 0);
    assert_eq!(client.enable(0, 1), 0);
    client.wait_for_used(0, 1);
    assert_eq!(client.enable(0, 0), 0);
    client.put(0, 2, LOW, b"while it is off");
    thread::sleep(Duration::from_millis(50));
    assert_eq!(client.used(0), 1);
    assert_eq!(client.enable(0, 1), 0);
    client.wait_for_used(0, 2);
    assert_eq!(client.get_base(0), 2);
}

#[test]
fn without_protocol_features_a_ring_needs_not_be_enabled() {
    let mut client = Client::ready_with(FEATURES & !GATED);
    client.set_up(0, 0);
    client.give_kick(0);
    client.put(0, 0, LOW, b"at once");
    client.wait_for_used(0, 1);
}

#[test]
fn enabling_comes_before_or_after_everything_else() {
    let mut client = Client::ready();
    assert_eq!(client.enable(0, 1), 0);
    client.give_call(0);
    client.give_kick(0);
    client.offer(0, 0, LOW, b"in any order");
    client.set_up(0, 0);
    client.wait_for_used(0, 1);
}

#[test]
fn a_new_kick_descriptor_is_used_and_the_ring_looked_at() {
    let mut client = Client::running();
    client.queues[0].kick = event();
    client.offer(0, 0, LOW, b"nobody kicked");
    client.give_kick(0);
    client.wait_for_used(0, 1);
    client.put(0, 2, LOW, b"kicked by the new one");
    client.wait_for_used(0, 2);
}

#[test]
fn a_new_call_descriptor_is_signalled_once() {
    let mut client = Client::running();
    eventually(|| client.calls(0) > 0);
    client.queues[0].call = event();
    client.give_call(0);
    eventually(|| client.calls(0) == 1);
    assert_eq!(client.calls(0), 0);
}

#[test]
fn the_same_address_again_does_not_restart_a_ring_and_another_one_does() {
    let mut client = Client::running();
    assert_eq!(client.ack(Code::SET_VRING_ADDR, &address(0, Some(0x2000))), 0);
    assert_eq!(client.ack(Code::SET_VRING_ADDR, &address(0, None)), 0);
    assert_eq!(*client.device.starts.lock().unwrap(), [0]);
    let elsewhere = LOW[2] + ring(1);
    let body = words(&[elsewhere, elsewhere + 0x2000, elsewhere + 0x1000, 0]);
    assert_eq!(client.ack(Code::SET_VRING_ADDR, &[state(0, 0), body].concat()), 0);
    assert_eq!(*client.device.starts.lock().unwrap(), [0, 0]);
    client.offer(1, 0, LOW, b"in the other place");
    client.kick(0);
    client.wait_for_used(1, 1);
}

#[test]
fn queues_are_served_beside_each_other() {
    let mut client = Client::running();
    client.start(1);
    client.put(0, 0, LOW, b"held");
    client.put(1, 2, HIGH, b"not held up");
    client.wait_for_used(1, 1);
    assert_eq!(client.used(0), 0);
    client.device.release.send(true).unwrap();
    client.wait_for_used(0, 1);
}

#[test]
fn changing_a_running_ring_ends_the_session() {
    for code in [Code::SET_VRING_NUM, Code::SET_VRING_BASE] {
        let mut client = Client::running();
        client.send(code, &state(0, SIZE.into()));
        let ended = client.ended();
        let line = ended.cause.unwrap().to_string();
        assert!(line.contains("queue 0 runs"), "{line}");
    }
}

/// Gives a call descriptor in which every write waits.
fn give_full_call(client: &mut Client) {
    let full = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let body = words(&[0]);
    assert_eq!(client.ack_fds(Code::SET_VRING_CALL, &body, &[full.as_fd()]), 0);
}

#[test]
fn a_call_descriptor_that_is_full_does_not_keep_a_ring_from_stopping() {
    let mut client = Client::running();
    give_full_call(&mut client);
    client.put(0, 0, LOW, b"its answer blocks");
    assert_eq!(client.get_base(0), u32::from(client.used(0)));
    let (ended, device) = client.leave();
    assert!(!ended.is_abandoned);
    assert_eq!(device.resets.load(Ordering::SeqCst), 1);
}

#[test]
fn nor_does_one_that_was_replaced_meanwhile_nor_many() {
    let mut client = Client::running();
    for _ in 0..20 {
        give_full_call(&mut client);
    }
    client.give_call(0);
    client.put(0, 0, LOW, b"its answer blocks");
    assert_eq!(client.get_base(0), u32::from(client.used(0)));
    let (ended, _) = client.leave();
    assert!(!ended.is_abandoned);
}

#[test]
fn a_worker_does_not_wait_for_a_front_end_that_was_given_up() {
    let mut client = Client::running();
    client.put(0, 0, LOW, b"held");
    client.device.wait_for_in_flight(1);
    give_full_call(&mut client);
    let (ended, device) = client.leave();
    assert!(ended.is_abandoned);
    device.release.send(true).unwrap();
    device.wait_for_in_flight(0);
    // The worker serves another queue.
    let mut other = Client::connect_to(device.clone());
    other.negotiate(FEATURES);
    other.start(0);
    other.put(0, 0, LOW, b"next one");
    other.wait_for_used(0, 1);
}

#[test]
fn a_front_end_is_hung_up_on_when_nobody_serves_its_ring() {
    let mut client = Client::ready();
    client.device.is_dead.store(true, Ordering::SeqCst);
    client.set_up(0, 0);
    client.give_kick(0);
    client.send(Code::SET_VRING_ENABLE, &state(0, 1));
    let ended = client.ended();
    assert!(matches!(ended.cause, Some(Error::WorkerEnded)), "{:?}", ended.cause);
    assert!(!ended.is_abandoned);
}

#[test]
fn a_ring_that_is_not_all_there_is_not_started() {
    type Step = fn(&mut Client);
    let size: Step = |client| client.send(Code::SET_VRING_NUM, &state(0, u32::from(SIZE)));
    let place: Step = |client| client.send(Code::SET_VRING_ADDR, &address(0, None));
    let kick: Step = |client| client.give_kick(0);
    let enable: Step = |client| assert_eq!(client.enable(0, 1), 0);
    let all = [size, place, kick, enable];
    for missing in 0..all.len() {
        let mut client = Client::ready();
        for (index, step) in all.iter().enumerate() {
            if index != missing {
                step(&mut client);
            }
        }
        client.offer(0, 0, LOW, b"nobody takes it");
        thread::sleep(Duration::from_millis(20));
        assert!(client.device.starts.lock().unwrap().is_empty(), "without its part {missing}");
        assert_eq!(client.used(0), 0);
        all[missing](&mut client);
        client.wait_for_used(0, 1);
    }
}

#[test]
fn a_ring_of_no_entries_and_one_in_no_memory_end_the_session() {
    for number in [0, 3, 32769, u32::MAX] {
        let mut client = Client::ready();
        client.send(Code::SET_VRING_NUM, &state(0, number));
        assert!(client.ended().cause.is_some(), "{number}");
    }
    let mut client = Client::ready();
    client.send(Code::SET_VRING_NUM, &state(0, u32::from(SIZE)));
    client.send(Code::SET_VRING_ADDR, &words(&[0; 5]));
    client.give_kick(0);
    client.send(Code::SET_VRING_ENABLE, &state(0, 1));
    let cause = client.ended().cause;
    assert!(
        matches!(cause, Some(Error::Refused { cause: Refusal::Nowhere { index: 0, .. }, .. })),
        "{cause:?}"
    );
}
