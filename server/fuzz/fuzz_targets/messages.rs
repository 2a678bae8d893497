//! Messages of arbitrary bytes: each has exactly one outcome, and none a panic.
#![no_main]

use fsrv::{
    Context, Errno, FileSystem, Limits, NodeId, Result, Session,
    abi::{fuse_init_in, fuse_out_header},
    op::*,
    serve,
    testing::{ask, header_of},
};
use fsrv_transport::{
    mem::Filled,
    testing::{MemClient, Outcome},
};
use libfuzzer_sys::fuzz_target;

/// Answers what carries data, and nothing else.
struct Echo;

impl FileSystem for Echo {
    async fn readlink(&self, _: &Context, mut op: ReadLink) -> Result<Filled> {
        op.out.append(b"target").map_err(|_| Errno::ERANGE)?;
        Ok(op.out.finish())
    }

    async fn read(&self, _: &Context, mut op: Read) -> Result<Filled> {
        op.out.append(b"data").map_err(|_| Errno::EIO)?;
        Ok(op.out.finish())
    }

    async fn write(&self, _: &Context, op: Write) -> Result<u32> {
        Ok(u32::try_from(op.data.to_vec().len()).unwrap_or(u32::MAX))
    }

    async fn readdir(&self, _: &Context, mut op: ReadDir) -> Result<DirBuf> {
        op.entries.push(1, 1, 4, b"name").map_err(|_| Errno::EINVAL)?;
        Ok(op.entries)
    }

    async fn ioctl(&self, _: &Context, mut op: Ioctl<'_>) -> Result<Ioctled> {
        op.out.append(op.input).map_err(|_| Errno::EIO)?;
        Ok(Ioctled { result: 0, data: op.out.finish() })
    }
}

// The first byte of each message is its length, and the second its room for data in units of 64.
fuzz_target!(|input: &[u8]| {
    let client = MemClient::new();
    let session = Session::new(Echo, Limits::default());
    let served = serve(client.transport(4), &session);
    let talk = async {
        let init = fuse_init_in { major: 7, minor: 45, flags: u32::MAX, ..Default::default() };
        client.send(&ask(26, NodeId(0)).arg(&init).bytes(2), 0).await;
        let mut rest = input;
        while let [len, room, tail @ ..] = rest {
            let (message, behind) = tail.split_at(tail.len().min(usize::from(*len)));
            rest = behind;
            match client.send(message, usize::from(*room) * 64).await {
                Outcome::Replied(reply) => {
                    let fuse_out_header { len, error, .. } = header_of(&reply);
                    assert_eq!(len as usize, reply.len());
                    assert!((-511..=0).contains(&error));
                }
                Outcome::Discarded => {}
                other => panic!("{other:?}"),
            }
        }
        client.hang_up();
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { futures::join!(served, talk).0 }).unwrap();
    assert!(client.violations().is_empty());
});
