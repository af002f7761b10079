//! The directory that stands for an engine.
//!
//! ```text
//! identity          the engine's identity, made once
//! containers/NAME   one per container, made at its launch, immutable
//! stops/ID          a stop, if there was one
//! refused/NAME      a launch that was answered with a 503, once
//! ledger.jsonl      what ran, see `ledger`
//! scratch/          what is not in its place yet
//! ```
//! A container and a stop are symbolic links that lead nowhere: the target is the content. One call makes such a link,
//! whole, and only where nothing has its name, so that a process killed at any moment leaves no half of one, and of two
//! that take one name one learns that it was taken; one call reads it. A file would take four to make and five to read.
//! What is too long for a link is a file all the same, written in `scratch` and renamed to its place without replacing
//! (renameat2). Nothing is synced: a power cut ends the simulated containers too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags, readlinkat, renameat_with, symlinkat};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::container::{Container, Stop};
use crate::ledger::Line;

pub(crate) const CONTAINERS: &str = "containers";
pub(crate) const STOPS: &str = "stops";
pub(crate) const LEDGER: &str = "ledger.jsonl";
const IDENTITY: &str = "identity";
const SCRATCH: &str = "scratch";
const REFUSED: &str = "refused";

/// What a link's target can have at most, with the zero behind it.
const LINK_BYTES: usize = 4_096;
/// Bytes of lines that are held at most: they are one write.
const HELD: usize = 64 << 10;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Folder {
    identity: PathBuf,
    containers: PathBuf,
    stops: PathBuf,
    refused: PathBuf,
    scratch: PathBuf,
    /// Unique to this process and folder: the beginning of its scratch files' names.
    writer: Uuid,
    written: AtomicU64,
    ledger: File,
    /// Lines that are not in the ledger yet, see [`Folder::hold`].
    held: Mutex<Vec<u8>>,
}

