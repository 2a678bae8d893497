//! Extended attributes, ACLs among them.

use std::{ffi::CStr, io, os::fd::AsFd};

use fsrv::{
    Context, Errno, Result,
    op::{GetXattr, ListXattr, RemoveXattr, SetXattr, Xattr},
};
use fsrv_transport::mem::OutBuf;

use crate::{
    filesystem::Passthrough,
    inode::Inode,
    shared::Shared,
    sys::{
        creds::{Caller, keeping_suid},
        meta,
        stat::Stat,
        xattr,
    },
};

const TRUSTED: &[u8] = b"trusted.";
const ACCESS_ACL: &CStr = c"system.posix_acl_access";

pub(crate) async fn set(fs: &Passthrough, cx: &Context, op: SetXattr<'_>) -> Result<()> {
    let inode = fs.shared().inode(op.nodeid)?;
    let (name, value) = (op.name.to_owned(), op.value.to_vec());
    let (file, flags, kill_sgid) = (inode.clone(), op.flags, op.kill_sgid);
    let caller = Caller::of(cx);
    fs.run_with_room(cx, &inode, move |shared| {
        let fd = shared.path_fd(&file)?;
        let taker = file.mount.reserve.taker(caller, value.len() as u64, &fd);
        let set = || taker.run(|| xattr::set(shared.proc_fd(), &fd, &name, &value, flags));
        if *name != *ACCESS_ACL {
            return set();
        }
        // The kernel clears sgid for whoever is not in the file's group, which the server seldom is:
        // the client's kernel has decided.
        keeping_suid(set)?;
        if kill_sgid { clear_sgid(shared, &file) } else { Ok(()) }
    })
    .await
}

fn clear_sgid(shared: &Shared, inode: &Inode) -> io::Result<()> {
    let fd = shared.path_fd(inode)?;
    let mode = Stat::of(&fd)?.attr.mode & 0o7777;
    if mode & 0o2000 == 0 {
        return Ok(());
    }
    keeping_suid(|| meta::chmod(shared.proc_fd(), fd.as_fd(), mode & !0o2000))
}

pub(crate) async fn get(fs: &Passthrough, cx: &Context, op: GetXattr<'_>) -> Result<Xattr> {
    let inode = fs.shared().inode(op.nodeid)?;
    let (name, file) = (op.name.to_owned(), inode.clone());
    let room = op.out.as_ref().map_or(0, OutBuf::remaining);
    let value = fs
        .run(cx, &inode, move |shared| {
            let fd = shared.path_fd(&file)?;
            read(room, |value| xattr::get(shared.proc_fd(), &fd, &name, value))
        })
        .await?;
    reply(op.out, value)
}

pub(crate) async fn list(fs: &Passthrough, cx: &Context, op: ListXattr) -> Result<Xattr> {
    // A request does not carry capabilities; root is taken to have CAP_SYS_ADMIN.
    let shows_trusted = cx.uid == 0;
    let inode = fs.shared().inode(op.nodeid)?;
    let file = inode.clone();
    let room = op.out.as_ref().map_or(0, OutBuf::remaining);
    let names = fs
        .run(cx, &inode, move |shared| {
            let fd = shared.path_fd(&file)?;
            let names = list_all(shared, &fd)?;
            let names = if shows_trusted { names } else { without_trusted(&names) };
            fit(room, names)
        })
        .await?;
    reply(op.out, names)
}

fn list_all(shared: &Shared, fd: impl AsFd) -> io::Result<Vec<u8>> {
    let mut names = vec![0; xattr::list(shared.proc_fd(), &fd, &mut [])?];
    if !names.is_empty() {
        let len = xattr::list(shared.proc_fd(), &fd, &mut names)?;
        names.truncate(len);
    }
    Ok(names)
}

/// Without those that only a privileged caller may know of.
fn without_trusted(names: &[u8]) -> Vec<u8> {
    let shown = names.split_inclusive(|&byte| byte == 0).filter(|name| !name.starts_with(TRUSTED));
    shown.flatten().copied().collect()
}

/// `names`, if they fit into `room`; their size alone when there is none.
fn fit(room: usize, names: Vec<u8>) -> io::Result<Value> {
    match room {
        0 => Ok(Value::Size(names.len())),
        room if room < names.len() => Err(io::Error::from_raw_os_error(libc::ERANGE)),
        _ => Ok(Value::Bytes(names)),
    }
}

pub(crate) async fn remove(fs: &Passthrough, cx: &Context, op: RemoveXattr<'_>) -> Result<()> {
    let inode = fs.shared().inode(op.nodeid)?;
    let (name, file) = (op.name.to_owned(), inode.clone());
    fs.run(cx, &inode, move |shared| xattr::remove(shared.proc_fd(), shared.path_fd(&file)?, &name))
        .await
}

/// The longest value (`XATTR_SIZE_MAX`) and list of names (`XATTR_LIST_MAX`), in bytes.
const SIZE_MAX: usize = 64 << 10;

/// A value, or only how long it is.
enum Value {
    Size(usize),
    Bytes(Vec<u8>),
}

fn read(room: usize, get: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<Value> {
    let mut bytes = vec![0; room.min(SIZE_MAX)];
    let len = get(&mut bytes)?;
    if room == 0 {
        return Ok(Value::Size(len));
    }
    bytes.truncate(len);
    Ok(Value::Bytes(bytes))
}

fn reply(out: Option<OutBuf>, value: Value) -> Result<Xattr> {
    match (out, value) {
        (Some(mut out), Value::Bytes(bytes)) => {
            out.append(&bytes).map_err(|_| Errno::ERANGE)?;
            Ok(Xattr::Value(out.finish()))
        }
        (_, Value::Size(len)) => Ok(Xattr::Size(u32::try_from(len).map_err(|_| Errno::E2BIG)?)),
        (None, Value::Bytes(bytes)) => {
            Ok(Xattr::Size(u32::try_from(bytes.len()).map_err(|_| Errno::E2BIG)?))
        }
    }
}
