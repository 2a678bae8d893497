//! Ends, while it hangs: of those who wait, of the mount, of the server.

use std::fs::File;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use super::callers::{Call, FILES, World, waiting};
use super::{until, within};
use crate::served::{THREADS_NEVER, URING_PREFER};

/// The longest that an end may take.
const END_LIMIT: Duration = Duration::from_secs(5);

const CORNERS: [&[&str]; 2] = [&URING_PREFER, &THREADS_NEVER];

/// Callers of each kind, a few of them, while nothing answers.
fn callers(world: &World) -> Vec<Child> {
    let open = |number| File::options().read(true).write(true).open(world.file(number)).unwrap();
    // Nobody has closed a file yet: the first close is what a FUSE filesystem is always told of.
    let files: Vec<_> = (0..FILES).map(open).collect();
    world.slow.stop();
    let calls = Call::ALL.iter().cycle().take(64);
    let start = |(number, call): (usize, &Call)| call.start(world, number, &files[number % FILES]);
    let mut callers: Vec<_> = calls.enumerate().map(start).collect();
    std::thread::sleep(Duration::from_millis(300));
    let waiting = waiting(&mut callers);
    assert!(waiting >= 40, "{waiting} wait");
    callers
}

fn kill(mut callers: Vec<Child>) {
    callers.iter_mut().for_each(|caller| caller.kill().unwrap());
    within(END_LIMIT, "the end of those who were killed", move || {
        for mut caller in callers {
            caller.wait().unwrap();
        }
    });
}

#[test]
fn those_who_wait_can_be_killed_and_then_it_can_be_unmounted() {
    for flags in [UnmountFlags::empty(), UnmountFlags::DETACH] {
        for corner in CORNERS {
            let mut world = World::new(corner);
            kill(callers(&world));

            let point = world.served.mounted().to_owned();
            within(END_LIMIT, "unmounting", move || {
                // The kernel tells of files that killed processes had open a little later.
                let mut result = unmount(&point, flags);
                for _ in 0..100 {
                    if result != Err(rustix::io::Errno::BUSY) {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                    result = unmount(&point, flags);
                }
                result.unwrap();
            });
            ends(&mut world);
        }
    }
}

#[test]
fn a_signal_ends_a_server_that_waits() {
    for corner in CORNERS {
        let mut world = World::new(corner);
        kill(callers(&world));
        world.served.mount.signal(Signal::TERM).unwrap();
        ends(&mut world);
    }
}

#[test]
fn a_signal_ends_a_server_whose_clients_wait() {
    let mut world = World::new(&URING_PREFER);
    let callers = callers(&world);
    // The mount is in use: it is detached after five seconds, or at once at the second signal.
    for _ in 0..2 {
        world.served.mount.signal(Signal::TERM).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    ends(&mut world);
    kill(callers);
}

/// The server ends well, in time, and leaves nothing behind once all is answered.
fn ends(world: &mut World) {
    let pid = world.served.mount.pid();
    let start = std::time::Instant::now();
    world.served.mount.ended().unwrap();
    assert!(start.elapsed() < END_LIMIT, "{:?}", start.elapsed());
    let leftovers = || {
        let list =
            Command::new("pgrep").args(["-f", world.served.backing().to_str().unwrap()]).output();
        String::from_utf8(list.unwrap().stdout).unwrap()
    };
    world.slow.go_on();
    until("nothing is left of the server", || {
        // What shows it is bindfs.
        leftovers().lines().filter(|line| *line == pid.to_string()).count() == 0
            && leftovers().lines().count() <= 1
    });
}
