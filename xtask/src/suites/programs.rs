//! Programs that people run: git, tar, SQLite, cargo.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::yardstick::{Case, compare, same};
use crate::lab::Lab;
use crate::program;
use crate::tally::Tally;

mod tree;

const LIMIT: Duration = Duration::from_secs(180);

pub(crate) fn run(lab: &Lab, tally: &mut Tally) -> Result<()> {
    let made = lab.directory()?;
    let repository = made.path().join("repository.git");
    let archive = made.path().join("tree.tar");
    make_repository(&repository)?;
    tree::make(&made.path().join("tree"))?;
    pack(&made.path().join("tree"), &archive)?;
    let original = tree::describe(&made.path().join("tree"))?;

    let cases = [
        Case::new("git clone, gc, fsck", move |dir: &Path| git(dir, &repository)),
        Case::new("tar in and out", move |dir: &Path| tar(dir, &archive, &original)),
        Case::new("sqlite, WAL, two processes", sqlite),
        Case::new("cargo build", cargo),
        Case::new("tar, git, sqlite of an ordinary user", ordinary),
    ];
    compare(lab, &lab.variants(), &cases, tally)
}

fn git(dir: &Path, repository: &Path) -> Result<String> {
    let clone = dir.join("clone");
    let mut command = Command::new("git");
    command.args(["clone", "--quiet", "--no-local"]).arg(repository).arg(&clone);
    program::check(&mut command, LIMIT)?;

    let git =
        |args: &[&str]| program::check(Command::new("git").arg("-C").arg(&clone).args(args), LIMIT);
    git(&["checkout", "--quiet", "-b", "again", "HEAD~50"])?;
    git(&["checkout", "--quiet", "-"])?;
    git(&["gc", "--quiet", "--aggressive", "--prune=now"])?;
    let fsck = git(&["fsck", "--full", "--strict"])?;
    let status = git(&["status", "--porcelain"])?;
    let objects = git(&["count-objects", "-v"])?;
    let log = git(&["log", "--format=%H %T"])?;
    if !status.is_empty() {
        bail!("the clone is not clean:\n{status}");
    }
    Ok(format!(
        "{fsck}{log}{}",
        objects.lines().filter(|line| !line.contains("size")).collect::<String>()
    ))
}

/// A bare repository with a hundred commits over a thousand files.
fn make_repository(path: &Path) -> Result<()> {
    program::check(Command::new("git").args(["init", "--quiet", "--bare"]).arg(path), LIMIT)?;
    let stream = path.with_extension("stream");
    let mut out = std::io::BufWriter::new(File::create(&stream)?);
    for commit in 0..100u32 {
        let second = 1_700_000_000 + commit;
        writeln!(
            out,
            "commit HEAD\ncommitter fsrv <fsrv@localhost> {second} +0000\ndata 7\ncommit\n"
        )?;
        for file in (0..1000u32).filter(|file| commit == 0 || file % 37 == commit % 37) {
            let text = format!("{commit} {file}\n").repeat(1 + (file % 200) as usize);
            writeln!(
                out,
                "M 100644 inline {}/{}/{file}\ndata {}\n{text}",
                file % 7,
                file % 11,
                text.len()
            )?;
        }
    }
    out.into_inner().context("cannot write the repository")?;
    let import = "git -C \"$0\" fast-import --quiet <\"$1\"";
    program::check(Command::new("sh").args(["-c", import]).arg(path).arg(&stream), LIMIT)?;
    Ok(())
}

/// Unpacks, packs again and compares: bytes and metadata are both in the archive.
fn tar(dir: &Path, archive: &Path, original: &str) -> Result<String> {
    let (tree, again) = (dir.join("tree"), tempfile::NamedTempFile::new()?);
    fs::create_dir(&tree)?;
    let mut command = Command::new("tar");
    command.args([
        "--extract",
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "--numeric-owner",
        "--same-owner",
    ]);
    command.arg("--preserve-permissions").arg("-C").arg(&tree).arg("-f").arg(archive);
    program::check(&mut command, LIMIT)?;

    same(original, &tree::describe(&tree)?)?;
    pack(&tree, again.path())?;
    program::check(Command::new("cmp").arg(archive).arg(again.path()), LIMIT)?;
    fs::remove_dir_all(&tree)?;
    Ok(String::from("the same bytes and metadata"))
}

fn pack(tree: &Path, archive: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command.args([
        "--create",
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "--numeric-owner",
        "--sort=name",
    ]);
    command.args(["--format=posix", "--pax-option=delete=atime,delete=ctime,exthdr.name=%d/%f"]);
    command.arg("-C").arg(tree).arg("-f").arg(archive).arg(".");
    program::check(&mut command, LIMIT)?;
    Ok(())
}

