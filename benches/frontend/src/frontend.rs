//! The control half of vhost-user: negotiation, memory, rings, the dirty log.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};
use zerocopy::IntoBytes;

use crate::error::{Error, Result};
use crate::log::DirtyLog;
use crate::memory::Region;
use crate::queue::Queue;
use crate::socket::Socket;
use crate::vhost_user::{
    ConfigAccess, Log, MemoryTable, NO_FD, Request, SingleRegion, U64, VRING_LOG, VringAddr,
    VringState, feature, protocol_feature,
};

/// What a front-end asks for; it gets what the back-end offers of it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Of [`feature`].
    pub features: u64,
    /// Of [`protocol_feature`].
    pub protocol: u64,
}

/// A negotiated connection.
#[derive(Debug)]
pub struct Frontend {
    socket: Socket,
    offered: u64,
    features: u64,
    protocol: u64,
    regions: Vec<Arc<Region>>,
}

/// A virtio-fs device's configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsConfig {
    /// The name under which a guest mounts it, without padding.
    pub tag: Vec<u8>,
    /// How many request queues it has.
    pub request_queues: u32,
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted {
            features: feature::VERSION_1
                | feature::EVENT_IDX
                | feature::INDIRECT_DESC
                | feature::PROTOCOL_FEATURES,
            protocol: protocol_feature::MQ
                | protocol_feature::REPLY_ACK
                | protocol_feature::CONFIG
                | protocol_feature::CONFIGURE_MEM_SLOTS
                | protocol_feature::LOG_SHMFD
                | protocol_feature::RESET_DEVICE,
        }
    }
}

impl Frontend {
    /// Connects and negotiates.
    pub fn connect(path: &Path, wanted: Wanted) -> Result<Self> {
        Self::negotiate(Socket::connect(path)?, wanted)
    }

    /// Negotiates on a connected stream.
    pub fn from_stream(stream: UnixStream, wanted: Wanted) -> Result<Self> {
        Self::negotiate(Socket::new(stream)?, wanted)
    }

    /// Negotiates in the order in which QEMU does.
    pub fn negotiate(mut socket: Socket, wanted: Wanted) -> Result<Self> {
        let U64(offered) = socket.ask(Request::GetFeatures, &[0u8; 0], &[])?;
        let features = offered & wanted.features;
        if features & feature::VERSION_1 == 0 {
            return Err(Error::Protocol("the back-end does not offer VERSION_1".into()));
        }
        let mut protocol = 0;
        if features & feature::PROTOCOL_FEATURES != 0 {
            let U64(offered) = socket.ask(Request::GetProtocolFeatures, &[0u8; 0], &[])?;
            protocol = offered & wanted.protocol;
            socket.send(Request::SetProtocolFeatures, &U64(protocol), &[])?;
            socket.acknowledged = protocol & protocol_feature::REPLY_ACK != 0;
        }
        socket.send(Request::SetOwner, &[0u8; 0], &[])?;
        let mut frontend = Frontend { socket, offered, features, protocol, regions: Vec::new() };
        frontend.set_features(features)?;
        Ok(frontend)
    }

    /// The device's features as negotiated.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The device's features as offered.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// The protocol's features as negotiated.
    pub fn protocol(&self) -> u64 {
        self.protocol
    }

    /// Whether all of these device features were negotiated.
    pub fn has(&self, features: u64) -> bool {
        self.features & features == features
    }

    /// The connection, for messages that no front-end should send.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Changes the features, as a front-end does to switch LOG_ALL on and off.
    pub fn set_features(&mut self, features: u64) -> Result<()> {
        self.socket.send(Request::SetFeatures, &U64(features), &[])?;
        self.features = features;
        Ok(())
    }

    /// How many queues the back-end can serve.
    pub fn queue_limit(&self) -> Result<u64> {
        let U64(limit) = self.socket.ask(Request::GetQueueNum, &[0u8; 0], &[])?;
        Ok(limit)
    }

    /// How many regions the back-end can hold.
    pub fn memory_slots(&self) -> Result<u64> {
        let U64(slots) = self.socket.ask(Request::GetMaxMemSlots, &[0u8; 0], &[])?;
        Ok(slots)
    }

    /// Reads bytes of the configuration space.
    pub fn config(&self, offset: u32, size: u32) -> Result<Vec<u8>> {
        let head = ConfigAccess { offset, size, flags: 0 };
        let mut body = head.as_bytes().to_vec();
        body.resize(body.len() + size as usize, 0);
        self.socket.send_message(Request::GetConfig, 0, &body, &[])?;
        let mut answer = self.socket.answer(Request::GetConfig)?.body;
        if answer.len() != body.len() {
            let got = answer.len();
            return Err(Error::Protocol(format!("GET_CONFIG of {size} bytes gave {got}")));
        }
        Ok(answer.split_off(size_of::<ConfigAccess>()))
    }

    /// Reads the whole configuration space.
    pub fn fs_config(&self) -> Result<FsConfig> {
        const TAG: usize = 36;
        let bytes = self.config(0, TAG as u32 + 4)?;
        let (tag, queues) = bytes.split_at(TAG);
        let length = tag.iter().position(|byte| *byte == 0).unwrap_or(TAG);
        let request_queues = queues.try_into().map_or(0, u32::from_le_bytes);
        Ok(FsConfig { tag: tag[..length].to_vec(), request_queues })
    }