impl Folder {
    /// Opens the directory, which is made if only itself is missing.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        make(root)?;
        let folder = |name| {
            let path = root.join(name);
            make(&path).map(|()| path)
        };
        let (containers, stops) = (folder(CONTAINERS)?, folder(STOPS)?);
        let (refused, scratch) = (folder(REFUSED)?, folder(SCRATCH)?);
        let ledger = OpenOptions::new().append(true).create(true).open(root.join(LEDGER))?;
        let identity = root.join(IDENTITY);
        let (writer, written) = (Uuid::now_v7(), AtomicU64::new(0));
        let held = Mutex::default();
        let folder = Self { identity, containers, stops, refused, scratch, writer, written, ledger, held };
        // Whoever comes second keeps what the first made.
        folder.put_file(&folder.identity, Uuid::now_v7().to_string().as_bytes())?;
        Ok(folder)
    }

    /// The engine's identity, read anew: the directory may have been replaced.
    pub(crate) fn identity(&self) -> io::Result<String> {
        fs::read_to_string(&self.identity)
    }

    /// Makes a container; false if the name is taken.
    pub(crate) fn put_container(&self, container: &Container) -> io::Result<bool> {
        self.put(&self.containers.join(&container.run.name), &serde_json::to_vec(container)?)
    }

    /// The container of this name.
    pub(crate) fn container(&self, name: &str) -> io::Result<Option<Container>> {
        read(&self.containers.join(name))
    }

    /// Whether there is one of this name, without reading it.
    pub(crate) fn has_container(&self, name: &str) -> io::Result<bool> {
        let path = self.containers.join(name);
        // Not what the link leads to, which is nothing.
        match fs::symlink_metadata(&path) {
            Ok(_) => Ok(true),
            Err(error) => absent(&path, error).map(|()| false),
        }
    }

    /// Whether this very container is there, just as this process would write it: comparing costs less than decoding.
    pub(crate) fn holds(&self, container: &Container) -> io::Result<bool> {
        let there = content(&self.containers.join(&container.run.name))?;
        Ok(there == Some(serde_json::to_vec(container)?))
    }

    /// The names of all containers.
    pub(crate) fn container_names(&self) -> io::Result<Vec<String>> {
        names(&self.containers)
    }

    /// Removes a container. Its stop stays: a process that remembers the container as running learns from the stop
    /// to look again.
    pub(crate) fn remove_container(&self, name: &str) -> io::Result<()> {
        remove(&self.containers.join(name))
    }

    /// Removes the stop of a container that is long gone.
    pub(crate) fn remove_stop(&self, id: &str) -> io::Result<()> {
        remove(&self.stops.join(id))
    }

    /// Marks a container as stopped. A mark that is there is replaced only by a sooner end, as the caller saw it.
    pub(crate) fn put_stop(&self, id: &str, stop: Stop, replace: bool) -> io::Result<()> {
        let (path, content) = (self.stops.join(id), serde_json::to_vec(&stop)?);
        if !self.put(&path, &content)? && replace {
            let scratch = self.scratch_path();
            self.put(&scratch, &content)?;
            fs::rename(scratch, &path)?;
        }
        Ok(())
    }

    /// The stop of the container with this id.
    pub(crate) fn stop(&self, id: &str) -> io::Result<Option<Stop>> {
        read(&self.stops.join(id))
    }

    /// The ids of all stopped containers.
    pub(crate) fn stopped_ids(&self) -> io::Result<Vec<String>> {
        names(&self.stops)
    }

    /// When the set of stops was last changed, by the clock of the file system.
    pub(crate) fn stops_changed(&self) -> io::Result<SystemTime> {
        fs::metadata(&self.stops)?.modified()
    }

    /// Notes that the launch under this name was refused; false if it was before.
    pub(crate) fn put_refused(&self, name: &str) -> io::Result<bool> {
        match File::create_new(self.refused.join(name)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Forgets the refusals that are older than `age`.
    pub(crate) fn sweep_refused(&self, age: Duration) -> io::Result<()> {
        for entry in fs::read_dir(&self.refused)? {
            let path = entry?.path();
            let refused = match fs::metadata(&path) {
                Ok(metadata) => metadata.modified()?,
                Err(error) => {
                    absent(&path, error)?;
                    continue;
                }
            };
            if refused.elapsed().is_ok_and(|passed| passed > age) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Adds a line to the ledger together with those that are held, in one write to a file opened for appending, so
    /// that lines of many processes never mix.
    pub(crate) fn append(&self, line: &Line) -> io::Result<()> {
        let mut held = self.held();
        let before = held.len();
        put_line(&mut held, line)?;
        let written = self.write(&mut held);
        if written.is_err() {
            // The caller does not do what it says.
            held.truncate(before);
        }
        written
    }

    /// Keeps a line of which the directory itself says as much: it is written with the next one that is appended, or
    /// with the next look at the containers. A process killed before takes it along, and hides nothing.
    pub(crate) fn hold(&self, line: &Line) -> io::Result<()> {
        let mut held = self.held();
        put_line(&mut held, line)?;
        if held.len() < HELD { Ok(()) } else { self.write(&mut held) }
    }

    /// Writes the lines that are held.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut held = self.held();
        if held.is_empty() { Ok(()) } else { self.write(&mut held) }
    }

    fn write(&self, held: &mut Vec<u8>) -> io::Result<()> {
        (&self.ledger).write_all(held)?;
        held.clear();
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Vec<u8>> {
        self.held.lock().expect("nothing panics while it holds the lines")
    }

    /// Makes a link whose target is `content`, or a file of it where no link can be; false if its place was taken.
    fn put(&self, path: &Path, content: &[u8]) -> io::Result<bool> {
        match symlinkat(content, CWD, path) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            // Too long, or the file system has no links.
            Err(Errno::NAMETOOLONG | Errno::PERM) => self.put_file(path, content),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a file that appears whole; false if its place was taken.
    fn put_file(&self, path: &Path, content: &[u8]) -> io::Result<bool> {
        let scratch = self.scratch_path();
        fs::write(&scratch, content)?;
        match renameat_with(CWD, &scratch, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(error) => {
                remove(&scratch)?;
                if error == Errno::EXIST { Ok(false) } else { Err(error.into()) }
            }
        }
    }

    fn scratch_path(&self) -> PathBuf {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        self.scratch.join(format!("{}-{number}", self.writer.simple()))
    }
}

fn put_line(bytes: &mut Vec<u8>, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *bytes, line)?;
    bytes.push(b'\n');
    Ok(())
}

fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match content(path)? {
        Some(content) => Ok(Some(serde_json::from_slice(&content)?)),
        None => Ok(None),
    }
}

/// The target of a link, or what is in a file. Nothing for one that is not there. A directory that is not there is an
/// error: the host is, not the file.
pub(crate) fn content(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let content = match readlinkat(CWD, path, Vec::<u8>::with_capacity(LINK_BYTES)) {
        Ok(target) => Ok(target.into_bytes()),
        // No link.
        Err(Errno::INVAL) => fs::read(path),
        Err(error) => Err(error.into()),
    };
    match content {
        Ok(content) => Ok(Some(content)),
        Err(error) => absent(path, error).map(|()| None),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|error| absent(path, error))
}

fn absent(path: &Path, error: io::Error) -> io::Result<()> {
    match path.parent() {
        Some(folder) if error.kind() == ErrorKind::NotFound && folder.is_dir() => Ok(()),
        _ => Err(error),
    }
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
