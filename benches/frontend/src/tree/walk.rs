//! Walks a tree through clients and verifies it: each client takes directories from one list, and has a file in hand for each
//! request that it may have in flight.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use zerocopy::IntoBytes;

use super::{Pattern, Shape, number};
use crate::abi::{Opcode, OpenIn, OpenOut, ROOT, ReadIn, ReleaseIn};
use crate::client::{Call, Client, Done, Entries, Payload};
use crate::error::{Error, Result};

/// Every second file is read in pieces of this size, so that offsets are odd.
const ODD_PIECE: u32 = 61_237;
const LISTING: u32 = 32 << 10;

/// What a walk saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Verified {
    pub files: u32,
    pub directories: u32,
    pub bytes: u64,
}

/// Walks the mount, with a thread a client, and verifies that it is exactly this tree.
pub fn verify(clients: &mut [Client], shape: &Shape) -> Result<Verified> {
    let list = List::default();
    let total = thread::scope(|scope| {
        let walks: Vec<_> = clients
            .iter_mut()
            .map(|client| scope.spawn(|| Walk::new(client, shape, &list).run()))
            .collect();
        let mut total = Verified::default();
        for walk in walks {
            let one = walk.join().map_err(|_| Error::Mismatch("a walk panicked".into()))??;
            total.files += one.files;
            total.directories += one.directories;
            total.bytes += one.bytes;
        }
        Ok::<_, Error>(total)
    })?;
    let (files, directories) = (shape.files(), shape.directories());
    let expected = Verified { files, directories, bytes: shape.bytes() };
    if total == expected {
        return Ok(total);
    }
    Err(Error::Mismatch(format!("the walk saw {total:?} instead of {expected:?}")))
}

/// Directories that wait for a client.
struct List {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: Vec<u64>,
    /// Clients that may still add to it.
    busy: usize,
}

impl Default for List {
    fn default() -> Self {
        let state = Mutex::new(State { waiting: vec![ROOT], busy: 0 });
        List { state, changed: Condvar::new() }
    }
}

impl List {
    fn take(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(directory) = state.waiting.pop() {
                state.busy += 1;
                return Some(directory);
            }
            if state.busy == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, found: Vec<u64>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.extend(found);
        state.busy -= 1;
        self.changed.notify_all();
    }
}

struct Walk<'a> {
    client: &'a mut Client,
    shape: &'a Shape,
    list: &'a List,
    seen: Verified,
    buffer: Vec<u8>,
}

/// A file in hand.
#[derive(Clone, Copy)]
struct Job {
    node: u64,
    number: u32,
    fh: u64,
    offset: u64,
    step: Step,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Open,
    Read,
    Release,
}

impl<'a> Walk<'a> {
    fn new(client: &'a mut Client, shape: &'a Shape, list: &'a List) -> Self {
        let buffer = vec![0; client.data_limit() as usize];
        Walk { client, shape, list, seen: Verified::default(), buffer }
    }

    fn run(mut self) -> Result<Verified> {
        while let Some(directory) = self.list.take() {
            let mut files = Vec::new();
            let mut found = Vec::new();
            let done = self
                .list_directory(directory, &mut files, &mut found)
                .and_then(|()| self.verify_files(files));
            // Others must not wait for a client that failed.
            self.list.finish(found);
            done?;
        }
        Ok(self.seen)
    }

    fn list_directory(
        &mut self,
        directory: u64,
        files: &mut Vec<(u64, u32)>,
        found: &mut Vec<u64>,
    ) -> Result<()> {
        const DIRECTORY: u32 = 4;
        let OpenOut { fh, .. } = self.client.opendir(directory)?;
        let mut offset = 0;
        loop {
            let bytes = self.client.readdirplus(directory, fh, offset, LISTING)?;
            if bytes.is_empty() {
                break;
            }
            for entry in Entries::new(&bytes) {
                let entry = entry?;
                offset = entry.dirent.off;
                let node = entry.entry.nodeid;
                match (entry.name, entry.dirent.kind) {
                    (b"." | b"..", _) => (),
                    (_, DIRECTORY) => found.push(node),
                    (name, _) => {
                        let number = number(name).filter(|number| *number < self.shape.files());
                        let number = number.ok_or_else(|| stranger(name))?;
                        self.shape.check_attributes(number, &entry.entry.attr)?;
                        files.push((node, number));
                    }
                }
            }
        }
        self.client.releasedir(directory, fh)?;
        self.seen.directories += u32::from(directory != ROOT);
        if directory != ROOT {
            self.client.forget(directory, 1)?;
        }
        Ok(())
    }