    /// Makes these regions the whole of guest memory.
    pub fn set_memory(&mut self, regions: &[Arc<Region>]) -> Result<()> {
        let table = MemoryTable { regions: regions.len() as u32, padding: 0 };
        let mut body = table.as_bytes().to_vec();
        regions.iter().for_each(|region| body.extend(region.describe().as_bytes()));
        let fds: Vec<BorrowedFd<'_>> = regions.iter().map(|region| region.fd()).collect();
        self.socket.send(Request::SetMemTable, body.as_slice(), &fds)?;
        self.regions = regions.to_vec();
        Ok(())
    }

    /// The regions that the back-end was told of.
    pub fn regions(&self) -> &[Arc<Region>] {
        &self.regions
    }

    /// Adds a region.
    pub fn add_region(&mut self, region: &Arc<Region>) -> Result<()> {
        let body = SingleRegion { padding: 0, region: region.describe() };
        self.socket.send(Request::AddMemReg, &body, &[region.fd()])?;
        self.regions.push(Arc::clone(region));
        Ok(())
    }

    /// Takes a region away.
    pub fn remove_region(&mut self, region: &Arc<Region>) -> Result<()> {
        let body = SingleRegion { padding: 0, region: region.describe() };
        self.socket.send(Request::RemMemReg, &body, &[])?;
        self.regions.retain(|kept| !Arc::ptr_eq(kept, region));
        Ok(())
    }

    /// Describes a ring to the back-end and starts it where the queue stands, enabled.
    pub fn start_queue(&self, index: u32, queue: &mut Queue) -> Result<()> {
        queue.bell_mut().watch(self.socket.stream().as_fd())?;
        let num = u32::from(queue.size());
        self.socket.send(Request::SetVringNum, &VringState { index, num }, &[])?;
        self.set_ring_address(index, queue)?;
        let base = VringState { index, num: queue.used_index().into() };
        self.socket.send(Request::SetVringBase, &base, &[])?;
        self.set_call(index, Some(queue.call_fd()))?;
        self.set_kick(index, Some(queue.kick_fd()))?;
        if self.has(feature::PROTOCOL_FEATURES) {
            self.enable_queue(index, true)?;
        }
        Ok(())
    }

    /// Tells where a ring lies, and whether writes to it are logged.
    pub fn set_ring_address(&self, index: u32, queue: &Queue) -> Result<()> {
        let ring = queue.ring();
        let address = VringAddr {
            index,
            flags: if self.has(feature::LOG_ALL) { VRING_LOG } else { 0 },
            descriptors: Region::user_address(ring.descriptors),
            used: Region::user_address(ring.used),
            available: Region::user_address(ring.available),
            log: ring.used,
        };
        self.socket.send(Request::SetVringAddr, &address, &[])
    }

    /// Sets or takes away the eventfd of calls.
    pub fn set_call(&self, index: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.set_eventfd(Request::SetVringCall, index, fd)
    }

    /// Sets or takes away the eventfd of kicks.
    pub fn set_kick(&self, index: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.set_eventfd(Request::SetVringKick, index, fd)
    }

    fn set_eventfd(&self, request: Request, index: u32, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let body = U64(u64::from(index) | if fd.is_none() { NO_FD } else { 0 });
        self.socket.send(request, &body, fd.as_slice())
    }

    /// Enables or disables a ring.
    pub fn enable_queue(&self, index: u32, enabled: bool) -> Result<()> {
        let state = VringState { index, num: enabled.into() };
        self.socket.send(Request::SetVringEnable, &state, &[])
    }

    /// Stops a ring. The answer is the index at which it can be started again.
    pub fn stop_queue(&self, index: u32) -> Result<u16> {
        let state = VringState { index, num: 0 };
        let answer: VringState = self.socket.ask(Request::GetVringBase, &state, &[])?;
        u16::try_from(answer.num)
            .ok()
            .filter(|_| answer.index == index)
            .ok_or_else(|| Error::Protocol(format!("{answer:?} is no base of ring {index}")))
    }

    /// Resets the device.
    pub fn reset_device(&self) -> Result<()> {
        self.socket.send(Request::ResetDevice, &[0u8; 0], &[])
    }

    /// Gives the back-end a log of `pages` pages. Nothing is logged before LOG_ALL is set.
    pub fn set_log(&self, pages: u64) -> Result<DirtyLog> {
        let size = pages.div_ceil(8).next_multiple_of(4096);
        let file = memfd_create(c"log", MemfdFlags::CLOEXEC)
            .map_err(Error::io("cannot make a dirty log"))?;
        let log = DirtyLog::new(file.into(), size)?;
        let body = Log { mmap_size: size, mmap_offset: 0 };
        let fd = [log.fd()];
        self.socket.send_message(Request::SetLogBase, 0, body.as_bytes(), &fd)?;
        self.socket.answer(Request::SetLogBase)?;
        Ok(log)
    }
}
