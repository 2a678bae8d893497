//! Reads and writes on both engines.

mod late;

use std::{
    fs::{self, OpenOptions},
    future::Future,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
    thread,
    time::Duration,
};

use fsrv_transport::{
    io::{
        Closer, Cost, File, SyncKind, WriteAt, aside, counters, fallocate, fsync, preadv2,
        pwritev2, read_part, run, write_part,
    },
    mem::{InBuf, NoSpace, OutBuf, Pool},
    testing::engines,
    worker::Worker,
};
use late::{BYTE, LateFile};
use rustix::fs::OFlags;

const DIRECT: i32 = OFlags::DIRECT.bits() as i32;
const EBADF: i32 = 9;
const EINVAL: i32 = 22;
const EFBIG: i32 = 27;

/// A directory for one test, and files in it.
struct Lab {
    dir: tempfile::TempDir,
    pool: Pool,
}

impl Lab {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, content: &[u8], options: &OpenOptions) -> File {
        fs::write(self.path(name), content).unwrap();
        open(&self.path(name), options)
    }

    fn room(&self, len: usize) -> OutBuf {
        OutBuf::new(&self.pool, len)
    }

    async fn read(&self, file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        preadv2(file, self.room(len), offset).await.map(|filled| filled.as_host_bytes().to_vec())
    }

    async fn write(&self, file: &File, offset: u64, data: &[u8]) -> io::Result<usize> {
        pwritev2(file, InBuf::copied(&self.pool, data), WriteAt::Offset(offset)).await
    }
}

fn open(path: &Path, options: &OpenOptions) -> File {
    let fd: OwnedFd = options.open(path).unwrap().into();
    File::new(fd, Arc::new(Cost::quick())).unwrap()
}

fn options(read: bool, write: bool, flags: i32) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(read).write(write).custom_flags(flags);
    options
}

/// Runs `test` on a worker of each engine.
fn on_both_engines(test: impl AsyncFn(Lab) + Copy + Send + 'static) {
    for engine in engines() {
        let worker = Worker { name: "test".into(), cpu: None, engine };
        // Beside the build, which is on a disk: tmpfs knows no O_DIRECT everywhere.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let main = move || async move {
            test(Lab { dir, pool: Pool::new() }).await;
            Ok(())
        };
        let thread = worker.spawn(|| Ok(()), main).unwrap();
        thread.join().unwrap_or_else(|_| panic!("with {engine}")).unwrap();
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 7 % 251) as u8).collect()
}

#[test]
fn what_runs_aside_lets_others_go_first_and_gives_its_result() {
    on_both_engines(async |_| {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let own = nice();
        let before = counters().pool();
        assert!(aside(nice).await.unwrap() > own);
        assert_eq!(counters().pool(), before + 1);
        assert_eq!(nice(), own);
        assert!(aside(|| panic!("on purpose")).await.is_err());
    });
}

#[test]
fn a_read_ends_where_the_file_does() {
    on_both_engines(async |lab: Lab| {
        let file = lab.file("f", &pattern(10_000), &options(true, false, 0));
        assert_eq!(lab.read(&file, 0, 20_000).await.unwrap(), pattern(10_000));
        assert_eq!(lab.read(&file, 9_999, 10).await.unwrap(), pattern(10_000)[9_999..]);
        assert_eq!(lab.read(&file, 10_000, 10).await.unwrap(), b"");
        assert_eq!(lab.read(&file, 1 << 40, 10).await.unwrap(), b"");
        assert_eq!(lab.read(&file, 5, 0).await.unwrap(), b"");
    });
}

/// The largest number would be "where the file is" to a ring.
#[test]
fn an_offset_that_no_file_has_is_einval() {
    on_both_engines(async |lab: Lab| {
        let einval = |result: io::Result<usize>| {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(EINVAL));
        };
        for flags in [0, DIRECT] {
            let file = lab.file("f", &pattern(8192), &options(true, true, flags));
            for at in [u64::MAX, u64::MAX - 4095, 1 << 63, (1 << 63) + 4096] {
                einval(lab.read(&file, at, 4096).await.map(|read| read.len()));
                einval(lab.read(&file, at, 0).await.map(|read| read.len()));
                einval(read_part(&file, lab.room(8192), 4096, at).await.map(|out| out.len()));
                einval(lab.write(&file, at, &[1; 4096]).await);
                einval(lab.write(&file, at, b"").await);
                let data = InBuf::copied(&lab.pool, &[1; 8192]);
                einval(write_part(&file, data, 4096, at).await.map(|(written, _)| written));
                einval(fallocate(&file, 0, at, 4096).await.map(|()| 0));
                einval(fallocate(&file, 0, 0, at).await.map(|()| 0));
            }
            let last = (i64::MAX as u64 & !4095) - 4096;
            assert_eq!(lab.read(&file, last, 4096).await.unwrap(), b"");
            let too_far = lab.write(&file, last, &[1; 4096]).await.unwrap_err();
            assert_eq!(too_far.raw_os_error(), Some(EFBIG));
        }
        assert_eq!(fs::read(lab.path("f")).unwrap(), pattern(8192));
    });
}