    fn verify_files(&mut self, files: Vec<(u64, u32)>) -> Result<()> {
        let mut files = files.into_iter();
        let mut jobs = Vec::new();
        while self.client.has_room() {
            let Some((node, number)) = files.next() else { break };
            let tag = jobs.len() as u64;
            jobs.push(Job { node, number, fh: 0, offset: 0, step: Step::Open });
            self.submit(&jobs[tag as usize], tag)?;
        }
        while self.client.in_flight() > 0 {
            let done = self.client.wait()?;
            let job = &mut jobs[done.tag as usize];
            if done.errno != 0 {
                let (number, errno) = (job.number, done.errno);
                return Err(Error::Mismatch(format!("file {number}: errno {errno}")));
            }
            if self.advance(job, &done)? {
                self.client.forget(job.node, 1)?;
                self.seen.files += 1;
                let Some((node, number)) = files.next() else { continue };
                *job = Job { node, number, fh: 0, offset: 0, step: Step::Open };
            }
            let job = *job;
            self.submit(&job, done.tag)?;
        }
        Ok(())
    }

    /// Takes an answer; true at the end.
    fn advance(&mut self, job: &mut Job, done: &Done) -> Result<bool> {
        match job.step {
            Step::Open => {
                job.fh = self.client.reply::<OpenOut>(done)?.fh;
                job.step = Step::Read;
            }
            Step::Read => {
                let bytes = &mut self.buffer[..done.len as usize];
                self.client.read_reply(done, 0, bytes);
                if let Some(at) = Pattern::new(job.number.into()).mismatch(job.offset, bytes) {
                    let number = job.number;
                    return Err(Error::Mismatch(format!("file {number} differs at byte {at}")));
                }
                job.offset += u64::from(done.len);
                self.seen.bytes += u64::from(done.len);
                let size = self.shape.sizes[job.number as usize];
                // Only the end is read short, and the end is where the size says.
                if done.len < piece(job.number, self.client) {
                    if job.offset != size {
                        let (number, end) = (job.number, job.offset);
                        return Err(Error::Mismatch(format!("file {number} ends at {end}")));
                    }
                    job.step = Step::Release;
                }
            }
            Step::Release => return Ok(true),
        }
        Ok(false)
    }

    fn submit(&mut self, job: &Job, tag: u64) -> Result<()> {
        let (node, fh) = (job.node, job.fh);
        match job.step {
            Step::Open => {
                let args = OpenIn::default();
                let args: &[&[u8]] = &[args.as_bytes()];
                let reply = size_of::<OpenOut>() as u32;
                self.client
                    .submit(&Call { op: Opcode::Open, node, args, reply, ..Call::default() }, tag)
            }
            Step::Read => {
                let size = piece(job.number, self.client);
                let args = ReadIn { fh, offset: job.offset, size, ..ReadIn::default() };
                let payload = Payload::Receive(size);
                let args: &[&[u8]] = &[args.as_bytes()];
                self.client.submit(&Call { op: Opcode::Read, node, args, payload, reply: 0 }, tag)
            }
            Step::Release => {
                let args = ReleaseIn { fh, ..ReleaseIn::default() };
                let args: &[&[u8]] = &[args.as_bytes()];
                self.client
                    .submit(&Call { op: Opcode::Release, node, args, ..Call::default() }, tag)
            }
        }
    }
}

fn piece(number: u32, client: &Client) -> u32 {
    if number % 2 == 1 { client.data_limit().min(ODD_PIECE) } else { client.data_limit() }
}

fn stranger(name: &[u8]) -> Error {
    Error::Mismatch(format!("{} is no file of the tree", name.escape_ascii()))
}
