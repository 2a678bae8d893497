//! The vhost-user protocol's messages, as the QEMU document "Vhost-user Protocol" numbers and lays them out.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A message's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "the specification documents them")]
pub enum Request {
    GetFeatures = 1,
    SetFeatures = 2,
    SetOwner = 3,
    ResetOwner = 4,
    SetMemTable = 5,
    SetLogBase = 6,
    SetLogFd = 7,
    SetVringNum = 8,
    SetVringAddr = 9,
    SetVringBase = 10,
    GetVringBase = 11,
    SetVringKick = 12,
    SetVringCall = 13,
    SetVringErr = 14,
    GetProtocolFeatures = 15,
    SetProtocolFeatures = 16,
    GetQueueNum = 17,
    SetVringEnable = 18,
    SendRarp = 19,
    NetSetMtu = 20,
    SetBackendReqFd = 21,
    IotlbMsg = 22,
    SetVringEndian = 23,
    GetConfig = 24,
    SetConfig = 25,
    CreateCryptoSession = 26,
    CloseCryptoSession = 27,
    PostcopyAdvise = 28,
    PostcopyListen = 29,
    PostcopyEnd = 30,
    GetInflightFd = 31,
    SetInflightFd = 32,
    GpuSetSocket = 33,
    ResetDevice = 34,
    VringKick = 35,
    GetMaxMemSlots = 36,
    AddMemReg = 37,
    RemMemReg = 38,
    SetStatus = 39,
    GetStatus = 40,
    GetSharedObject = 41,
    SetDeviceStateFd = 42,
    CheckDeviceState = 43,
}

/// Feature bits of the device.
pub mod feature {
    /// Writes to guest memory are logged.
    pub const LOG_ALL: u64 = 1 << 26;
    /// A chain may be a table in guest memory.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Notifications are asked for by index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// vhost-user's own features are negotiated.
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    /// Little endian, as virtio 1.0 says.
    pub const VERSION_1: u64 = 1 << 32;
}

/// Feature bits of the protocol.
#[expect(missing_docs, reason = "the specification documents them")]
pub mod protocol_feature {
    pub const MQ: u64 = 1 << 0;
    pub const LOG_SHMFD: u64 = 1 << 1;
    pub const REPLY_ACK: u64 = 1 << 3;
    pub const BACKEND_REQ: u64 = 1 << 5;
    pub const CONFIG: u64 = 1 << 9;
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    pub const RESET_DEVICE: u64 = 1 << 13;
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    pub const DEVICE_STATE: u64 = 1 << 19;
}

/// The version that every message carries.
pub const VERSION: u32 = 1;
/// Set in a reply.
pub const FLAG_REPLY: u32 = 1 << 2;
/// Asks for a reply where there would be none.
pub const FLAG_NEED_REPLY: u32 = 1 << 3;
/// In the message that passes a ring's eventfd: there is none.
pub const NO_FD: u64 = 1 << 8;
/// In [`VringAddr`]: writes to the used ring are logged.
pub const VRING_LOG: u32 = 1;

/// The head of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// A [`Request`], or anything else.
    pub request: u32,
    /// Version and flags.
    pub flags: u32,
    /// Bytes that follow.
    pub size: u32,
}

/// A number.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct U64(pub u64);

/// A ring, and a number of it: size, base, enabled or not.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the specification documents them")]
pub struct VringState {
    pub index: u32,
    pub num: u32,
}

/// Where a ring lies, in the front-end's addresses.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the specification documents them")]
pub struct VringAddr {
    pub index: u32,
    pub flags: u32,
    pub descriptors: u64,
    pub used: u64,
    pub available: u64,
    pub log: u64,
}

/// A region of guest memory.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the specification documents them")]
pub struct MemoryRegion {
    pub guest_address: u64,
    pub size: u64,
    pub user_address: u64,
    pub mmap_offset: u64,
}

/// The head of a table of regions.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the specification documents them")]
pub struct MemoryTable {
    pub regions: u32,
    pub padding: u32,
}

/// One region, to be added or removed.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the specification documents them")]
pub struct SingleRegion {
    pub padding: u64,
    pub region: MemoryRegion,
}

/// The dirty log.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the specification documents them")]
pub struct Log {
    pub mmap_size: u64,
    pub mmap_offset: u64,
}

/// The head of an access to the configuration space.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the specification documents them")]
pub struct ConfigAccess {
    pub offset: u32,
    pub size: u32,
    pub flags: u32,
}
