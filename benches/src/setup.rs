//! What a run needs: programs of Debian, the peers of benches/peers, fsrv itself.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::image::export::Export;
use crate::row::{Backing, Group, Row};
use crate::subject::Subject;
use crate::vhost::server::Server;

/// Long timeouts, cached pages kept over open, large writes: what it is fastest with.
const BINDFS: &str = "bindfs -f --multithreaded -o kernel_cache,entry_timeout=86400,attr_timeout=86400,big_writes {dir} {mnt}";

const FSRV: &str = "serve --vhost-user {socket} --dir {dir}";
const FSRV_IMAGE: &str = "serve --fuse {mnt} --image {image} --format {format} --writable";
/// With what is fastest here for its files, io_uring.
const QSD: &str = "qemu-storage-daemon --object iothread,id=thread \
    --blockdev file,node-name=file,filename={image},aio=io_uring,cache.direct={direct} \
    --blockdev {format},node-name=image,file=file \
    --export fuse,id=export,node-name=image,mountpoint={mnt},writable=on,iothread=thread";
/// Without its containment, which costs nothing a request but needs what containers refuse.
const VIRTIOFSD: &str =
    "--socket-path {socket} --shared-dir {dir} --sandbox none --seccomp none --allow-direct-io";
const VERSION: &str = "1.14.0";

/// The named subjects, in this order, ready to start.
pub(crate) fn subjects(
    names: &[String],
    fsrv: Option<&Path>,
    fsrv_words: &str,
) -> Result<Vec<Subject>> {
    names.iter().map(|name| subject(name, fsrv, fsrv_words)).collect()
}

fn subject(name: &str, fsrv: Option<&Path>, fsrv_words: &str) -> Result<Subject> {
    match name {
        "native" => Ok(Subject::native()),
        "fsrv" => {
            let program = fsrv.map_or_else(build_fsrv, |path| Ok(path.to_owned()))?;
            let command =
                format!("{} serve --fuse {{mnt}} --dir {{dir}} {fsrv_words}", program.display());
            Subject::server(name, &command, "--inode-file-handles mandatory")
        }
        "fbrs" => {
            let command = format!("{} {{dir}} {{mnt}}", build_peer("peer-fbrs")?.display());
            Subject::server(name, &command, "--file-handles")
        }
        "bindfs" => {
            install("bindfs", "bindfs")?;
            Subject::server(name, BINDFS, "")
        }
        other => anyhow::bail!(
            "no peer is called {other}: there are native, fsrv, fbrs, bindfs, or --peer name=command"
        ),
    }
}

/// The named server of a vhost-user socket, ready to start.
pub(crate) fn server(name: &str, fsrv: Option<&Path>, fsrv_words: &str) -> Result<Server> {
    let fsrv = || fsrv.map_or_else(build_fsrv, |path| Ok(path.to_owned()));
    let words = match name {
        "fsrv" => format!("{} {FSRV} {fsrv_words}", fsrv()?.display()),
        "fsrv-threads" => {
            format!("{} {FSRV} {fsrv_words} --io-engine threads", fsrv()?.display())
        }
        "virtiofsd" => format!("{} {VIRTIOFSD}", virtiofsd()?.display()),
        "virtiofsd-pool" => {
            format!("{} {VIRTIOFSD} --thread-pool-size 16", virtiofsd()?.display())
        }
        other => anyhow::bail!(
            "no peer is called {other}: there are native, fsrv, fsrv-threads, virtiofsd, virtiofsd-pool, or --peer name=command"
        ),
    };
    Server::new(name, &words)
}

/// The named way to a disk image's content, ready to start.
pub(crate) fn export(name: &str, fsrv: Option<&Path>, fsrv_words: &str) -> Result<Export> {
    let fsrv = |more: &str| {
        let program = fsrv.map_or_else(build_fsrv, |path| Ok(path.to_owned()))?;
        let command = format!("{} {FSRV_IMAGE} {fsrv_words} {more}", program.display());
        Export::server(name, &command, "--host-cache direct")
    };
    match name {
        "native" => Ok(Export::native()),
        "loop" => {
            install("losetup", "mount")?;
            Ok(Export::loop_device())
        }
        "fsrv" => fsrv(""),
        "fsrv-threads" => fsrv("--io-engine threads"),
        "qsd" => {
            install("qemu-storage-daemon", "qemu-system-common")?;
            Export::server(name, QSD, "")
        }
        other => anyhow::bail!(
            "no peer is called {other}: there are native, loop, fsrv, fsrv-threads, qsd, or --peer name=command"
        ),
    }
}

/// The programs that make images and measure them.
pub(crate) fn image_programs() -> Result<()> {
    fio()?;
    install("qemu-img", "qemu-utils")
}

