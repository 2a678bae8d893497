//! When something has changed.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use super::alike;
use super::sys::Mapping;

type Step = fn(&Path);

const SIZE: usize = 64 << 10;

/// Longer than a tick of the kernel's clock.
const TICK: Duration = Duration::from_millis(30);

#[test]
fn a_write_through_a_mapping_is_a_change_once_synced() {
    alike(|dir| {
        let (path, file) = new_file(dir);
        let before = times(&path);
        sleep(TICK);
        let mut mapping = Mapping::new(&file, SIZE).unwrap();
        mapping.write(5000, b'y');
        mapping.sync().unwrap();
        let after = times(&path);
        (before.0 < after.0, before.1 < after.1, fs::read(&path).unwrap()[5000])
    });
}

#[test]
fn a_write_through_a_mapping_is_a_change_once_it_is_gone() {
    alike(|dir| {
        let (path, file) = new_file(dir);
        let before = times(&path);
        sleep(TICK);
        let mut mapping = Mapping::new(&file, SIZE).unwrap();
        mapping.write(5000, b'y');
        drop(mapping);
        file.sync_all().unwrap();
        drop(file);
        let after = times(&path);
        (before.0 < after.0, before.1 < after.1, fs::read(&path).unwrap()[5000])
    });
}

#[test]
fn each_write_through_a_mapping_after_a_sync_is_another_change() {
    alike(|dir| {
        let (path, file) = new_file(dir);
        let mut mapping = Mapping::new(&file, SIZE).unwrap();
        [b'1', b'2', b'3'].map(|byte| {
            let before = times(&path);
            sleep(TICK);
            mapping.write(9000, byte);
            mapping.sync().unwrap();
            let after = times(&path);
            (before.0 < after.0, before.1 < after.1)
        })
    });
}

#[test]
fn a_mapping_and_reads_and_writes_see_each_other() {
    use std::os::unix::fs::FileExt;
    alike(|dir| {
        let (_, file) = new_file(dir);
        let mut mapping = Mapping::new(&file, SIZE).unwrap();
        mapping.write(100, b'm');
        let mut byte = [0];
        file.read_exact_at(&mut byte, 100).unwrap();
        file.write_all_at(b"w", 200).unwrap();
        (byte, mapping.read(200))
    });
}

#[test]
fn operations_change_the_times_that_they_change_natively() {
    alike(|dir| {
        let steps: [(&str, Step); 8] = [
            ("write", |path| fs::write(path, "new").unwrap()),
            ("truncate", |path| {
                OpenOptions::new().write(true).open(path).unwrap().set_len(1).unwrap();
            }),
            ("truncate to the same size", |path| {
                OpenOptions::new().write(true).open(path).unwrap().set_len(1).unwrap();
            }),
            ("chmod", |path| {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
            }),
            ("chown", |path| std::os::unix::fs::chown(path, Some(1), None).unwrap()),
            ("link", |path| fs::hard_link(path, path.with_extension("link")).unwrap()),
            ("rename", |path| {
                fs::rename(path, path.with_extension("new")).unwrap();
                fs::rename(path.with_extension("new"), path).unwrap();
            }),
            ("unlink", |path| fs::remove_file(path.with_extension("link")).unwrap()),
        ];
        let (path, _) = new_file(dir);
        steps.map(|(step, act)| {
            let (file, parent) = (times(&path), times(dir));
            sleep(TICK);
            act(&path);
            let (now, parent_now) = (times(&path), times(dir));
            let changed = [file.0 < now.0, file.1 < now.1];
            (step, changed, [parent.0 < parent_now.0, parent.1 < parent_now.1])
        })
    });
}

fn new_file(dir: &Path) -> (std::path::PathBuf, File) {
    let path = dir.join("file");
    fs::write(&path, vec![b'x'; SIZE]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    (path, file)
}

/// mtime and ctime.
fn times(path: &Path) -> ((i64, i64), (i64, i64)) {
    let stat = fs::metadata(path).unwrap();
    ((stat.mtime(), stat.mtime_nsec()), (stat.ctime(), stat.ctime_nsec()))
}
