//! Nothing can be changed.

use fsrv_transport::mem::Filled;

use crate::{
    context::Context,
    errno::{Errno, Result},
    fs::{FileSystem, Stats},
    init::Init,
    op::*,
    types::*,
};

/// Answers EROFS to every operation that would change the filesystem below.
pub struct ReadOnly<F>(pub F);

macro_rules! forward {
    (
        operations { $( $code:literal $name:ident, $request:ident $(<$r:lifetime>)? => $method:ident
            -> $reply:ty as $encoded:ty [$effect:ident $(, $once:ident)?]; )* }
        forms { $($forms:tt)* }
        session { $($own:tt)* }
    ) => {
        impl<F: FileSystem> FileSystem for ReadOnly<F> {
            fn init(&self, init: &mut Init) {
                self.0.init(init);
            }

            fn destroy(&self) {
                self.0.destroy();
            }

            fn forget(&self, nodeid: NodeId, nlookup: u64) {
                self.0.forget(nodeid, nlookup);
            }

            fn stats(&self) -> Stats {
                self.0.stats()
            }

            $( async fn $method $(<$r>)? (&self, cx: &Context, op: $request $(<$r>)?)
                -> Result<$reply> {
                if op.changes() {
                    return Err(Errno::EROFS);
                }
                self.0.$method(cx, op).await
            } )*
        }

        $( forward!(@changes $name $request $(<$r>)?); )*
    };
    // An open may change or not.
    (@changes Open $request:ident) => {
        impl Changes for $request {
            fn changes(&self) -> bool {
                self.writes() || self.truncates()
            }
        }
    };
    // Flags of files can be read; whatever else there is might change something.
    (@changes Ioctl $request:ident <$r:lifetime>) => {
        impl<$r> Changes for $request<$r> {
            fn changes(&self) -> bool {
                !self.reads_flags()
            }
        }
    };
    (@changes $name:ident $request:ident $(<$r:lifetime>)?) => {
        impl $(<$r>)? Changes for $request $(<$r>)? {
            fn changes(&self) -> bool {
                Opcode::$name.changes()
            }
        }
    };
}

/// Whether a request would change the filesystem.
trait Changes {
    fn changes(&self) -> bool;
}

each_operation!(forward);
