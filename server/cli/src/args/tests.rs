//! Command lines, right and wrong.

use super::*;
use crate::report::first_paragraph;

#[test]
fn a_command_line_with_two_paths_is_enough() {
    let serve = parse(&[]).unwrap();
    assert_eq!((serve.fuse, serve.dir), (Some("/mnt".into()), Some("/data".into())));
    assert_eq!((serve.cache, serve.io_engine), (Cache::Auto, IoEngine::Auto));
}

#[test]
fn timeouts_are_seconds_with_a_fraction() {
    let serve = parse(&["--attr-timeout", "0.25"]).unwrap();
    assert_eq!(serve.attr_timeout, Some(Duration::from_millis(250)));
}

#[test]
fn what_makes_no_sense_is_refused_and_named() {
    for (words, named) in [
        (&["--cache", "auto", "--cache", "never"][..], "--cache"),
        (&["--readonly", "--readonly"], "--readonly"),
        (&["--readonly", "--writeback"], "--writeback"),
        (&["--cache", "never", "--writeback"], "--writeback"),
        (&["--attr-timeout", "-1"], "--attr-timeout"),
        (&["--entry-timeout", "nan"], "--entry-timeout"),
        (&["--workers", "0"], "--workers"),
        (&["--workers", "100000"], "--workers"),
        (&["--rlimit-nofile", "1"], "--rlimit-nofile"),
        (&["-o", "nosuid,cache"], "cache"),
        (&["extra"], "extra"),
        (&["--vhost-user", "/sock"], "--vhost-user"),
        (&["--tag", "share"], "--tag"),
        (&["--queues", "2"], "--queues"),
        (&["--poll-us", "5"], "--poll-us"),
        (&["--once"], "--once"),
    ] {
        let said = first_paragraph(&parse(words).unwrap_err());
        assert!(said.contains(named), "{named} in {said}");
        assert!(!said.contains('\n'));
    }
}

#[test]
fn a_virtual_machine_has_options_of_its_own() {
    let sock = &["--vhost-user", "/sock"][..];
    let serve = parse_all(&[sock, &["--tag", "data", "--once"]].concat()).unwrap();
    assert_eq!((serve.tag.to_string().as_str(), serve.once, serve.fuse), ("data", true, None));
    for (words, named) in [
        (&[][..], "--fuse"),
        (&["--vhost-user", "/sock", "--fd", "3"], "--fd"),
        (&["--vhost-user", "/sock", "--queues", "0"], "--queues"),
        (&["--vhost-user", "/sock", "--tag", ""], "--tag"),
        (&["--vhost-user", "/sock", "--tag", "a-tag-of-more-than-thirty-six-bytes-xx"], "--tag"),
        (&["--vhost-user", "/sock", "--allow-other", "on"], "--allow-other"),
        (&["--vhost-user", "/sock", "-o", "nosuid"], "--mount-options"),
        (&["--vhost-user", "/sock", "--poll-us", "1000001"], "--poll-us"),
        (&["--fd", "3", "--once"], "--once"),
        (&["--fd", "3", "--socket-group", "kvm"], "--socket-group"),
    ] {
        let said = first_paragraph(&parse_all(words).unwrap_err());
        assert!(said.contains(named), "{named} in {said}");
    }
}

#[test]
fn an_image_has_options_of_its_own() {
    let image = ["fsrv", "serve", "--image", "/disk"];
    let parse = |more: &[&str]| parse_words(image.iter().chain(more));
    let serve = parse(&["--fuse", "/m", "--format", "raw", "--writable", "--growable"]).unwrap();
    assert!(serve.writable && serve.growable && serve.image == Some("/disk".into()));
    let serve = parse(&["--vhost-user", "/s", "--name", "sda"]).unwrap();
    assert_eq!(serve.name.unwrap().as_name().as_bytes(), b"sda");
    let at = ["--fuse", "/m"];
    for (words, named) in [
        (&["--dir", "/data"][..], "--dir"),
        (&["--writable"], "--format"),
        (&["--growable"], "--writable"),
        (&["--format", "vmdk"], "--format"),
        (&["--host-cache", "none"], "--host-cache"),
        (&["--name", "sda"], "--name"),
        (&["--readonly"], "--readonly"),
        (&["--cache", "never"], "--cache"),
        (&["--attr-timeout", "1"], "--attr-timeout"),
        (&["--entry-timeout", "1"], "--entry-timeout"),
        (&["--negative-timeout", "1"], "--negative-timeout"),
        (&["--writeback"], "--writeback"),
        (&["--allow-direct-io"], "--allow-direct-io"),
        (&["--inode-file-handles", "never"], "--inode-file-handles"),
    ] {
        let said = first_paragraph(&parse(&[&at, words].concat()).unwrap_err());
        assert!(said.contains(named), "{named} in {said}");
    }
    for name in ["", ".", "a/b"] {
        let said = parse(&["--vhost-user", "/s", "--name", name]).unwrap_err();
        assert!(first_paragraph(&said).contains("--name"), "{said}");
    }
    let directory = ["fsrv", "serve", "--dir", "/data", "--fuse", "/m"];
    for words in [
        &["--format", "raw"][..],
        &["--format", "raw", "--writable"],
        &["--host-cache", "direct"],
        &["--allow-backing", "/images"],
    ] {
        let said = parse_words(directory.iter().chain(words)).unwrap_err();
        assert!(first_paragraph(&said).contains("--dir"), "{said}");
    }
    assert!(parse_words(["fsrv", "serve", "--fuse", "/m"].iter()).is_err());
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

fn parse(more: &[&str]) -> Result<Serve, clap::Error> {
    parse_all(&[&["--fuse", "/mnt"], more].concat())
}

fn parse_all(more: &[&str]) -> Result<Serve, clap::Error> {
    parse_words(["fsrv", "serve", "--dir", "/data"].iter().chain(more))
}

fn parse_words<'a>(words: impl Iterator<Item = &'a &'a str>) -> Result<Serve, clap::Error> {
    let words = words.map(OsString::from).collect();
    Cli::parse(words).map(|Cli { command: Command::Serve(serve) }| *serve)
}
