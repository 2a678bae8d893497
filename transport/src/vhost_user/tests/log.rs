//! The dirty log.

use std::{collections::BTreeSet, fs::File, os::fd::AsFd, os::unix::fs::FileExt};

use vhost::vhost_user::message::FrontendReq as Code;

use super::client::{
    Client, FEATURES, HIGH, LOG_ALL, LOW, address, memfd, message_offset, ring, words,
};

/// Bytes of a log that has a bit for all of both regions.
const LOG: u64 = (HIGH[0] + HIGH[1]) / 4096 / 8;

fn give_log(client: &mut Client, file: &File, len: u64, offset: u64) {
    client.message(Code::SET_LOG_BASE as u32, 1, &words(&[len, offset]), &[file.as_fd()]);
    client.reply();
}

fn switch(client: &mut Client, features: u64) {
    assert_eq!(client.ack(Code::SET_FEATURES, &words(&[features])), 0);
}

/// The pages in the log, which is cleared.
fn pages(log: &File, offset: u64) -> BTreeSet<u64> {
    let mut bytes = vec![0; LOG as usize];
    log.read_exact_at(&mut bytes, offset).unwrap();
    log.write_all_at(&vec![0; bytes.len()], offset).unwrap();
    let is_set = |page: &u64| bytes[(page / 8) as usize] & 1 << (page % 8) != 0;
    (0..LOG * 8).filter(is_set).collect()
}

/// The page of the room of chain `head` in the high region.
fn room(head: u16) -> u64 {
    (HIGH[0] + message_offset(head) + 0x800) / 4096
}

#[test]
fn pages_are_logged_while_it_is_on() {
    let mut client = Client::running();
    let log = memfd(0x1000 + LOG);
    give_log(&mut client, &log, LOG, 0x1000);
    client.put(0, 0, HIGH, b"before it is on");
    client.wait_for_used(0, 1);
    assert!(pages(&log, 0x1000).is_empty());

    switch(&mut client, FEATURES | LOG_ALL);
    client.put(0, 2, HIGH, b"while it is on");
    client.wait_for_used(0, 2);
    assert_eq!(pages(&log, 0x1000), [room(2)].into());

    // Now writes to the ring itself, too.
    let used = ring(0) + 0x2000;
    assert_eq!(client.ack(Code::SET_VRING_ADDR, &address(0, Some(used))), 0);
    client.put(0, 4, HIGH, b"with the ring");
    client.wait_for_used(0, 3);
    // What is marked is marked before the queue has stopped.
    assert_eq!(client.get_base(0), 3);
    assert_eq!(pages(&log, 0x1000), [used / 4096, room(4)].into());
    assert_eq!(*client.device.starts.lock().unwrap(), [0]);

    switch(&mut client, FEATURES);
    client.set_up(0, 3);
    client.give_kick(0);
    client.put(0, 6, HIGH, b"when it is off again");
    client.wait_for_used(0, 4);
    assert!(pages(&log, 0x1000).is_empty());
}

#[test]
fn another_log_takes_over_while_a_message_is_in_flight() {
    let mut client = Client::running();
    let (first, second) = (memfd(LOG), memfd(LOG));
    give_log(&mut client, &first, LOG, 0);
    switch(&mut client, FEATURES | LOG_ALL);
    client.put(0, 0, HIGH, b"held");
    client.device.wait_for_in_flight(1);
    give_log(&mut client, &second, LOG, 0);
    client.device.release.send(true).unwrap();
    client.wait_for_used(0, 1);
    assert_eq!((pages(&first, 0), pages(&second, 0)), ([].into(), [room(0)].into()));
}

#[test]
fn pages_behind_the_end_of_a_log_are_left_out() {
    let mut client = Client::running();
    let log = memfd(0x2000);
    // All of the low region but its second half, and none of the high one.
    give_log(&mut client, &log, 16, 0);
    switch(&mut client, FEATURES | LOG_ALL);
    client.put(0, 0, HIGH, b"behind");
    client.put(0, 2, LOW, b"behind as well");
    client.wait_for_used(0, 2);
    let mut bytes = vec![0; 0x2000];
    log.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 0));
}

#[test]
fn a_log_that_is_too_short_ends_the_session() {
    let mut client = Client::running();
    let log = memfd(0x1000);
    client.message(Code::SET_LOG_BASE as u32, 1, &words(&[0x1001, 0]), &[log.as_fd()]);
    let line = client.ended().cause.unwrap().to_string();
    assert!(line.contains("SET_LOG_BASE") && line.contains("log"), "{line}");
}
