//! Raw bytes in, raw bytes out.

use fsrv::{
    FileSystem, Limits, NodeId, Session,
    abi::*,
    serve,
    testing::{Call, ask, header_of},
};
use fsrv_transport::testing::{MemClient, Outcome};

/// A session with one client, from its begin to its end.
pub(crate) struct Wire<F> {
    session: Session<F>,
    /// Offered in INIT; `None` for no INIT at all.
    flags: Option<u64>,
}

impl<F: FileSystem> Wire<F> {
    pub(crate) fn new(fs: F) -> Self {
        Self { session: Session::new(fs, Limits::default()), flags: Some(u64::MAX) }
    }

    pub(crate) fn offering(fs: F, flags: u64) -> Self {
        Self { flags: Some(flags), ..Self::new(fs) }
    }

    pub(crate) fn before_init(fs: F) -> Self {
        Self { flags: None, ..Self::new(fs) }
    }

    pub(crate) fn session(&self) -> &Session<F> {
        &self.session
    }

    /// Sends messages, each with its room for reply data, one after the other.
    pub(crate) fn send_all(&self, messages: &[(Vec<u8>, usize)]) -> Vec<Outcome> {
        let client = MemClient::new();
        let served = serve(client.transport(4), &self.session);
        let talk = async {
            if let Some(flags) = self.flags {
                let init = init_bytes(7, 45, flags);
                assert!(matches!(client.send(&init, 0).await, Outcome::Replied(_)));
            }
            let mut outcomes = Vec::new();
            for (message, room) in messages {
                outcomes.push(client.send(message, *room).await);
            }
            client.hang_up();
            outcomes
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (ended, outcomes) = runtime.block_on(async { futures::join!(served, talk) });
        ended.unwrap();
        assert_eq!(client.violations(), [""; 0]);
        outcomes
    }

    pub(crate) fn send(&self, message: &[u8], room: usize) -> Outcome {
        self.send_all(&[(message.to_vec(), room)]).remove(0)
    }

    pub(crate) fn call(&self, call: &Call) -> Outcome {
        self.send(&call.bytes(UNIQUE), call.reply_room())
    }

    /// The errno of the reply, 0 for success.
    pub(crate) fn errno(&self, call: &Call) -> i32 {
        errno(&self.call(call))
    }
}

/// The unique of the requests that tests send.
pub(crate) const UNIQUE: u64 = 0x0102_0304_0506_0708;

pub(crate) fn init_bytes(major: u32, minor: u32, flags: u64) -> Vec<u8> {
    let init = fuse_init_in {
        major,
        minor,
        max_readahead: 1 << 17,
        // The low and the high half.
        flags: flags as u32,
        flags2: (flags >> 32) as u32,
        ..Default::default()
    };
    ask(26, NodeId(0)).arg(&init).bytes(UNIQUE)
}

/// The errno of a reply that is nothing but its header, or 0 for success.
pub(crate) fn errno(outcome: &Outcome) -> i32 {
    let Outcome::Replied(bytes) = outcome else { panic!("no reply: {outcome:?}") };
    let header = header_of(bytes);
    assert_eq!(header.len as usize, bytes.len());
    assert!(header.error == 0 || bytes.len() == 16, "an error with a body");
    -header.error
}
