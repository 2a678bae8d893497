//! The operation table: one line an operation.
//!
//! It makes the opcodes, the decoding, the dispatch, the names for logs and metrics, what a layer
//! must know of an operation, and the object-safe mirror of [`FileSystem`].

use async_trait::async_trait;
use fsrv_transport::mem::Filled;

use super::{
    args::Args,
    decode::Decode,
    dir::{DirBuf, DirPlusBuf},
    reply::{Answer, Encode, Events, Ioctled, Mapped, OpenedDir, Xattr},
    request::*,
};
use crate::{
    context::Context,
    errno::{Errno, Result},
    fs::{FileSystem, Stats},
    init::Init,
    types::{Attributes, Created, Entry, FileLock, NodeId, Opened, StatFs, Statx},
};

/// Calls `$then` with the table.
///
/// An operation is `code Name, Request => method -> Reply as Encoded [properties]`: it `reads` or
/// `changes` the filesystem, and `once` says that doing it twice is not the same as doing it once.
/// A form is another code of an operation, and the session's own messages reach no method.
macro_rules! each_operation {
    ($then:ident) => { $then! {
        operations {
            1 Lookup, Lookup<'r> => lookup -> Entry as Entry [reads, once];
            3 GetAttr, GetAttr => getattr -> Attributes as Attributes [reads];
            4 SetAttr, SetAttr => setattr -> Attributes as Attributes [changes];
            5 ReadLink, ReadLink => readlink -> Filled as Filled [reads];
            6 Symlink, Symlink<'r> => symlink -> Entry as Entry [changes, once];
            8 MkNod, MkNod<'r> => mknod -> Entry as Entry [changes, once];
            9 MkDir, MkDir<'r> => mkdir -> Entry as Entry [changes, once];
            10 Unlink, Unlink<'r> => unlink -> () as () [changes, once];
            11 RmDir, RmDir<'r> => rmdir -> () as () [changes, once];
            12 Rename, Rename<'r> => rename -> () as () [changes, once];
            13 Link, Link<'r> => link -> Entry as Entry [changes, once];
            14 Open, Open => open -> Opened as Opened [reads, once];
            15 Read, Read => read -> Filled as Filled [reads];
            16 Write, Write => write -> u32 as u32 [changes, once];
            17 StatFs, GetStatFs => statfs -> StatFs as StatFs [reads];
            18 Release, Release => release -> () as () [reads, once];
            20 Fsync, Fsync => fsync -> () as () [reads];
            21 SetXattr, SetXattr<'r> => setxattr -> () as () [changes, once];
            22 GetXattr, GetXattr<'r> => getxattr -> Xattr as Xattr [reads];
            23 ListXattr, ListXattr => listxattr -> Xattr as Xattr [reads];
            24 RemoveXattr, RemoveXattr<'r> => removexattr -> () as () [changes, once];
            25 Flush, Flush => flush -> () as () [reads, once];
            27 OpenDir, OpenDir => opendir -> Opened as OpenedDir [reads, once];
            28 ReadDir, ReadDir => readdir -> DirBuf as DirBuf [reads];
            29 ReleaseDir, ReleaseDir => releasedir -> () as () [reads, once];
            30 FsyncDir, FsyncDir => fsyncdir -> () as () [reads];
            31 GetLk, GetLk => getlk -> FileLock as FileLock [reads];
            32 SetLk, SetLk => setlk -> () as () [reads, once];
            34 Access, Access => access -> () as () [reads];
            35 Create, Create<'r> => create -> Created as Created [changes, once];
            37 Bmap, Bmap => bmap -> Mapped as Mapped [reads];
            39 Ioctl, Ioctl<'r> => ioctl -> Ioctled as Ioctled [changes, once];
            40 Poll, PollEvents => poll -> Events as Events [reads];
            43 Fallocate, Fallocate => fallocate -> () as () [changes];
            44 ReadDirPlus, ReadDirPlus => readdirplus -> DirPlusBuf as DirPlusBuf [reads, once];
            46 Lseek, Lseek => lseek -> u64 as u64 [reads];
            47 CopyFileRange, CopyFileRange => copy_file_range -> u64 as u64 [changes, once];
            48 SetupMapping, SetupMapping => setupmapping -> () as () [reads];
            49 RemoveMapping, RemoveMapping<'r> => removemapping -> () as () [reads];
            50 SyncFs, SyncFs => syncfs -> () as () [reads];
            51 TmpFile, TmpFile => tmpfile -> Created as Created [changes, once];
            52 Statx, GetStatx => statx -> Statx as Statx [reads];
        }
        forms {
            33 SetLkW of SetLk;
            45 Rename2 of Rename;
            53 CopyFileRange64 of CopyFileRange;
            // No code on the wire: a client that did not take FUSE_SETXATTR_EXT.
            0x8000_0015 SetXattrCompat of SetXattr;
        }
        session {
            2 Forget => forget;
            26 Init => init;
            36 Interrupt => interrupt;
            38 Destroy => destroy;
            41 NotifyReply => notify_reply;
            42 BatchForget => batch_forget;
        }
    } };
}
pub(crate) use each_operation;

