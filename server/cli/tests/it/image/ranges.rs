//! `fallocate`, `SEEK_DATA` and `SEEK_HOLE`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use super::export::{FORMATS, Format, Image, KIB, MIB, as_qemu, qemu_img};

const KEEP: FallocateFlags = FallocateFlags::KEEP_SIZE;
const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE;
const ZERO: FallocateFlags = FallocateFlags::ZERO_RANGE;
const NONE: FallocateFlags = FallocateFlags::empty();

/// Full of 5.
fn full(format: Format) -> Image {
    let image = Image::new(format, MIB);
    image.fill(0, MIB, 5);
    image
}

/// What became of a call, the size after it, and the parts of the content that are 5.
type Seen = (Result<(), Errno>, u64, Vec<(u64, u64)>);

/// `fallocate` of bytes on a full image.
fn allocate(path: &Path, mode: FallocateFlags, at: u64, len: u64) -> Seen {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let outcome = fallocate(&file, mode, at, len);
    let size = file.metadata().unwrap().len();
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    (outcome, size, runs(&bytes))
}

/// Where `bytes` are 5; elsewhere they must be 0.
fn runs(bytes: &[u8]) -> Vec<(u64, u64)> {
    let mut runs = Vec::new();
    let mut at = 0;
    for run in bytes.chunk_by(|left, right| left == right) {
        let end = at + run.len() as u64;
        match run[0] {
            5 => runs.push((at, end)),
            byte => assert_eq!(byte, 0, "at {at}"),
        }
        at = end;
    }
    runs
}

/// The same call by QEMU's export and by fsrv's, on each format.
fn as_qemu_allocates(args: &[&str], mode: FallocateFlags, at: u64, len: u64) -> Seen {
    let seen =
        FORMATS.map(|format| as_qemu(|| full(format), args, |path| allocate(path, mode, at, len)));
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
    seen[0].clone()
}

#[test]
fn preallocation_at_the_end_extends_the_image() {
    for args in [&["--writable"][..], &["--writable", "--growable"]] {
        for (at, len) in [(MIB, 128 * KIB), (MIB + 64 * KIB, 64 * KIB)] {
            let seen = as_qemu_allocates(args, NONE, at, len);
            assert_eq!(seen, (Ok(()), at + len, vec![(0, MIB)]), "{args:?}");
        }
    }
}

#[test]
fn preallocation_at_the_end_takes_its_blocks() {
    use std::os::unix::fs::MetadataExt;
    let image = full(Format::Raw);
    let export = image.serve(&["--writable"]);
    fallocate(export.open(), NONE, MIB, MIB).unwrap();
    export.stop();
    let stat = std::fs::metadata(image.path()).unwrap();
    assert_eq!((stat.len(), stat.blocks() >= 2 * MIB / 512), (2 * MIB, true));
}

#[test]
fn preallocation_before_the_end_is_not_supported() {
    for (at, len) in [(0, MIB), (0, 2 * MIB), (MIB - 4 * KIB, 4 * KIB)] {
        let seen = as_qemu_allocates(&["--writable"], NONE, at, len);
        assert_eq!(seen, (Err(Errno::OPNOTSUPP), MIB, vec![(0, MIB)]));
    }
}

#[test]
fn preallocation_that_keeps_the_size_is_not_supported() {
    for at in [0, MIB] {
        let seen = as_qemu_allocates(&["--writable"], KEEP, at, 64 * KIB);
        assert_eq!(seen, (Err(Errno::OPNOTSUPP), MIB, vec![(0, MIB)]));
    }
}

#[test]
fn a_hole_is_punched_and_reads_as_zeroes() {
    let seen = as_qemu_allocates(&["--writable"], PUNCH | KEEP, 128 * KIB, 256 * KIB);
    assert_eq!(seen, (Ok(()), MIB, vec![(0, 128 * KIB), (384 * KIB, MIB)]));
}

#[test]
fn a_hole_of_any_alignment_reads_as_zeroes_exactly_there() {
    for format in FORMATS {
        for args in [&["--writable"][..], &["--writable", "--host-cache", "direct"]] {
            for mode in [PUNCH | KEEP, ZERO, ZERO | KEEP] {
                let image = full(format);
                let export = image.serve(args);
                let seen = allocate(export.file(), mode, 100_001, 200_003);
                let expected = vec![(0, 100_001), (300_004, MIB)];
                assert_eq!(seen, (Ok(()), MIB, expected), "{format:?} {args:?} {mode:?}");
                export.stop();
                image.is_consistent();
            }
        }
    }
}

#[test]
fn a_hole_frees_the_blocks_of_the_host() {
    use std::os::unix::fs::MetadataExt;
    let image = full(Format::Raw);
    let export = image.serve(&["--writable"]);
    fallocate(export.open(), PUNCH | KEEP, 0, MIB / 2).unwrap();
    export.stop();
    let blocks = std::fs::metadata(image.path()).unwrap().blocks();
    assert!(blocks <= MIB / 2 / 512 + 8, "{blocks} blocks");
}

#[test]
fn a_hole_across_the_end_ends_there() {
    let seen = as_qemu_allocates(&["--writable"], PUNCH | KEEP, MIB - 64 * KIB, MIB);
    assert_eq!(seen, (Ok(()), MIB, vec![(0, MIB - 64 * KIB)]));
}

#[test]
fn a_range_is_zeroed() {
    for mode in [ZERO, ZERO | KEEP] {
        let seen = as_qemu_allocates(&["--writable"], mode, 64 * KIB, 64 * KIB);
        assert_eq!(seen, (Ok(()), MIB, vec![(0, 64 * KIB), (128 * KIB, MIB)]));
    }
}

