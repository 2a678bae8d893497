//! Command lines that make no sense.

use super::export::{Format, Image, MIB, USAGE, refused};

/// What cannot be said of an image, and what the message names.
const OF_A_DIRECTORY: [(&[&str], &str); 10] = [
    (&["--dir", "/var/tmp"], "--dir"),
    (&["--cache", "never"], "--cache"),
    (&["--attr-timeout", "1"], "--attr-timeout"),
    (&["--entry-timeout", "1"], "--entry-timeout"),
    (&["--negative-timeout", "1"], "--negative-timeout"),
    (&["--readonly"], "--readonly"),
    (&["--writeback"], "--writeback"),
    (&["--allow-direct-io"], "--allow-direct-io"),
    (&["--inode-file-handles", "never"], "--inode-file-handles"),
    (&["--name", "disk"], "--name"),
];

/// What needs something else.
const INCOMPLETE: [(&[&str], &str); 3] = [
    (&["--writable"], "--format"),
    (&["--growable"], "--writable"),
    (&["--growable", "--format", "raw"], "--writable"),
];

#[test]
fn what_is_said_of_a_directory_is_refused_of_an_image() {
    let image = Image::new(Format::Raw, MIB);
    for (args, named) in OF_A_DIRECTORY {
        image.is_refused(args).says(USAGE, &[named]);
    }
}

#[test]
fn what_needs_another_option_names_it() {
    let image = Image::new(Format::Raw, MIB);
    for (args, named) in INCOMPLETE {
        image.is_refused(args).says(USAGE, &[named]);
    }
}

#[test]
fn what_is_said_of_an_image_is_refused_without_one() {
    for args in [
        &["--format", "raw"][..],
        &["--writable", "--format", "raw"],
        &["--growable", "--writable", "--format", "raw"],
        &["--host-cache", "direct"],
        &["--allow-backing", "/var/tmp"],
        &["--name", "disk"],
    ] {
        let place = crate::served::directory();
        let refused = refused(|command| {
            command.arg("--fuse").arg(place.path()).args(["--dir", "/var/tmp"]).args(args)
        });
        refused.says(USAGE, &[args[0]]);
    }
}

#[test]
fn something_must_be_served() {
    let refused = refused(|command| command.args(["--fuse", "/mnt"]));
    refused.says(USAGE, &["--dir", "--image"]);
}

#[test]
fn the_name_of_an_image_for_a_machine_is_one_name() {
    let image = Image::new(Format::Raw, MIB);
    for name in ["", ".", "..", "a/b"] {
        let refused = refused(|command| {
            command.arg("--vhost-user").arg(image.at("socket")).arg("--image").arg(image.path());
            command.args(["--format", "raw", "--name", name])
        });
        refused.says(USAGE, &["--name"]);
    }
}
