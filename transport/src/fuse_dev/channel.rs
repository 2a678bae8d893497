//! Messages of one `/dev/fuse` descriptor.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use rustix::io::{Errno, read, writev};
use tokio::io::{Interest, unix::AsyncFd};

use super::Device;
use crate::{
    mem::{Filled, InBuf, OutBuf, PAGE, Pool},
    transport::{Completion, Config, Message, Notifier, Transport},
};

/// One descriptor of a mount as a [`Transport`].
///
/// It has the messages of its worker only in so far as the kernel gives any reader of the mount any
/// message: all workers wake up, and the first one takes it.
pub struct FuseTransport {
    device: AsyncFd<Arc<Device>>,
    config: Config,
    pool: Pool,
}

impl FuseTransport {
    /// A transport for the runtime of the calling thread, with buffers of `pool`.
    ///
    /// # Errors
    /// When epoll does not take the descriptor.
    ///
    /// # Panics
    /// Outside a Tokio runtime, and when a header would not fit into the page before its data.
    pub fn new(device: Device, config: Config, pool: Pool) -> io::Result<Self> {
        assert!(config.header_split <= PAGE, "the header has one page, before the data");
        // The kernel reports an unmount as an error only: without that interest nobody would wake up.
        let interest = Interest::READABLE | Interest::ERROR;
        // SAFETY: an `Arc<Device>` is the same open descriptor until it is dropped.
        let device = unsafe { AsyncFd::register_with_interest(Arc::new(device), interest) }?;
        Ok(Self { device, config, pool })
    }

    /// Takes a message if there is one.
    fn try_recv(&self) -> Result<Message<FuseCompletion>, Errno> {
        let mut memory = self.pool.take(PAGE + self.config.max_data);
        let start = PAGE - self.config.header_split;
        let end = PAGE + self.config.max_data;
        let device = self.device.get_ref();
        let len = read(device, &mut memory.pages_mut().as_mut_slice()[start..end])?;
        Ok(Message {
            input: InBuf::new(memory, start, start + len),
            output: OutBuf::new(&self.pool, self.config.max_data),
            completion: FuseCompletion(device.clone()),
        })
    }
}

impl Transport for FuseTransport {
    type Completion = FuseCompletion;

    fn depth(&self) -> usize {
        self.config.depth
    }

    async fn recv(&mut self) -> io::Result<Option<Message<FuseCompletion>>> {
        loop {
            // A busy client has the next request ready more often than not, and the look costs a
            // tenth of a turn of the runtime.
            match self.try_recv() {
                Ok(message) => return Ok(Some(message)),
                Err(Errno::AGAIN) => {
                    self.device.ready(Interest::READABLE | Interest::ERROR).await?.clear_ready();
                }
                // A request that was interrupted before anybody read it is gone.
                Err(Errno::INTR | Errno::NOENT) => {}
                // Unmounted, or aborted through /sys/fs/fuse.
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn notifier(&self) -> Option<Arc<dyn Notifier>> {
        Some(Arc::new(DeviceNotifier(self.device.get_ref().clone())))
    }

    fn trim(&mut self) -> bool {
        self.pool.trim()
    }
}

/// Answers one request on the descriptor that it came from.
pub struct FuseCompletion(Arc<Device>);

impl Completion for FuseCompletion {
    fn reply(self, header: &[u8], fixed: &[u8], data: Option<Filled>) -> io::Result<()> {
        let data = data.as_ref().map_or(&[][..], Filled::as_host_bytes);
        send(&self.0, &[IoSlice::new(header), IoSlice::new(fixed), IoSlice::new(data)])
    }

    fn discard(self) {}
}

struct DeviceNotifier(Arc<Device>);

impl Notifier for DeviceNotifier {
    fn notify(&self, parts: &[&[u8]]) -> io::Result<()> {
        let parts: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        send(&self.0, &parts)
    }
}

/// Writes one message, which the kernel takes whole or not at all.
fn send(device: &Device, parts: &[IoSlice<'_>]) -> io::Result<()> {
    // ENOENT, "nobody waits for this", is `NotFound` by itself.
    writev(device, parts)?;
    Ok(())
}
