//! Messages and their answers.

use super::driver::{BORDER, DATA, Driver, GAP, INDIRECT, NEXT, REPLY_HEADER, WRITE};
use crate::{
    io::{Cost, File, WriteAt, preadv2, pwritev2},
    transport::{Completion, Message, Transport},
    virtqueue::QueueCompletion,
};

#[tokio::test]
async fn a_message_is_received_and_its_answer_seen_when_it_is_flushed() {
    let (mut driver, mut queue) = Driver::new(true);
    driver.send(0, b"ask", 64);
    let message = next(&mut queue).await;
    assert_eq!((message.input.to_vec(), message.output.remaining()), (b"ask".to_vec(), 48));
    message.completion.reply(b"sixteen bytes...", b"fixed", None).unwrap();
    assert_eq!(driver.used(), 0);
    queue.flush();
    assert_eq!((driver.used(), driver.answer(0)), (1, (0, 21)));
    assert_eq!(driver.reply(0, 21), b"sixteen bytes...fixed");
}

#[tokio::test]
async fn answers_come_in_the_order_in_which_they_are_given() {
    let (mut driver, mut queue) = Driver::new(false);
    driver.send(0, b"first", 64);
    driver.send(2, b"second", 64);
    let (first, second) = (next(&mut queue).await, next(&mut queue).await);
    second.completion.reply(&[2; 16], b"", None).unwrap();
    first.completion.discard();
    queue.flush();
    assert_eq!((driver.answer(0), driver.answer(1)), ((2, 16), (0, 0)));
}

#[tokio::test]
async fn any_framing_is_taken_byte_by_byte_and_across_regions() {
    let (mut driver, mut queue) = Driver::new(true);
    let table = DATA + 0x8000;
    let text = b"a message in pieces of every size";
    let mut at = DATA + 1;
    let mut descs = Vec::new();
    for (index, piece) in text.chunks(3).enumerate() {
        vm_memory::Bytes::write_slice(&*driver.memory, piece, vm_memory::GuestAddress(at)).unwrap();
        descs.push((at, piece.len() as u32, NEXT, index as u16 + 1));
        at += 7;
    }
    // Room that crosses a border between regions, and then some more, in odd pieces.
    for (from, len) in [(BORDER - 5, 9), (DATA + 0x9001, 13), (DATA + 0xa003, 40)] {
        descs.push((from, len, NEXT | WRITE, descs.len() as u16 + 1));
    }
    descs.last_mut().unwrap().2 = WRITE;
    for (index, desc) in descs.iter().enumerate() {
        driver.describe_at(table + index as u64 * 16, *desc);
    }
    driver.describe(3, (table, descs.len() as u32 * 16, INDIRECT, 0));
    driver.offer(3);
    let mut message = next(&mut queue).await;
    assert_eq!(message.input.to_vec(), text);
    let mut head = [0; 10];
    message.input.take_front(&mut head).unwrap();
    message.input.advance(3);
    message.input.truncate(9);
    assert_eq!((&head[..], message.input.to_vec()), (&text[..10], text[13..22].to_vec()));
    message.output.append(b"and an answer, ").unwrap();
    message.output.append(b"the same").unwrap();
    message.completion.reply(&[b'h'; 16], b"", Some(message.output.finish())).unwrap();
    queue.flush();
    let answer = [
        driver.bytes(BORDER - 5, 9),
        driver.bytes(DATA + 0x9001, 13),
        driver.bytes(DATA + 0xa003, 17),
    ];
    assert_eq!(answer.concat(), b"hhhhhhhhhhhhhhhhand an answer, the same");
    assert_eq!(driver.answer(0), (3, 39));
}

#[tokio::test]
async fn data_behind_a_fixed_part_lies_behind_it() {
    let (mut driver, mut queue) = Driver::new(true);
    driver.send(0, b"ask", 100);
    let mut message = next(&mut queue).await;
    message.output.append(b"data").unwrap();
    message.completion.reply(&[b'h'; 16], b"fixed", Some(message.output.finish())).unwrap();
    queue.flush();
    assert_eq!(driver.reply(0, 25), b"hhhhhhhhhhhhhhhhfixeddata");
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_not_given() {
    let (mut driver, mut queue) = Driver::new(true);
    driver.send(0, b"ask", 20);
    let message = next(&mut queue).await;
    let refused = message.completion.reply(&[1; 16], &[2; 5], None).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::NotFound);
    queue.flush();
    assert_eq!((driver.answer(0), driver.reply(0, 20)), ((0, 0), vec![0; 20]));
}