#[test]
fn a_zeroed_range_across_the_end_extends_the_image_unless_it_keeps_the_size() {
    for (mode, size) in [(ZERO, MIB + 64 * KIB), (ZERO | KEEP, MIB)] {
        let seen = as_qemu_allocates(&["--writable"], mode, MIB - 64 * KIB, 128 * KIB);
        assert_eq!(seen, (Ok(()), size, vec![(0, MIB - 64 * KIB)]));
    }
}

#[test]
fn other_modes_are_not_supported() {
    for mode in [
        FallocateFlags::COLLAPSE_RANGE,
        FallocateFlags::INSERT_RANGE,
        FallocateFlags::UNSHARE_RANGE,
        FallocateFlags::UNSHARE_RANGE | KEEP,
    ] {
        let seen = as_qemu_allocates(&["--writable"], mode, 0, 64 * KIB);
        assert_eq!(seen, (Err(Errno::OPNOTSUPP), MIB, vec![(0, MIB)]), "{mode:?}");
    }
}

/// Data at three places, of which one was made a hole again.
fn partly(format: Format) -> Image {
    let image = Image::new(format, 4 * MIB);
    for (at, len) in
        [(0, 64 * KIB), (MIB, 128 * KIB), (2 * MIB, MIB), (4 * MIB - 64 * KIB, 64 * KIB)]
    {
        image.fill(at, len, 5);
    }
    image.io(&["-d", "unmap"], &format!("write -z -u {} {}", 2 * MIB + 256 * KIB, 256 * KIB));
    image
}

/// Where data is, found from the start on.
fn data(path: &Path) -> Vec<(u64, u64)> {
    let file = File::open(path).unwrap();
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
        at = seek(&file, SeekFrom::Hole(start)).expect("data ends somewhere");
        found.push((start, at));
    }
    assert_eq!(seek(&file, SeekFrom::Data(at)), Err(Errno::NXIO));
    found
}

/// Where data is, as `qemu-img map` tells it: neighbours are one.
fn map(image: &Image, format: Format) -> Vec<(u64, u64)> {
    let path = image.path();
    let args = ["map", "-f", format.name(), "--output=json"].map(str::to_owned);
    let printed = qemu_img(args.into_iter().chain([path.display().to_string()]));
    let mut found: Vec<(u64, u64)> = Vec::new();
    for line in printed.lines().filter(|line| line.contains("\"data\": true")) {
        let (start, length) = (number(line, "start"), number(line, "length"));
        match found.last_mut() {
            Some((_, end)) if *end == start => *end += length,
            _ => found.push((start, start + length)),
        }
    }
    found
}

/// The number behind a key in a line of JSON.
fn number(line: &str, key: &str) -> u64 {
    let (_, rest) = line.split_once(&format!("\"{key}\": ")).expect("the key");
    let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().expect("a number")
}

#[test]
fn data_and_holes_are_those_of_the_image() {
    for format in FORMATS {
        let seen = as_qemu(|| partly(format), &[], data);
        assert_eq!(seen, map(&partly(format), format), "{format:?}");
        assert_eq!(seen.len(), 5, "{format:?}: {seen:?}");
    }
}

#[test]
fn seeking_from_within_finds_the_nearest() {
    for format in FORMATS {
        let seen = as_qemu(
            || partly(format),
            &[],
            |path| {
                let file = File::open(path).unwrap();
                let places = [10, MIB - 1, MIB + 5, 3 * MIB + 1, 4 * MIB - 1, 4 * MIB, 5 * MIB];
                places.map(|at| (seek(&file, SeekFrom::Data(at)), seek(&file, SeekFrom::Hole(at))))
            },
        );
        let end = 4 * MIB;
        let expected = [
            (Ok(10), Ok(64 * KIB)),
            (Ok(MIB), Ok(MIB - 1)),
            (Ok(MIB + 5), Ok(MIB + 128 * KIB)),
            (Ok(end - 64 * KIB), Ok(3 * MIB + 1)),
            (Ok(end - 1), Ok(end)),
            // Where it ends there is an empty hole; another file has none.
            (Err(Errno::NXIO), Ok(end)),
            (Err(Errno::NXIO), Err(Errno::NXIO)),
        ];
        assert_eq!(seen, expected, "{format:?}");
    }
}

#[test]
fn what_is_written_is_data_and_what_is_punched_a_hole() {
    for format in FORMATS {
        let image = Image::new(format, 4 * MIB);
        let export = image.serve(&["--writable"]);
        let file = export.open();
        file.write_all_at(&vec![1; MIB as usize], MIB).unwrap();
        assert_eq!(data(export.file()), [(MIB, 2 * MIB)], "{format:?}");
        fallocate(&file, PUNCH | KEEP, MIB + 256 * KIB, 256 * KIB).unwrap();
        let expected = [(MIB, MIB + 256 * KIB), (MIB + 512 * KIB, 2 * MIB)];
        assert_eq!(data(export.file()), expected, "{format:?}");
        drop(file);
        export.stop();
        assert_eq!(map(&image, format), expected, "{format:?}");
    }
}

#[test]
fn an_empty_image_is_one_hole() {
    for format in FORMATS {
        let empty = || Image::new(format, 64 * MIB);
        let first = as_qemu(empty, &[], |path| {
            let file = File::open(path).unwrap();
            (seek(&file, SeekFrom::Data(0)), seek(&file, SeekFrom::Hole(0)))
        });
        assert_eq!(first, (Err(Errno::NXIO), Ok(0)), "{format:?}");
    }
}
