//! What the guest's kernel unpacks into memory and starts.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{ENDED, STARTS};
use crate::program;
use crate::setup::guest::{Kernel, busybox};

/// Below `kernel` in the modules' directory, each after what it needs.
const MODULES: [&str; 8] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "fs/fuse/fuse",
    "fs/fuse/virtiofs",
    "drivers/block/loop",
];

const LIMIT: Duration = Duration::from_secs(60);

/// The first process. It ends by switching the machine off, whatever happened.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/programs:/bin HOME=/
mkdir -p /proc /sys /dev /tmp /mnt
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs tmp /dev/shm
mount -t tmpfs tmp /tmp
chmod 1777 /tmp /dev/shm
for module in $(ls /modules); do
    insmod /modules/$module || echo \"cannot load $module\"
done
if mount -t virtiofs share /mnt; then
    echo 'STARTS'
    if [ -e SYSTEM ]; then
        for dir in proc sys dev; do
            mount -o move /$dir /mnt/$dir
        done
        exec switch_root /mnt /sbin/init
    fi
    sh /script
    echo \"ENDED$?\"
fi
poweroff -f
";

/// A file which says that the share has a system of its own.
pub(super) const SYSTEM: &str = "/system-in-share";

/// What is in it beside busybox and the modules.
#[derive(Default)]
pub(super) struct Initramfs {
    programs: Vec<PathBuf>,
    libraries: Vec<PathBuf>,
    files: Vec<(PathBuf, String)>,
}

impl Initramfs {
    /// A program lies in `/programs`, its libraries where they lie on this machine.
    pub(super) fn add_program(&mut self, program: &Path) -> Result<()> {
        let printed = program::check(Command::new("ldd").arg(program), LIMIT)?;
        let paths = printed.split_whitespace().filter(|word| word.starts_with('/'));
        for library in paths.map(PathBuf::from) {
            if !self.libraries.contains(&library) {
                self.libraries.push(library);
            }
        }
        self.programs.push(program.into());
        Ok(())
    }

    pub(super) fn add_file(&mut self, path: &str, text: &str) {
        self.files.push((path.into(), text.into()));
    }

    /// Writes it to `archive`.
    pub(super) fn write(&self, archive: &Path, kernel: Kernel, script: &str) -> Result<()> {
        let root = tempfile::tempdir()?;
        self.fill(root.path(), kernel, script)?;
        let pack = "cd \"$0\" && find . -mindepth 1 | cpio --quiet -o -H newc -R 0:0 >\"$1\"";
        program::check(Command::new("sh").args(["-c", pack]).arg(root.path()).arg(archive), LIMIT)?;
        Ok(())
    }

    fn fill(&self, root: &Path, kernel: Kernel, script: &str) -> Result<()> {
        for dir in ["bin", "modules", "programs"] {
            fs::create_dir(root.join(dir))?;
        }
        fs::copy(busybox()?, root.join("bin/busybox"))?;
        copy_modules(&kernel.directory()?, &root.join("modules"))?;
        for program in &self.programs {
            let name = program.file_name().context("a program without a name")?;
            strip(program, &root.join("programs").join(name))?;
        }
        for library in &self.libraries {
            fs::copy(library, place(root, library)?)?;
        }
        for (path, text) in &self.files {
            write_executable(&place(root, path)?, text)?;
        }
        let init = INIT.replace("STARTS", STARTS).replace("ENDED", ENDED).replace("SYSTEM", SYSTEM);
        write_executable(&root.join("init"), &init)?;
        write_executable(&root.join("script"), script)
    }
}

/// The kernel's image.
pub(super) fn image(kernel: Kernel) -> Result<PathBuf> {
    entry(&kernel.directory()?.join("boot"), "vmlinuz-")
}

/// Numbers the modules, so that a shell lists them in their order. What is built into the kernel needs no module.
fn copy_modules(kernel: &Path, to: &Path) -> Result<()> {
    let version = entry(&kernel.join("lib/modules"), "")?;
    let builtin = fs::read_to_string(version.join("modules.builtin"))?;
    for (number, module) in MODULES.iter().enumerate() {
        let file = format!("kernel/{module}.ko");
        if builtin.lines().any(|line| line == file) {
            continue;
        }
        let copied = fs::copy(version.join(&file), to.join(format!("{number}.ko")));
        copied.with_context(|| format!("the kernel has no {file}"))?;
    }
    Ok(())
}

/// Debugging information would not fit into the guest's memory.
fn strip(program: &Path, to: &Path) -> Result<()> {
    program::check(Command::new("strip").arg("-o").arg(to).arg(program), LIMIT)?;
    Ok(())
}

/// Where a path of the guest lies while it is made.
fn place(root: &Path, path: &Path) -> Result<PathBuf> {
    let place = root.join(path.strip_prefix("/").context("not an absolute path")?);
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    Ok(place)
}

fn write_executable(place: &Path, text: &str) -> Result<()> {
    fs::write(place, text)?;
    Ok(fs::set_permissions(place, Permissions::from_mode(0o755))?)
}

/// The first entry whose name begins so.
fn entry(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("no {}", dir.display()))?;
    let wanted = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
    };
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(wanted);
    paths.next().with_context(|| format!("nothing like {prefix}* in {}", dir.display()))
}
