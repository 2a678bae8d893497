//! A ring of arbitrary bytes in memory of arbitrary bytes, which change while it is served: no chain leads
//! out of memory, and no message is answered in more room than it has.
#![no_main]

use std::{cell::RefCell, sync::Arc, time::Duration};

use fsrv_transport::{
    Completion, Config, Message, Transport,
    mem::GuestMap,
    virtqueue::{Call, QueueCompletion, QueueConfig, QueueControl, Setup, Virtqueue},
    vm_memory::{Bytes, GuestAddress, GuestMemoryMmap},
};
use futures::FutureExt;
use libfuzzer_sys::fuzz_target;
use rustix::event::{EventfdFlags, eventfd};
use tokio::runtime::{Builder, Runtime};

/// The first two regions touch.
const REGIONS: [(u64, usize); 3] = [(0, 0x2000), (0x2000, 0x2000), (0x5000, 0x1000)];

/// As a FUSE message has it.
const HEADER: [u8; 16] = [7; 16];

/// Bytes of the description that an input begins with.
const HEAD: usize = 12;

/// How often the queue is asked for a message.
const TURNS: usize = 200;

type Memory = GuestMemoryMmap<()>;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().unwrap();
    static MEMORY: Arc<Memory> = Arc::new(
        Memory::from_ranges(&REGIONS.map(|(start, len)| (GuestAddress(start), len))).unwrap(),
    );
}

// Where the ring is, what the memory holds, and then: what is changed before each turn.
fuzz_target!(|input: &[u8]| {
    let Some((head, rest)) = input.split_at_checked(HEAD) else { return };
    let memory = MEMORY.with(Arc::clone);
    let (content, changes) = rest.split_at(rest.len() / 4 * 3);
    fill(&memory, content);
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            if let Some((queue, control)) = queue(head, &memory) {
                serve(queue, &control, &memory, changes).await;
            }
        });
    });
});

/// Repeats `content` through the memory.
fn fill(memory: &Memory, content: &[u8]) {
    let zero = [0];
    let content = if content.is_empty() { &zero } else { content };
    for (start, len) in REGIONS {
        let bytes: Vec<u8> = content.iter().copied().cycle().take(len).collect();
        memory.write_slice(&bytes, GuestAddress(start)).unwrap();
    }
}

fn queue(head: &[u8], memory: &Arc<Memory>) -> Option<(Virtqueue, QueueControl)> {
    let word = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let place = |at: usize, align: u16| u64::from(word(at) & 0x7fff & !(align - 1));
    let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let setup = Setup {
        config: QueueConfig {
            size: 1 << (head[0] % 10),
            desc: place(2, 16),
            avail: place(4, 2),
            used: place(6, 4),
            event_idx: head[1] & 1 != 0,
            next_avail: word(8),
            next_used: (head[1] & 2 != 0).then_some(word(10)),
            used_log: None,
        },
        map: GuestMap::of(memory.clone()).unwrap(),
        kick,
        call: Some(Call::Function(Box::new(|| {}))),
        on_fault: None,
        protocol: Config { header_split: 80, reply_header: HEADER.len(), max_data: 4096, depth: 4 },
        poll: Duration::ZERO,
    };
    let (prepared, control) = setup.prepare().ok()?;
    Some((prepared.activate().unwrap(), control))
}

async fn serve(mut queue: Virtqueue, control: &QueueControl, memory: &Memory, changes: &[u8]) {
    let waiting = RefCell::new(Vec::new());
    let mut changes = changes.chunks_exact(4);
    for _ in 0..TURNS {
        let change = changes.next();
        if let Some(&[low, high, first, second]) = change {
            let at = GuestAddress(u64::from(u16::from_le_bytes([low, high]) & 0x7fff));
            // There may be nothing.
            let _ = memory.write_slice(&[first, second], at);
            control.look();
        }
        match queue.recv().now_or_never() {
            Some(Ok(Some(message))) => waiting.borrow_mut().push(message),
            Some(end) => panic!("{:?}", end.map(drop)),
            None if change.is_none() => break,
            None => {}
        }
        let how = change.map_or(0, |change| change[2]);
        if how % 3 != 0 {
            waiting.borrow_mut().drain(..).for_each(|message| answer(message, how));
        }
        queue.flush();
    }
    waiting.into_inner().into_iter().for_each(|message| answer(message, 1));
    queue.flush();
    control.stop();
    assert!(queue.recv().await.unwrap().is_none());
}

fn answer(message: Message<QueueCompletion>, how: u8) {
    let Message { mut input, mut output, completion } = message;
    let mut front = [0; 40];
    let len = input.len();
    if input.take_front(&mut front).is_ok() {
        assert_eq!(input.len() + front.len(), len);
    }
    assert_eq!(input.to_vec().len(), input.len());
    match how % 4 {
        0 => completion.discard(),
        // There may be too little room.
        1 => drop(completion.reply(&HEADER, &front, None)),
        _ => {
            let room = output.remaining();
            let data = vec![how; room.min(usize::from(how) * 8)];
            output.append(&data).expect("as much as there is room for");
            let data = output.finish();
            assert!(data.len() <= room);
            drop(completion.reply(&HEADER, &[], Some(data)));
        }
    }
}