#[test]
fn a_hole_reads_as_zeros() {
    on_both_engines(async |lab: Lab| {
        let file = lab.file("f", b"", &options(true, true, 0));
        assert_eq!(lab.write(&file, 1 << 20, b"end").await.unwrap(), 3);
        let read = lab.read(&file, 0, 2 << 20).await.unwrap();
        assert_eq!(read.len(), (1 << 20) + 3);
        assert!(read[..1 << 20].iter().all(|&byte| byte == 0) && read.ends_with(b"end"));
    });
}

#[test]
fn a_buffer_is_read_and_written_in_parts() {
    on_both_engines(async |lab: Lab| {
        let one = lab.file("one", &pattern(5_000), &options(true, true, 0));
        let other = lab.file("other", &[7; 100], &options(true, true, 0));
        let out = read_part(&one, lab.room(12_000), 4_000, 1_000).await.unwrap();
        assert_eq!((out.len(), out.remaining()), (4_000, 8_000));
        // Past the end of the file: less than asked for.
        let mut out = read_part(&other, out, 1_000, 50).await.unwrap();
        assert_eq!((out.len(), out.remaining()), (4_050, 7_950));
        out.append_zeroes(7_000).unwrap();
        assert_eq!(out.append_zeroes(951), Err(NoSpace));
        let read = out.finish().as_host_bytes().to_vec();
        assert_eq!(read, [&pattern(5_000)[1_000..], &[7; 50], &[0; 7_000]].concat());

        let data = InBuf::copied(&lab.pool, &pattern(3_000));
        let (written, data) = write_part(&one, data, 1_000, 0).await.unwrap();
        assert_eq!((written, data.len()), (1_000, 2_000));
        let (written, data) = write_part(&other, data, 5_000, 10).await.unwrap();
        assert_eq!((written, data.len()), (2_000, 0));
        assert_eq!(lab.read(&other, 10, 9_000).await.unwrap(), pattern(3_000)[1_000..]);
    });
}

#[test]
fn what_is_written_is_read() {
    on_both_engines(async |lab: Lab| {
        let file = lab.file("f", b"", &options(true, true, 0));
        for (offset, len) in [(0, 1), (1, 4095), (4096, 1 << 20), (1 << 21, 100_000)] {
            assert_eq!(lab.write(&file, offset, &pattern(len)).await.unwrap(), len);
            assert_eq!(lab.read(&file, offset, len).await.unwrap(), pattern(len));
        }
        fsync(&file, SyncKind::Data).await.unwrap();
        fsync(&file, SyncKind::All).await.unwrap();
    });
}

#[test]
fn a_direct_read_and_write_land_in_their_buffers() {
    on_both_engines(async |lab: Lab| {
        let file = lab.file("f", &pattern(10_000), &options(true, true, DIRECT));
        assert!(file.is_direct());
        let before = counters().inline();
        assert_eq!(lab.read(&file, 0, 16_384).await.unwrap(), pattern(10_000));
        assert_eq!(lab.read(&file, 4096, 4096).await.unwrap(), pattern(10_000)[4096..8192]);
        assert_eq!(lab.read(&file, 12_288, 4096).await.unwrap(), b"");
        assert_eq!(lab.write(&file, 4096, &pattern(8192)).await.unwrap(), 8192);
        assert_eq!(lab.read(&file, 4096, 8192).await.unwrap(), pattern(8192));
        assert_eq!(counters().inline(), before, "O_DIRECT never runs on the worker's thread");
    });
}

#[test]
fn a_write_that_waits_for_the_disk_never_runs_on_the_workers_thread() {
    on_both_engines(async |lab: Lab| {
        let cost = Arc::new(Cost::quick_writes());
        let file = |flags| {
            let fd = options(true, true, flags).create(true).open(lab.path("f")).unwrap();
            File::new(fd.into(), cost.clone()).unwrap()
        };
        let before = counters().inline();
        for flags in [OFlags::SYNC, OFlags::DSYNC] {
            let file = file(flags.bits().cast_signed());
            for at in 0..20 {
                assert_eq!(lab.write(&file, at * 4096, &pattern(4096)).await.unwrap(), 4096);
            }
        }
        assert_eq!(counters().inline(), before);
        // Nor do ordinary writes to that mount pay for them.
        lab.write(&file(0), 0, &pattern(4096)).await.unwrap();
        assert_eq!(counters().inline(), before + 1);
    });
}

