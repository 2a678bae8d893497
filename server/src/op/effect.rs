//! What a request does, where its operation alone does not say.

use super::request::{Ioctl, Open};

const O_RDONLY: u32 = 0;
const O_ACCMODE: u32 = 3;
const O_TRUNC: u32 = 0o1000;

/// `FS_IOC_GETFLAGS` and `FS_IOC_FSGETXATTR` of `<linux/fs.h>`.
const GET_FLAGS: u32 = 0x8008_6601;
const GET_XFLAGS: u32 = 0x801c_581f;
/// `FS_IOC_MEASURE_VERITY` of `<linux/fsverity.h>`.
const MEASURE_VERITY: u32 = 0xc004_6686;

impl Open {
    /// Whether this open changes the file.
    pub fn truncates(&self) -> bool {
        self.flags & O_TRUNC != 0
    }

    /// Whether the handle may be written to.
    pub fn writes(&self) -> bool {
        self.flags & O_ACCMODE != O_RDONLY
    }
}

impl Ioctl<'_> {
    /// Whether it asks for the flags that a file has (`lsattr(1)`), or its fs-verity digest, which changes nothing.
    pub fn reads_flags(&self) -> bool {
        matches!(self.cmd, GET_FLAGS | GET_XFLAGS | MEASURE_VERITY)
    }
}