#[tokio::test]
async fn files_are_read_and_written_in_the_guests_memory_without_a_copy() {
    let (mut driver, mut queue) = Driver::new(true);
    let file = file(b"0123456789abcdef");
    let bounced = crate::io::counters().bounced();
    driver.send(0, b"to be written", 16 + 10);
    let mut message = next(&mut queue).await;
    message.input.advance(6);
    assert_eq!(pwritev2(&file, message.input, WriteAt::Offset(2)).await.unwrap(), 7);
    let filled = preadv2(&file, message.output, 1).await.unwrap();
    assert_eq!((filled.len(), filled.as_host_bytes()), (10, &b""[..]));
    message.completion.reply(&[b'h'; 16], b"", Some(filled)).unwrap();
    queue.flush();
    assert_eq!(&driver.reply(0, 26)[REPLY_HEADER..], b"1written9a");
    assert_eq!(crate::io::counters().bounced(), bounced);
}

#[tokio::test]
async fn o_direct_is_given_memory_that_it_takes_and_nothing_else_is_mended() {
    // On the disk: a tmpfs takes any memory.
    let path = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    let content: Vec<u8> = (0..8192u32).map(|at| (at % 251) as u8).collect();
    std::fs::write(path.path(), &content).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::DIRECT;
    let file = rustix::fs::open(path.path(), flags, rustix::fs::Mode::empty()).unwrap();
    let file = File::new(file, Cost::quick().into()).unwrap();
    let (mut driver, mut queue) = Driver::new(true);
    let start = crate::io::counters().bounced();
    let bounced = || crate::io::counters().bounced() - start;
    let room = DATA + 0x8000;

    // The data begins behind the header: at byte 16, then at a page.
    for (at, copied) in [(room + 1, 4096), (room + 4096 - 16, 4096)] {
        driver.describe(0, (at, 16 + 4096, WRITE, 0));
        driver.offer(0);
        let message = next(&mut queue).await;
        let filled = preadv2(&file, message.output, 4096).await.unwrap();
        message.completion.reply(&[0; 16], b"", Some(filled)).unwrap();
        assert_eq!(driver.bytes(at + 16, 4096), content[4096..]);
        assert_eq!(bounced(), copied);
    }

    driver.describe(0, (room + 1, 16 + 4096, WRITE, 0));
    driver.offer(0);
    let message = next(&mut queue).await;
    let refused = preadv2(&file, message.output, 1).await.err().expect("no place in the file");
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
    message.completion.discard();

    driver.describe(0, (room + 3, 4096, 0, 0));
    driver.offer(0);
    let message = next(&mut queue).await;
    let written = driver.bytes(room + 3, 4096);
    assert_eq!(pwritev2(&file, message.input, WriteAt::Offset(0)).await.unwrap(), 4096);
    message.completion.discard();
    assert_eq!(std::fs::read(path.path()).unwrap()[..4096], written);
    assert_eq!(bounced(), 8192);
}

#[tokio::test]
async fn what_was_written_or_may_have_been_is_marked_dirty() {
    let (mut driver, mut queue) = Driver::new(true);
    // Room over four pages, of which the kernel is given three.
    let room = GAP + 0x2000;
    driver.describe(0, (DATA, 3, NEXT, 1));
    driver.describe(1, (room, 0x4000, WRITE, 0));
    driver.offer(0);
    let message = next(&mut queue).await;
    driver.newly_dirty();
    let empty = file(b"");
    let filled = preadv2(&empty, message.output.limited(0x2800), 0).await.unwrap();
    message.completion.reply(&[1; 16], b"", Some(filled)).unwrap();
    assert_eq!(driver.newly_dirty(), pages(room, 3));
    queue.flush();
    assert_eq!(driver.newly_dirty(), [2], "the used ring");
}

fn pages(start: u64, count: u64) -> Vec<u64> {
    (start / 4096..start / 4096 + count).collect()
}

async fn next(queue: &mut crate::virtqueue::Virtqueue) -> Message<QueueCompletion> {
    queue.recv().await.unwrap().expect("a message")
}

fn file(content: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, content, 0).unwrap();
    File::new(file.into(), Cost::quick().into()).unwrap()
}
