//! A Debian system whose root is the share.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::yardstick::same;
use crate::guest::{ENDED, Guest, STARTS, Server};
use crate::lab::Lab;
use crate::program;
use crate::setup;

const LIMIT: Duration = Duration::from_secs(600);

/// What runs when the system is up: every file of every package is read, and one package is written anew.
const TEST: &str = "#!/bin/sh
test() {
    findmnt --noheadings --output FSTYPE /
    systemctl --failed --no-legend
    dpkg --install /var/cache/apt/archives/coreutils_*.deb >/test.log 2>&1 &&
    dpkg --audit &&
    dpkg --verify
}
exec >/dev/console 2>&1
echo 'STARTS'
test
echo \"ENDED$?\"
systemctl poweroff
";

const UNIT: &str = "[Unit]
After=basic.target
[Service]
ExecStart=/test
";

/// Boots it, and checks the files that it left with the host's own dpkg.
pub(super) fn boots_from_the_share(lab: &Lab) -> Result<()> {
    let dir = lab.directory()?;
    let root = dir.path().join("root");
    let mut copy = Command::new("cp");
    copy.arg("--archive").arg(setup::debian::system()?).arg(&root);
    program::check(&mut copy, LIMIT)?;
    add_test(&root)?;

    let server = Server::start(lab, &root, &[])?;
    let printed = Guest::default().with_system_in_share().run(&server, "", LIMIT)?;
    same("virtiofs\n", &printed)?;
    server.stop()?;

    let mut verify = Command::new("dpkg");
    verify.arg("--verify").arg("--root").arg(&root);
    let differences = program::check(&mut verify, LIMIT)?;
    ensure!(differences.is_empty(), "the guest's files are not the packages': {differences}");
    Ok(())
}

fn add_test(root: &Path) -> Result<()> {
    let test = root.join("test");
    fs::write(&test, TEST.replace("STARTS", STARTS).replace("ENDED", ENDED))?;
    fs::set_permissions(&test, Permissions::from_mode(0o755))?;
    let units = root.join("etc/systemd/system");
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    fs::write(units.join("test.service"), UNIT)?;
    Ok(symlink("../test.service", units.join("multi-user.target.wants/test.service"))?)
}
