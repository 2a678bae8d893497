//! A server in the guest, and its mount there: the program on a kernel that is older than this machine's.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::super::pjdfstest::{Pjdfstest, compare, parse};
use super::super::yardstick::same;
use super::{installed, pjdfstest};
use crate::guest::{Guest, Server};
use crate::lab::Lab;
use crate::program;
use crate::tally::Tally;

const LIMIT: Duration = Duration::from_secs(120);
const LONG_LIMIT: Duration = Duration::from_secs(2400);

/// How many cases each property test has: each takes some seconds here.
const CASES: &str = "16";

/// A disk of the guest's own, and what serves a directory of it.
const PREPARE: &str = "
truncate -s 96M /dev/shm/disk && mkfs.ext4 -q -F -b 4096 /dev/shm/disk || exit
losetup /dev/loop0 /dev/shm/disk
mkdir -p /disk /var/tmp && mount -t ext4 /dev/loop0 /disk || exit
chmod 1777 /disk
is_mounted() {
    grep -q ' /point ' /proc/mounts
}
serve() {
    mkdir -p /disk/served /point
    fsrv serve --fuse /point --dir /disk/served \"$@\" 2>/fsrv.log & server=$!
    until is_mounted; do
        kill -0 $server || { cat /fsrv.log; exit 1; }
        usleep 20000
    done
}
stop() {
    kill $server && wait $server || { cat /fsrv.log; exit 1; }
    ! is_mounted || exit
}
";

/// What is done on the disk itself, and through the mount with both engines.
const EXERCISE: &str = "
mkdir /disk/native && xtask exercise /disk/native || exit
for engine in uring threads; do
    echo SPLIT
    serve --io-engine $engine
    xtask exercise /point || exit
    stop
    rm -r /disk/served
done
uname -r
";

/// As in [`EXERCISE`], between the parts.
const SPLIT: &str = "SPLIT\n";

pub(super) fn exercise(lab: &Lab) -> Result<()> {
    let xtask = std::env::current_exe()?;
    let guest = guest(lab, Guest::default())?.with_program(&xtask)?;
    let printed = run(lab, &guest, EXERCISE, LIMIT)?;
    let parts: Vec<_> = printed.split(SPLIT).collect();
    let [native, uring, threads] = parts[..] else { bail!("not three parts:\n{printed}") };
    same(native, uring).context("with io_uring")?;
    let (threads, release) = threads.trim_end().rsplit_once('\n').context("no release")?;
    println!("mounted on Linux {release}");
    same(native.trim_end(), threads).context("with threads")
}

/// As on this machine, each test ends as on the machine's own disk.
pub(super) fn pjdfstest(lab: &Lab, tally: &mut Tally) -> Result<()> {
    let suite = Pjdfstest::prepare(lab)?;
    let expected = suite.on_native(lab)?;
    let guest = guest(lab, pjdfstest::guest(&suite)?)?;
    let script = format!("serve\n{}\nstop", pjdfstest::SCRIPT.replace("PLACE", "/point"));
    let printed = run(lab, &guest, &script, LONG_LIMIT)?;
    ensure!(printed.matches("Summary:").count() == 2, "pjdfstest did not end:\n{printed}");
    compare("a mount in the guest", &expected, &parse(&printed), tally);
    Ok(())
}

/// The property tests of the command line's crate, which compare the mount with a directory on the guest's disk.
pub(super) fn property(lab: &Lab) -> Result<()> {
    let tests = property_tests()?;
    // It starts the server that was built along with it.
    let built = tests.server.display();
    let script = format!(
        "mount -o bind /disk /var/tmp\nmkdir -p {0} && ln -s /programs/fsrv {built} || exit
        PROPTEST_CASES={CASES} {1} --nocapture --test-threads 1 property::",
        tests.server.parent().context("no directory")?.display(),
        tests.program.file_name().context("no name")?.display(),
    );
    let guest = guest(lab, Guest::default())?
        .with_program(&tests.program)?
        .with_program(&installed("setpriv")?)?;
    let printed = run(lab, &guest, &script, LONG_LIMIT)?;
    let last = printed.lines().find(|line| line.starts_with("test result: ok."));
    println!("{}", last.with_context(|| format!("not all passed:\n{printed}"))?);
    Ok(())
}

struct Tests {
    program: PathBuf,
    server: PathBuf,
}

fn property_tests() -> Result<Tests> {
    let mut command = Command::new("cargo");
    command.args(["test", "--package", "fsrv-cli", "--all-features", "--test", "it"]);
    command.args(["--no-run", "--message-format", "json"]);
    let printed = program::check(&mut command, LONG_LIMIT)?;
    let artifacts = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let executable = |name: &str, artifact: &Value| {
        let is_it = artifact["target"]["name"] == name;
        artifact["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
    };
    let (mut program, mut server) = (None, None);
    for artifact in artifacts {
        program = executable("it", &artifact).or(program);
        server = executable("fsrv", &artifact).or(server);
    }
    let program = program.context("cargo built no tests")?;
    Ok(Tests { program, server: server.context("cargo built no server")? })
}

fn guest(lab: &Lab, guest: Guest) -> Result<Guest> {
    guest.with_program(lab.fsrv()?)?.with_program(&installed("mkfs.ext4")?)
}

/// The share is there for the guest to boot, and stays empty.
fn run(lab: &Lab, guest: &Guest, script: &str, limit: Duration) -> Result<String> {
    let dir = lab.directory()?;
    let server = Server::start(lab, dir.path(), &[])?;
    let printed = guest.run(&server, &format!("{PREPARE}{script}"), limit)?;
    server.stop()?;
    Ok(printed)
}