#[test]
fn what_is_slow_one_time_in_twenty_soon_leaves_the_workers_thread_alone() {
    on_both_engines(async |_| {
        let (cost, here) = (Arc::new(Cost::quick()), thread::current().id());
        let mut stalls = 0;
        for nth in 0..1000 {
            let is_slow = nth % 20 == 19;
            let call = move || {
                if is_slow {
                    thread::sleep(Duration::from_millis(2));
                }
                thread::current().id()
            };
            let thread = run(&cost, call).await.unwrap();
            stalls += usize::from(is_slow && thread == here);
        }
        assert!(stalls < 10, "{stalls} of 50 stalls on the worker's thread");
    });
}

#[test]
fn a_direct_operation_off_the_grid_is_refused_or_right() {
    on_both_engines(async |lab: Lab| {
        let file = lab.file("f", &pattern(8192), &options(true, true, DIRECT));
        match lab.read(&file, 1, 512).await {
            Ok(read) => assert_eq!(read, pattern(8192)[1..513]),
            Err(error) => assert_eq!(error.raw_os_error(), Some(EINVAL)),
        }
        match lab.write(&file, 3, b"odd").await {
            Ok(written) => assert_eq!(written, 3),
            Err(error) => assert_eq!(error.raw_os_error(), Some(EINVAL)),
        }
    });
}

#[test]
fn an_append_goes_to_the_end_whatever_its_offset() {
    on_both_engines(async |lab: Lab| {
        fs::write(lab.path("f"), b"begin ").unwrap();
        let file = open(&lab.path("f"), OpenOptions::new().append(true));
        assert_eq!(lab.write(&file, 0, b"middle ").await.unwrap(), 7);
        assert_eq!(lab.write(&file, 1, b"end").await.unwrap(), 3);
        assert_eq!(fs::read(lab.path("f")).unwrap(), b"begin middle end");
    });
}

#[test]
fn an_error_of_the_kernel_is_the_result() {
    on_both_engines(async |lab: Lab| {
        let errno = |result: io::Result<usize>| result.unwrap_err().raw_os_error();
        let write_only = lab.file("w", b"data", &options(false, true, 0));
        assert_eq!(errno(lab.read(&write_only, 0, 4).await.map(|read| read.len())), Some(EBADF));
        let read_only = lab.file("r", b"data", &options(true, false, 0));
        assert_eq!(errno(lab.write(&read_only, 0, b"data").await), Some(EBADF));
        assert_eq!(fallocate(&read_only, 0, 0, 1).await.unwrap_err().raw_os_error(), Some(EBADF));
        let direct = lab.file("d", b"data", &options(false, true, DIRECT));
        assert_eq!(errno(lab.read(&direct, 0, 4096).await.map(|read| read.len())), Some(EBADF));
        let both = lab.file("b", b"data", &options(true, true, DIRECT));
        // The last one means "where the file is" to io_uring.
        for far in [1 << 63, u64::MAX - 10, u64::MAX] {
            for file in [&read_only, &both] {
                let read = lab.read(file, far, 4096).await;
                assert_eq!(errno(read.map(|read| read.len())), Some(EINVAL));
            }
            assert_eq!(errno(lab.write(&both, far, &[7; 4096]).await), Some(EINVAL));
        }
        assert_eq!(fs::read(lab.path("b")).unwrap(), b"data");
    });
}

/// Polls `operation` until `late` has it.
async fn until_in_flight(late: &LateFile, operation: Pin<&mut impl Future>) {
    let mut operation = operation;
    wait_until("in flight", || {
        assert!(operation.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        late.is_asked()
    })
    .await;
}

async fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never {what}");
}

#[test]
fn a_reader_that_is_gone_leaves_its_buffer_to_the_kernel() {
    on_both_engines(async |lab: Lab| {
        let late = LateFile::new();
        let file = late.open();
        assert_eq!(lab.read(&file, 0, 4096).await.unwrap(), [BYTE; 4096]);
        assert_eq!(lab.pool.idle_bytes(), 4096);

        late.hold();
        let mut read = Box::pin(preadv2(&file, lab.room(4096), 4096));
        until_in_flight(&late, read.as_mut()).await;
        drop(read);
        drop(file);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(lab.pool.idle_bytes(), 0, "the kernel may still write there");
        // Buffers taken meanwhile are not the one that is lent.
        let others: Vec<_> = (0..8).map(|_| InBuf::copied(&lab.pool, &[7; 4096])).collect();
        assert!(late.is_asked());

        late.go_on();
        wait_until("given back", || lab.pool.idle_bytes() == 4096).await;
        assert!(others.iter().all(|buffer| buffer.to_vec() == [7; 4096]));
    });
}

