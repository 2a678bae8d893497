//! Features, the configuration space, and owners.

use std::sync::atomic::Ordering;

use vhost::vhost_user::message::FrontendReq as Code;

use super::{
    client::{Client, FEATURES, LOG_ALL, LOW, NEED_REPLY, PROTOCOL, VERSION, words},
    device::QUEUES,
};
use crate::vhost_user::{Error, Refusal};

#[test]
fn what_is_offered() {
    let mut client = Client::connect();
    client.send(Code::SET_OWNER, &[]);
    assert_eq!(client.ask(Code::GET_FEATURES), FEATURES | LOG_ALL);
    assert_eq!(client.ask(Code::GET_PROTOCOL_FEATURES), PROTOCOL);
    client.send(Code::SET_PROTOCOL_FEATURES, &words(&[PROTOCOL]));
    assert_eq!(client.ask(Code::GET_QUEUE_NUM), u64::from(QUEUES));
    assert_eq!(client.ask(Code::GET_MAX_MEM_SLOTS), 509);
    let (ended, device) = client.leave();
    assert!(ended.cause.is_none() && !ended.is_abandoned);
    assert_eq!(device.resets.load(Ordering::SeqCst), 1);
}

#[test]
fn features_that_were_not_offered_end_the_session() {
    let mut client = Client::ready();
    client.message(Code::SET_FEATURES as u32, VERSION, &words(&[1 << 40]), &[]);
    let Some(Error::Refused { cause, .. }) = client.ended().cause else { panic!("it goes on") };
    assert!(matches!(cause, Refusal::Features(unknown) if unknown == 1 << 40), "{cause}");
}

#[test]
fn the_configuration_is_read_in_parts_and_is_zero_behind_its_end() {
    let mut client = Client::ready();
    for (offset, size) in [(0, 40), (36, 4), (38, 8), (200, 56), (0, 1), (0, 4000)] {
        let fields = [offset, size, 0].map(u32::to_ne_bytes).concat();
        client.send(Code::GET_CONFIG, &[&fields[..], &vec![0xff; size as usize]].concat());
        let reply = client.reply();
        let all = (1..=40).chain(std::iter::repeat(0));
        let part: Vec<u8> = all.skip(offset as usize).take(size as usize).collect();
        assert_eq!((&reply[..12], &reply[12..]), (&fields[..], &part[..]));
    }
}

#[test]
fn the_configuration_cannot_be_written_and_the_session_goes_on() {
    let mut client = Client::ready();
    let body = [&[0u32, 4, 0].map(u32::to_ne_bytes).concat()[..], &[1, 2, 3, 4]].concat();
    client.message(Code::SET_CONFIG as u32, VERSION | NEED_REPLY, &body, &[]);
    assert_ne!(super::client::number(&client.reply()), 0);
    assert_eq!(client.ask(Code::GET_QUEUE_NUM), u64::from(QUEUES));
}

#[test]
fn the_device_is_reset_when_nothing_is_in_flight_and_starts_again() {
    let mut client = Client::running();
    client.put(0, 0, LOW, b"before");
    client.wait_for_used(0, 1);
    assert_eq!(client.ack(Code::RESET_DEVICE, &[]), 0);
    assert_eq!(client.device.resets.load(Ordering::SeqCst), 1);
    client.offer(0, 2, LOW, b"after");
    client.kick(0);
    // The driver goes on where it was: it is the front-end that tells where to begin.
    client.set_up(0, 1);
    client.give_kick(0);
    assert_eq!(client.enable(0, 1), 0);
    client.wait_for_used(0, 2);
    assert!(client.is_echoed(2, LOW, b"after"));
}

#[test]
fn reset_owner_disables_all_queues_and_keeps_what_they_are() {
    let mut client = Client::running();
    assert_eq!(client.ack(Code::RESET_OWNER, &[]), 0);
    client.put(0, 0, LOW, b"later");
    assert_eq!(client.ask(Code::GET_QUEUE_NUM), u64::from(QUEUES));
    assert_eq!(client.used(0), 0);
    assert_eq!(client.enable(0, 1), 0);
    client.wait_for_used(0, 1);
}
