//! A virtual machine with a served directory at `/mnt`: QEMU without KVM, a Debian kernel, busybox, and a script.

mod initramfs;
mod server;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use self::initramfs::Initramfs;
pub(crate) use self::server::{Daemon, Server};
use crate::program;
use crate::setup::guest::Kernel;

/// How long a boot that does little may take: two to three seconds on an idle machine.
pub(crate) const BOOT_LIMIT: Duration = Duration::from_secs(90);

/// Lines of a log that are worth repeating when a boot fails.
const QUOTED_LINES: usize = 60;

/// What is printed on the console around the output of the script.
pub(crate) const STARTS: &str = "== the script starts";
pub(crate) const ENDED: &str = "== the script ended with ";

/// What a guest has beside busybox.
#[derive(Default)]
pub(crate) struct Guest {
    initramfs: Initramfs,
    kernel: Kernel,
}

impl Guest {
    /// Lets it boot another kernel, with two processors and a request queue for each.
    pub(crate) fn with_kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// Lets it go on with the system that is in the share, which must print what a script would.
    pub(crate) fn with_system_in_share(self) -> Self {
        self.with_file(initramfs::SYSTEM, "")
    }

    /// Adds a program of this machine, with its libraries; the guest has it in PATH.
    pub(crate) fn with_program(mut self, program: &Path) -> Result<Self> {
        self.initramfs.add_program(program)?;
        Ok(self)
    }

    /// Adds a file, which may be executed.
    pub(crate) fn with_file(mut self, path: &str, text: &str) -> Self {
        self.initramfs.add_file(path, text);
        self
    }

    /// Boots, mounts what `server` serves, runs `script`, and switches the machine off.
    ///
    /// Returns what the script printed; it must exit with 0 within `limit`. A guest that restarts begins its script
    /// anew, and finds in the share what it left there.
    pub(crate) fn run(&self, server: &Server, script: &str, limit: Duration) -> Result<String> {
        let place = tempfile::tempdir()?;
        let console = place.path().join("console");
        let initramfs = place.path().join("initramfs");
        self.initramfs.write(&initramfs, self.kernel, script)?;

        let mut qemu = qemu(self.kernel, &server.socket(), &console)?;
        let ended = program::check(qemu.arg("-initrd").arg(initramfs), limit);
        let console = fs::read(&console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).replace('\r', "");
        ended.and_then(|_| script_output(&console)).with_context(|| {
            format!("the server:\n{}\nthe guest:\n{}\n", last(&server.log()), last(&console))
        })
    }
}

/// The machine that starts the kernel. The guest's memory is shared with the server.
fn qemu(kernel: Kernel, socket: &Path, console: &Path) -> Result<Command> {
    // A suite that is killed runs no destructors; its machine then gets the signal from the kernel.
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    qemu.args(["-machine", "q35,memory-backend=memory", "-m", "256"]);
    qemu.args(["-accel", "tcg,thread=multi"]);
    qemu.args(["-object", "memory-backend-memfd,id=memory,size=256M,share=on"]);
    qemu.arg("-chardev").arg(option("socket,id=share,path=", socket)?);
    let device = "vhost-user-fs-pci,chardev=share,tag=share,queue-size=1024";
    match kernel {
        Kernel::Release => qemu.args(["-cpu", "max", "-device", device]),
        // QEMU 7.2 crashes at random when it emulates the 16-byte exchange that newer kernels make much use of.
        Kernel::Backports => qemu
            .args(["-cpu", "max,-cx16", "-smp", "2", "-device"])
            .arg(format!("{device},num-request-queues=2")),
    };
    qemu.arg("-serial").arg(option("file:", console)?);
    qemu.arg("-kernel").arg(initramfs::image(kernel)?);
    qemu.args(["-append", "console=ttyS0 quiet"]);
    Ok(qemu)
}

/// QEMU takes commas in its options for separators; our own temporary paths have none.
fn option(prefix: &str, path: &Path) -> Result<String> {
    let path = path.to_str().filter(|path| !path.contains(','));
    Ok(format!("{prefix}{}", path.context("QEMU cannot take this path")?))
}

/// What the script printed, if it ended well.
fn script_output(console: &str) -> Result<String> {
    let (_, started) = console.rsplit_once(STARTS).context("the guest did not mount")?;
    let (output, rest) = started.rsplit_once(ENDED).context("the script did not end")?;
    let code = rest.lines().next().unwrap_or_default();
    if code != "0" {
        bail!("the script ended with {code}");
    }
    Ok(output.trim_start_matches('\n').to_owned())
}

fn last(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::{ENDED, STARTS, script_output};

    #[test]
    fn script_output_when_the_script_ended_well_is_what_it_printed() {
        let console = format!("booting\n{STARTS}\none\ntwo\n{ENDED}0\nswitched off\n");
        assert_eq!(script_output(&console).expect("an output"), "one\ntwo\n");
    }

    #[test]
    fn script_output_when_the_guest_restarted_is_of_the_last_boot() {
        let console = format!("{STARTS}\nfirst\nbooting\n{STARTS}\nsecond\n{ENDED}0\n");
        assert_eq!(script_output(&console).expect("an output"), "second\n");
    }

    #[test]
    fn script_output_when_the_script_failed_or_did_not_end_is_an_error() {
        for console in ["", "booting\n", STARTS, &format!("{STARTS}\n{ENDED}1\n")] {
            assert!(script_output(console).is_err(), "{console:?}");
        }
    }
}