macro_rules! define {
    (
        operations { $( $code:literal $name:ident, $request:ident $(<$r:lifetime>)? => $method:ident
            -> $reply:ty as $encoded:ty [$effect:ident $(, $once:ident)?]; )* }
        forms { $( $form_code:literal $form:ident of $of:ident; )* }
        session { $( $own_code:literal $own:ident => $own_name:ident; )* }
    ) => {
        /// What a message asks for.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u32)]
        #[expect(missing_docs, reason = "the names of the protocol")]
        pub enum Opcode {
            $( $name = $code, )* $( $form = $form_code, )* $( $own = $own_code, )*
        }

        impl Opcode {
            /// All of them.
            pub const ALL: &[Self] = &[
                $( Self::$name, )* $( Self::$form, )* $( Self::$own, )*
            ];

            /// The opcode with this code on the wire.
            pub fn from_code(code: u32) -> Option<Self> {
                match code {
                    $( $code => Some(Self::$name), )*
                    $( $form_code => Some(Self::$form), )*
                    $( $own_code => Some(Self::$own), )*
                    _ => None,
                }
            }

            /// Its name in logs and metrics.
            pub fn name(self) -> &'static str {
                match self {
                    $( Self::$name => stringify!($method), )*
                    $( Self::$form => Self::$of.name(), )*
                    $( Self::$own => stringify!($own_name), )*
                }
            }

            /// Whether a message of it is answered by nothing, when all is well.
            pub(crate) fn has_no_answer(self) -> bool {
                matches!(self, Self::Forget | Self::BatchForget | Self::Interrupt | Self::NotifyReply)
            }

            /// Whether it changes the filesystem whatever its arguments are.
            pub fn changes(self) -> bool {
                match self {
                    $( Self::$name => define!(@changes $effect), )*
                    $( Self::$form => Self::$of.changes(), )*
                    $( Self::$own => false, )*
                }
            }

            /// Whether doing it twice is the same as doing it once.
            pub fn is_idempotent(self) -> bool {
                match self {
                    $( Self::$name => define!(@idempotent $($once)?), )*
                    $( Self::$form => Self::$of.is_idempotent(), )*
                    $( Self::$own => false, )*
                }
            }
        }

        /// A decoded request for the filesystem.
        #[expect(missing_docs, reason = "a variant an operation")]
        pub enum Operation<'r> { $( $name($request $(<$r>)?), )* }

        impl<'r> Operation<'r> {
            /// Reads the arguments of `opcode`.
            ///
            /// # Errors
            /// ENOSYS for the session's own messages; what the request's form violates.
            pub(crate) fn decode(
                opcode: Opcode,
                nodeid: NodeId,
                args: &mut Args<'r>,
            ) -> Result<Self> {
                match opcode {
                    $( Opcode::$name => Decode::decode(opcode, nodeid, args).map(Self::$name), )*
                    $( Opcode::$form => Decode::decode(opcode, nodeid, args).map(Self::$of), )*
                    $( Opcode::$own => Err(Errno::ENOSYS), )*
                }
            }

            /// Has `fs` do it.
            pub(crate) async fn call<F: FileSystem>(self, fs: &F, cx: &Context) -> Result<Answer> {
                match self { $(
                    Self::$name(request) => {
                        let reply = fs.$method(cx, request).await?;
                        Ok(<$encoded>::from(reply).encode())
                    }
                )* }
            }
        }

        /// The object-safe mirror of [`FileSystem`]: every filesystem is one, at the price of an
        /// allocation a request.
        #[async_trait(?Send)]
        #[expect(missing_docs, reason = "see FileSystem")]
        pub trait DynFileSystem: Send + Sync {
            fn dyn_init(&self, init: &mut Init);
            fn dyn_destroy(&self);
            fn dyn_forget(&self, nodeid: NodeId, nlookup: u64);
            fn dyn_stats(&self) -> Stats;
            $( async fn $method $(<$r>)? (&self, cx: &Context, request: $request $(<$r>)?)
                -> Result<$reply>; )*
        }

        #[async_trait(?Send)]
        impl<F: FileSystem> DynFileSystem for F {
            fn dyn_init(&self, init: &mut Init) {
                self.init(init);
            }

            fn dyn_destroy(&self) {
                self.destroy();
            }

            fn dyn_forget(&self, nodeid: NodeId, nlookup: u64) {
                self.forget(nodeid, nlookup);
            }

            fn dyn_stats(&self) -> Stats {
                self.stats()
            }

            $( async fn $method $(<$r>)? (&self, cx: &Context, request: $request $(<$r>)?)
                -> Result<$reply> {
                FileSystem::$method(self, cx, request).await
            } )*
        }

        /// A filesystem chosen at run time.
        pub struct Boxed(pub Box<dyn DynFileSystem>);

        impl FileSystem for Boxed {
            fn init(&self, init: &mut Init) {
                self.0.dyn_init(init);
            }

            fn destroy(&self) {
                self.0.dyn_destroy();
            }

            fn forget(&self, nodeid: NodeId, nlookup: u64) {
                self.0.dyn_forget(nodeid, nlookup);
            }

            fn stats(&self) -> Stats {
                self.0.dyn_stats()
            }

            $( async fn $method $(<$r>)? (&self, cx: &Context, request: $request $(<$r>)?)
                -> Result<$reply> {
                self.0.$method(cx, request).await
            } )*
        }
    };
    (@changes reads) => { false };
    (@changes changes) => { true };
    (@idempotent once) => { false };
    (@idempotent) => { true };
}

each_operation!(define);
