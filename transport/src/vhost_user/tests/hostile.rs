//! Front-ends that do what none should.

use std::{
    fs::File,
    io::Write,
    os::fd::AsFd,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use vhost::vhost_user::message::FrontendReq as Code;

use super::client::{Client, HIGH, LOW, NEED_REPLY, VERSION, address, state, words};
use crate::vhost_user::Error;

/// Every message of the protocol with a body of its size.
fn all_messages() -> Vec<(u32, Vec<u8>)> {
    let sizes = [(9, 40), (5, 40), (6, 16), (24, 20), (25, 20), (37, 40), (38, 40)];
    let without = [1, 3, 4, 15, 17, 34, 36, 44].map(|code| (code, 0));
    let size = |code| {
        let mut known = sizes.iter().chain(&without);
        known.find(|&&(other, _)| other == code).map_or(8, |&(_, size)| size)
    };
    (0..=44).map(|code| (code, vec![0; size(code)])).collect()
}

#[test]
fn garbage_ends_the_session_and_nothing_else() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as u8
    };
    for len in [1, 11, 12, 13, 64, 4096, 100_000] {
        let mut client = Client::running();
        let bytes: Vec<u8> = (0..len).map(|_| random()).collect();
        // It may hang up before it has read all of it.
        let _ = client.socket.write_all(&bytes);
        let (ended, device) = client.leave();
        assert!(!ended.is_abandoned);
        assert_eq!(device.resets.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn wrong_headers_end_the_session() {
    for (code, flags, len) in [
        (0, VERSION, 0),
        (1000, VERSION, 0),
        (u32::MAX, VERSION, 0),
        (1, 0, 0),
        (1, 2, 0),
        (1, VERSION | 1 << 4, 0),
        (1, VERSION | 1 << 2, 0),
        (1, VERSION, 4097),
        (1, VERSION, u32::MAX),
    ] {
        let client = Client::running();
        client.raw(&[code, flags, len].map(u32::to_ne_bytes).concat(), &[]);
        let ended = client.ended();
        assert!(matches!(ended.cause, Some(Error::Message { .. })), "{code} {flags} {len}");
    }
}

#[test]
fn every_message_with_a_wrong_size_leaves_the_process_alive() {
    for (code, body) in all_messages() {
        for len in [0, 1, body.len().saturating_sub(1), body.len() + 1, 4096] {
            let mut client = Client::running();
            client.message(code, VERSION, &vec![0; len], &[]);
            let (ended, _) = client.leave();
            assert!(!ended.is_abandoned, "{code} {len}");
        }
    }
}

#[test]
fn every_message_of_zeroes_and_of_ones_leaves_the_process_alive_with_messages_in_flight() {
    for (code, body) in all_messages() {
        for byte in [0, 0xff] {
            let mut client = Client::running();
            for head in [0, 2, 4] {
                client.put(0, head, HIGH, b"parked");
            }
            client.device.wait_for_in_flight(3);
            client.message(code, VERSION | NEED_REPLY, &vec![byte; body.len()], &[]);
            let (ended, device) = client.leave();
            assert!(!ended.is_abandoned, "{code} {byte}");
            assert_eq!(device.resets.load(Ordering::SeqCst), 1 + u32::from(code == 34));
        }
    }
}

#[test]
fn a_message_that_comes_in_part_ends_the_session_when_the_rest_does_not_come() {
    for len in [1, 4, 11, 12, 19] {
        let client = Client::running();
        let whole = [&[2u32, VERSION, 8].map(u32::to_ne_bytes).concat()[..], &words(&[0])].concat();
        client.raw(&whole[..len], &[]);
        let (ended, _) = client.leave();
        assert!(matches!(ended.cause, Some(Error::Message { .. })), "{len}: {:?}", ended.cause);
    }
}

#[test]
fn descriptors_where_none_belong_or_too_many_end_the_session_and_are_closed() {
    let pipe = std::io::pipe().unwrap();
    for (code, body, count) in [
        (1, vec![], 1),
        (8, state(0, 8), 2),
        (12, words(&[0]), 2),
        (12, words(&[0]), 0),
        (12, words(&[0x100]), 1),
        (37, vec![1; 40], 0),
        (37, vec![1; 40], 3),
        (5, words(&[1, 0, 0x1000, 0, 0]), 2),
        (1, vec![], 64),
        (5, words(&[1, 0, 0x1000, 0, 0]), 33),
    ] {
        let mut client = Client::running();
        client.message(code, VERSION, &body, &vec![pipe.0.as_fd(); count]);
        let (ended, _) = client.leave();
        assert!(!ended.is_abandoned);
    }
    drop(pipe.0);
    // If nobody has a copy of the reading end, writing fails.
    let result = rustix::io::write(&pipe.1, b"x");
    assert_eq!(result, Err(rustix::io::Errno::PIPE), "a descriptor was left open");
}

#[test]
fn descriptors_that_are_no_eventfd_end_the_session() {
    let pipe = std::io::pipe().unwrap().1;
    let socket = std::os::unix::net::UnixStream::pair().unwrap().0;
    let file = File::open("/dev/null").unwrap();
    for fd in [pipe.as_fd(), socket.as_fd(), file.as_fd()] {
        for code in [Code::SET_VRING_KICK, Code::SET_VRING_CALL, Code::SET_VRING_ERR] {
            let mut client = Client::running();
            client.message(code as u32, VERSION, &words(&[0]), &[fd]);
            let line = client.ended().cause.unwrap().to_string();
            assert!(line.contains("no eventfd"), "{line}");
        }
    }
}

#[test]
fn rings_that_cannot_be_end_the_session() {
    let wrong_sizes =
        [0, 3, 65535, 65536, 1 << 31].map(|size| (Code::SET_VRING_NUM, state(1, size)));
    let mut wrong_index = address(1, None);
    wrong_index[0] = 4;
    let outside = [state(1, 0), words(&[0x1000, 0x2000, 0x3000, 0])].concat();
    let others = [
        (Code::SET_VRING_BASE, state(1, 65536)),
        (Code::SET_VRING_NUM, state(4, 8)),
        (Code::GET_VRING_BASE, state(u32::MAX, 0)),
        (Code::SET_VRING_ENABLE, state(4, 1)),
        (Code::SET_VRING_ENABLE, state(0, 2)),
        (Code::SET_VRING_ADDR, wrong_index),
        (Code::SET_VRING_ADDR, outside),
    ];
    for (code, body) in wrong_sizes.into_iter().chain(others) {
        let mut client = Client::running();
        client.send(Code::SET_VRING_NUM, &state(1, 8));
        assert_eq!(client.enable(1, 1), 0);
        client.give_kick(1);
        client.message(code as u32, VERSION, &body, &[]);
        assert!(client.ended().cause.is_some(), "{code:?} {body:?}");
    }
}

#[test]
fn a_front_end_may_leave_at_any_step() {
    type Step = fn(&mut Client);
    let steps: [Step; 8] = [
        |client| client.send(Code::SET_PROTOCOL_FEATURES, &words(&[super::client::PROTOCOL])),
        |client| assert_eq!(client.set_memory(&[LOW, HIGH]), 0),
        |client| client.set_up(0, 0),
        |client| client.give_kick(0),
        |client| client.give_call(0),
        |client| client.offer(0, 0, HIGH, b"parked"),
        |client| client.kick(0),
        |client| client.put(0, 2, LOW, b"answered"),
    ];
    for last in 0..=steps.len() {
        let mut client = Client::connect();
        client.ask(Code::GET_FEATURES);
        client.send(Code::SET_FEATURES, &words(&[1 << 32]));
        client.send(Code::SET_PROTOCOL_FEATURES, &words(&[super::client::PROTOCOL]));
        steps[..last].iter().for_each(|step| step(&mut client));
        let (ended, device) = client.leave();
        assert!(ended.cause.is_none() && !ended.is_abandoned, "{last}: {ended:?}");
        assert_eq!(device.resets.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn leaving_while_a_message_never_ends_gives_it_up_and_keeps_its_memory() {
    let mut client = Client::running();
    client.put(0, 0, HIGH, b"held");
    client.device.wait_for_in_flight(1);
    let memory = client.memory.try_clone().unwrap();
    // Waiting for the queue does not keep the session from noticing that the front-end has left.
    client.send(Code::GET_VRING_BASE, &state(0, 0));
    let began = Instant::now();
    let (ended, device) = client.leave();
    let elapsed = began.elapsed();
    assert!(ended.is_abandoned && ended.cause.is_none());
    assert!(elapsed > Duration::from_secs(4) && elapsed < Duration::from_secs(9), "{elapsed:?}");
    assert_eq!(device.resets.load(Ordering::SeqCst), 0);
    // The answer goes to where it belongs, which is still mapped.
    device.release.send(true).unwrap();
    let answer = super::client::message_offset(0) + HIGH[3] + 0x800;
    super::client::eventually(|| {
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&memory, &mut byte, answer).unwrap();
        byte[0] == 0xee
    });
}

#[test]
fn hanging_up_ends_a_session_whatever_it_waits_for() {
    type Wait = fn(&mut Client);
    let waits: [Wait; 4] = [
        |_| {},
        |client| client.raw(&[1, 0, 0], &[]),
        |client| client.raw(&[2u32, VERSION, 8].map(u32::to_ne_bytes).concat(), &[]),
        |client| {
            client.put(0, 0, HIGH, b"held");
            client.device.wait_for_in_flight(1);
            client.send(Code::GET_VRING_BASE, &state(0, 0));
        },
    ];
    for wait in waits {
        let mut client = Client::running();
        wait(&mut client);
        std::thread::sleep(Duration::from_millis(20));
        client.closer.close();
        assert!(client.is_hung_up());
        client.device.release.send(true).unwrap();
        assert!(!client.leave().0.is_abandoned);
    }
}

#[test]
fn memory_that_is_truncated_stops_its_queue_and_nothing_else() {
    crate::mem::survive_truncation().unwrap();
    let mut client = Client::running();
    let error = super::client::event();
    assert_eq!(client.ack_fds(Code::SET_VRING_ERR, &words(&[0]), &[error.as_fd()]), 0);
    client.offer(0, 0, HIGH, b"gone");
    client.memory.set_len(HIGH[3]).unwrap();
    client.kick(0);
    super::client::eventually(|| rustix::io::read(&error, &mut [0; 8]) == Ok(8));
    client.put(0, 2, LOW, b"not taken any more");
    assert_eq!(client.get_base(0), 1);
    assert!(!client.leave().0.is_abandoned);
}