/// Of the programs that make images, and of their peer.
pub(crate) fn qemu_version() -> String {
    let output = Command::new("qemu-img").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let line = text.ok().and_then(|text| text.lines().next().map(str::to_owned));
    line.unwrap_or_else(|| "unknown qemu-img".into())
}

/// Installs virtiofsd unless its version is there.
fn virtiofsd() -> Result<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let installed = home.context("there is no home to install programs in")?.join("bin/virtiofsd");
    let right = || {
        let output = Command::new(&installed).arg("--version").output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(VERSION))
    };
    if right() {
        return Ok(installed);
    }
    for (header, package) in [("seccomp.h", "libseccomp-dev"), ("cap-ng.h", "libcap-ng-dev")] {
        if !Path::new("/usr/include").join(header).exists() {
            apt(package).with_context(|| format!("{package} cannot be installed"))?;
        }
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["install", "--locked", "--force", "virtiofsd", "--version", VERSION];
    finish(Command::new(cargo).args(arguments))?;
    ensure!(right(), "virtiofsd {VERSION} was installed, but not in {}", installed.display());
    Ok(installed)
}

/// The native side of rows on a disk.
pub(crate) fn fio() -> Result<()> {
    install("fio", "fio")
}

/// The programs that these rows run.
pub(crate) fn programs(rows: &[Row]) -> Result<()> {
    if rows.iter().any(|row| row.group == Group::Data) {
        install("fio", "fio")?;
    }
    if rows.iter().any(|row| row.group == Group::SmallFiles(Backing::Ext4)) {
        install("mkfs.ext4", "e2fsprogs")?;
        install("mount", "mount")?;
    }
    Ok(())
}

/// A line that names the peers' versions.
pub(crate) fn versions(subjects: &[Subject]) -> String {
    let bindfs = || {
        let output = Command::new("bindfs").arg("-V").output().ok()?;
        Some(String::from_utf8(output.stdout).ok()?.lines().next()?.to_owned())
    };
    let of = |subject: &Subject| match subject.name.as_str() {
        "fbrs" => Some(format!("fbrs is the passthrough filesystem of {}", fuse_backend_rs())),
        "bindfs" => bindfs(),
        _ => None,
    };
    subjects.iter().filter_map(of).collect::<Vec<_>>().join("; ")
}

fn fuse_backend_rs() -> String {
    let lock = include_str!("../peers/Cargo.lock");
    let after = lock.split_once("name = \"fuse-backend-rs\"\nversion = \"").map(|(_, after)| after);
    let version = after.and_then(|after| after.split('"').next()).unwrap_or("?");
    format!("fuse-backend-rs {version}")
}

fn build_fsrv() -> Result<PathBuf> {
    cargo(["build", "--release", "--package", "fsrv-cli", "--target-dir"], &target_dir()?)?;
    Ok(target_dir()?.join("release/fsrv"))
}

fn build_peer(name: &str) -> Result<PathBuf> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/Cargo.toml");
    let target = target_dir()?.join("peers");
    cargo(
        ["build", "--release", "--locked", "--manifest-path", manifest, "--target-dir"],
        &target,
    )?;
    Ok(target.join("release").join(name))
}

fn cargo<const N: usize>(arguments: [&str; N], target: &Path) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let directory = env!("CARGO_MANIFEST_DIR");
    finish(Command::new(cargo).args(arguments).arg(target).current_dir(directory))
}

/// The one this program was built in.
fn target_dir() -> Result<PathBuf> {
    let program = env::current_exe()?;
    let target = program.ancestors().nth(2).context("this program lies in no target directory")?;
    Ok(target.to_owned())
}

pub(crate) fn install(program: &str, package: &str) -> Result<()> {
    if is_installed(program) {
        return Ok(());
    }
    apt(package).with_context(|| {
        format!("{program} is missing, and the package {package} cannot be installed")
    })
}

fn apt(package: &str) -> Result<()> {
    eprintln!("installing {package}");
    let install = || {
        let arguments = ["install", "--yes", "--no-install-recommends", package];
        finish(Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    install().or_else(|_| {
        finish(Command::new("apt-get").arg("update"))?;
        install()
    })
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    // Programs for root lie where a user's PATH does not lead.
    let directories =
        env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    directories.into_iter().any(|directory| directory.join(program).exists())
}

/// Its output goes to standard error: standard output is for the table.
fn finish(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_owned();
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("cannot run {}", name.display()))?;
    let arguments: Vec<&OsStr> = command.get_args().collect();
    ensure!(
        status.success(),
        "{} {}: {status}",
        name.display(),
        arguments.join(OsStr::new(" ")).display()
    );
    Ok(())
}