/// Two processes insert into one table, each row a transaction.
fn sqlite(dir: &Path) -> Result<String> {
    const ROWS: usize = 300;
    let database = dir.join("database");
    let sqlite = |sql: &str| {
        program::check(
            Command::new("sqlite3").args(["-cmd", ".timeout 60000"]).arg(&database).arg(sql),
            LIMIT,
        )
    };
    let mode =
        sqlite("PRAGMA journal_mode=WAL; CREATE TABLE numbers (writer TEXT, number INTEGER);")?;

    let insert = |writer: &str| {
        let rows: String = (0..ROWS)
            .map(|row| format!("INSERT INTO numbers VALUES ('{writer}', {row});\n"))
            .collect();
        sqlite(&rows)
    };
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| insert("first"));
        let second = scope.spawn(|| insert("second"));
        (first.join(), second.join())
    });
    first.expect("a writer panicked")?;
    second.expect("a writer panicked")?;

    let rows = sqlite(
        "SELECT writer, count(*), sum(number) FROM numbers GROUP BY writer ORDER BY writer;",
    )?;
    let integrity = sqlite("PRAGMA integrity_check;")?;
    let expected = format!("first|{ROWS}|44850\nsecond|{ROWS}|44850\n");
    if rows != expected {
        bail!("expected {expected:?}, got {rows:?}");
    }
    Ok(format!("{mode}{rows}{integrity}"))
}

/// What a user without rights does in a directory of their own, and nobody else's.
fn ordinary(dir: &Path) -> Result<String> {
    const USER: u32 = 1000;
    const SCRIPT: &str = "
        set -e
        umask 027
        mkdir -p tree/sub again repository
        for number in $(seq 200); do echo $number >tree/sub/$number; done
        chmod 600 tree/sub/7 && chmod 2755 tree/sub && ln -s sub/8 tree/link && ln tree/sub/9 tree/hard
        tar --create --file tree.tar --directory tree .
        tar --extract --preserve-permissions --file tree.tar --directory again
        diff --recursive tree again
        git init --quiet repository && cp -a tree/. repository && cd repository
        git add . && git -c user.name=user -c user.email=user@localhost commit --quiet --message one
        git gc --quiet && git fsck --full --strict && git status --porcelain
        cd ..
        sqlite3 database 'PRAGMA journal_mode=WAL; CREATE TABLE numbers (number INTEGER);
            INSERT INTO numbers VALUES (1), (2), (3); SELECT sum(number) FROM numbers; PRAGMA integrity_check;'
        if touch ../another 2>/dev/null || chown 0 tree.tar 2>/dev/null; then echo more than allowed; fi
        find . -name .git -prune -o -printf '%p %M %U:%G %n\\n' | sort
    ";
    std::os::unix::fs::chown(dir, Some(USER), Some(USER))?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &USER.to_string(), "--regid", &USER.to_string(), "--clear-groups"]);
    command.args(["sh", "-c", SCRIPT]).current_dir(dir).env("HOME", dir);
    program::check(&mut command, LIMIT)
}

/// Builds a crate with a build script, runs it, and builds again: nothing may be stale then.
fn cargo(dir: &Path) -> Result<String> {
    let write = |path: &str, text: &str| fs::write(dir.join(path), text);
    fs::create_dir_all(dir.join("src"))?;
    write("Cargo.toml", "[package]\nname = \"hello\"\nedition = \"2024\"\n[workspace]\n")?;
    write("build.rs", "fn main() { println!(\"cargo::rustc-env=WORD=built\"); }\n")?;
    write("src/lib.rs", "pub fn word() -> &'static str { env!(\"WORD\") }\n")?;
    write("src/main.rs", "fn main() { println!(\"{}\", hello::word()); }\n")?;

    let cargo = |args: &[&str]| {
        let mut command = Command::new("cargo");
        command
            .args(args)
            .arg("--offline")
            .current_dir(dir)
            .env("CARGO_TARGET_DIR", dir.join("target"));
        command.env_remove("RUSTFLAGS");
        program::run(&mut command, LIMIT)
    };
    let first = cargo(&["build"])?;
    let printed = cargo(&["run", "--quiet"])?.stdout;
    let second = cargo(&["build", "--verbose"])?;
    if printed != "built\n" || !second.stderr.contains("Fresh hello") {
        bail!("printed {printed:?}\n{}\n{}", first.quote(), second.quote());
    }
    Ok(printed)
}
