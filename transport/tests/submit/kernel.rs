//! A kernel that does not take operations of a ring for a while.
#![expect(unsafe_code, reason = "a seccomp listener is set up and asked by pointers")]

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    thread,
};

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JUMP, BPF_K, BPF_LD, BPF_RET, BPF_STMT, BPF_W,
    SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND,
    SECCOMP_RET_ALLOW, SECCOMP_RET_USER_NOTIF, SECCOMP_SET_MODE_FILTER,
    SECCOMP_USER_NOTIF_FLAG_CONTINUE, SYS_io_uring_enter, SYS_seccomp, seccomp_notif,
    seccomp_notif_resp, sock_filter, sock_fprog,
};

/// From now on, the first `times` calls of this thread that submit something get EAGAIN.
pub(crate) fn refuses_to_submit(times: u32) {
    rustix::thread::set_no_new_privs(true).unwrap();
    let listener = listen().unwrap();
    thread::spawn(move || {
        let mut left = times;
        // It fails when the thread is gone.
        while let Ok(call) = next(&listener) {
            let submits = call.data.args[1] > 0;
            let is_refused = submits && left > 0;
            left -= u32::from(is_refused);
            let _ = answer(&listener, call.id, is_refused);
        }
    });
}

/// Tells of each `io_uring_enter` of this thread before the kernel does it.
fn listen() -> io::Result<OwnedFd> {
    let load = (BPF_LD | BPF_W | BPF_ABS) as u16;
    let (equal, answer) = ((BPF_JMP | BPF_JEQ | BPF_K) as u16, (BPF_RET | BPF_K) as u16);
    // SAFETY: both only fill in a struct.
    let mut code: [sock_filter; 4] = unsafe {
        [
            // `seccomp_data::nr` comes first.
            BPF_STMT(load, 0),
            BPF_JUMP(equal, SYS_io_uring_enter as u32, 0, 1),
            BPF_STMT(answer, SECCOMP_RET_USER_NOTIF),
            BPF_STMT(answer, SECCOMP_RET_ALLOW),
        ]
    };
    let program = sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    // SAFETY: the program and its code live during the call, which copies them.
    let fd = unsafe {
        let flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
        libc::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just opened it, for us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn next(listener: &OwnedFd) -> io::Result<seccomp_notif> {
    // SAFETY: all zeros are one, and the kernel asks for that.
    let mut call: seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills in what is its to fill in.
    match unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) } {
        0 => Ok(call),
        _ => Err(io::Error::last_os_error()),
    }
}

fn answer(listener: &OwnedFd, id: u64, is_refused: bool) -> io::Result<()> {
    let (error, flags) =
        if is_refused { (-libc::EAGAIN, 0) } else { (0, SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32) };
    let mut answer = seccomp_notif_resp { id, val: 0, error, flags };
    // SAFETY: the kernel reads the answer during the call.
    match unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