#[test]
fn a_write_whose_writer_is_gone_still_happens_with_its_data() {
    on_both_engines(async |lab: Lab| {
        let late = LateFile::new();
        let file = late.open();
        assert_eq!(lab.write(&file, 0, &[1; 4096]).await.unwrap(), 4096);

        late.hold();
        let data = InBuf::copied(&lab.pool, &pattern(4096));
        let mut write = Box::pin(pwritev2(&file, data, WriteAt::Offset(4096)));
        until_in_flight(&late, write.as_mut()).await;
        drop(write);
        drop(file);
        tokio::time::sleep(Duration::from_millis(5)).await;
        let _others: Vec<_> = (0..8).map(|_| InBuf::copied(&lab.pool, &[7; 4096])).collect();
        assert_eq!(late.written(), [1; 4096]);

        late.go_on();
        wait_until("written", || late.written() == pattern(4096)).await;
        wait_until("given back", || lab.pool.idle_bytes() == 4096).await;
    });
}

#[test]
fn a_file_closes_after_its_last_clone() {
    on_both_engines(async |lab: Lab| {
        let file = lab.file("f", &pattern(8192), &options(true, false, DIRECT));
        let clone = file.clone();
        drop(file);
        assert_eq!(lab.read(&clone, 0, 4096).await.unwrap(), pattern(4096));
        drop(clone);
        // A pool thread may hold its clone a moment longer than its result.
        for _ in 0..100 {
            if open_descriptors(&lab.path("f")) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the descriptor stays open");
    });
}

/// Descriptors of this process that are open on `path`.
fn open_descriptors(path: &Path) -> usize {
    let fds = fs::read_dir("/proc/self/fd").unwrap();
    fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()).filter(|target| target == path).count()
}

#[test]
fn fallocate_changes_the_space_of_a_file() {
    on_both_engines(async |lab: Lab| {
        let file = lab.file("f", b"data", &options(true, true, 0));
        fallocate(&file, 0, 0, 8192).await.unwrap();
        assert_eq!(fs::metadata(lab.path("f")).unwrap().len(), 8192);
        const KEEP_SIZE_AND_PUNCH_HOLE: u32 = 3;
        fallocate(&file, KEEP_SIZE_AND_PUNCH_HOLE, 0, 4096).await.unwrap();
        let mut head = [1; 4];
        fs::File::open(lab.path("f")).unwrap().read_exact_at(&mut head, 0).unwrap();
        assert_eq!(head, [0; 4]);
    });
}

/// A little filesystem of its own, which is full but for what `dir` has.
struct Full {
    dir: tempfile::TempDir,
}

impl Full {
    const SIZE: usize = 4 << 20;

    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={}", Self::SIZE)).unwrap();
        rustix::mount::mount(
            "test",
            dir.path(),
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .expect("these tests run as root");
        Self { dir }
    }

    /// A file without a name that takes all of the room.
    fn fill(&self) -> fs::File {
        let path = self.dir.path().join("large");
        fs::write(&path, vec![b'x'; Self::SIZE]).unwrap();
        let file = fs::File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        file
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        // A test that panics already says more.
        let _ = rustix::mount::unmount(self.dir.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// Closes a file late.
struct Late(#[expect(dead_code, reason = "it is only closed")] fs::File);

impl Drop for Late {
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_finds_no_room_waits_for_what_is_being_freed_and_for_nothing_else() {
    on_both_engines(async |lab| {
        let full = Full::new();
        let large = full.fill();
        let closer = Arc::new(Closer::new());
        let open = |name: &str| {
            let file = options(true, true, 0).create(true).open(full.dir.path().join(name));
            let file = File::new(file.unwrap().into(), Arc::new(Cost::quick())).unwrap();
            file.waiting_for(closer.clone())
        };
        let (written, allocated) = (open("written"), open("allocated"));
        let errno = |error: io::Error| error.raw_os_error();
        assert_eq!(
            lab.write(&written, 0, &[1; 8192]).await.map_err(errno),
            Err(Some(libc::ENOSPC))
        );
        assert_eq!(fallocate(&allocated, 0, 0, 8192).await.map_err(errno), Err(Some(libc::ENOSPC)));

        closer.close(Late(large));
        assert_eq!(lab.write(&written, 0, &[1; 8192]).await.map_err(errno), Ok(8192));
        let large = {
            fallocate(&allocated, 0, 0, (Full::SIZE - 8192) as u64).await.unwrap();
            fs::remove_file(full.dir.path().join("allocated")).unwrap();
            Late(fs::File::open(format!("/proc/self/fd/{}", allocated.as_raw_fd())).unwrap())
        };
        drop(allocated);
        let allocated = open("again");
        closer.close(large);
        assert_eq!(fallocate(&allocated, 0, 0, 8192).await.map_err(errno), Ok(()));
    });
}
