//! pjdfstest inside the guest: each test must end as it does on the host's own filesystem.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::pjdfstest::{Part, Pjdfstest, compare, config, parse, remount};
use super::installed;
use crate::guest::{Guest, Server};
use crate::lab::Lab;
use crate::tally::Tally;

const LIMIT: Duration = Duration::from_secs(600);

/// The users whom the tests become.
const PASSWD: &str = "root:x:0:0::/:/bin/sh
nobody:x:65534:65534::/:/bin/sh
tests:x:1001:1001::/:/bin/sh
";
const GROUP: &str = "root:x:0:
nogroup:x:65534:
tests:x:1001:
";

/// A terminal would get colours. A failed test makes the program fail too, but its outcome is in what it prints.
pub(super) const SCRIPT: &str = "
mkdir /dev/shm/second
export PATH=/tools:$PATH
pjdfstest -c /in-place.toml --path PLACE --secondary-fs /dev/shm/second | cat
pjdfstest -c /remounting.toml --path PLACE --secondary-fs /dev/shm/second erofs | cat
";

pub(super) fn run(lab: &Lab, tally: &mut Tally) -> Result<()> {
    let suite = Pjdfstest::prepare(lab)?;
    let expected = suite.on_native(lab)?;
    let dir = lab.directory()?;
    let server = Server::start(lab, dir.path(), &[])?;
    let printed = guest(&suite)?.run(&server, &SCRIPT.replace("PLACE", "/mnt"), LIMIT)?;
    ensure!(printed.matches("Summary:").count() == 2, "pjdfstest did not end:\n{printed}");
    compare("guest", &expected, &parse(&printed), tally);
    server.stop()
}

/// `sleep` is copied and started by a test, which busybox would not survive.
pub(super) fn guest(suite: &Pjdfstest) -> Result<Guest> {
    let mount = installed("mount")?;
    let guest = Guest::default()
        .with_program(&suite.program)?
        .with_program(&mount)?
        .with_program(&installed("sleep")?)?
        .with_file("/in-place.toml", &config(Part::InPlace))
        .with_file("/remounting.toml", &config(Part::Remounting))
        .with_file("/tools/mount", &remount("/programs/mount".as_ref()))
        .with_file("/etc/passwd", PASSWD)
        .with_file("/etc/group", GROUP);
    Ok(guest)
}
