//! The directory that stands for an engine.
//!
//! ```text
//! identity          the engine's identity, made once
//! containers/NAME   one per container, made at its launch, immutable
//! stops/ID          a stop, if there was one
//! refused/NAME      a launch that was answered with a 503, once
//! ledger.jsonl      what ran, see `ledger`
//! scratch/          files being written
//! ```
//! Every file appears whole and at most once: it is written in `scratch` and renamed to its place without
//! replacing (renameat2), so that a process killed at any moment leaves no half of one, and of two that take one
//! name one learns that it was taken. Nothing is synced: a power cut ends the simulated containers too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags, renameat_with};
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
        let folder = Self { identity, containers, stops, refused, scratch, writer, written, ledger };
        // Whoever comes second keeps what the first made.
        folder.put(&folder.identity, Uuid::now_v7().to_string().as_bytes())?;
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
        self.containers.join(name).try_exists()
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
            fs::rename(self.scratch_file(&content)?, &path)?;
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
        self.put(&self.refused.join(name), b"")
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

    /// Adds a line to the ledger, in one write to a file opened for appending, so that lines of many processes
    /// never mix.
    pub(crate) fn append(&self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        (&self.ledger).write_all(&bytes)
    }

    /// Writes a file that appears whole; false if it was there.
    fn put(&self, path: &Path, content: &[u8]) -> io::Result<bool> {
        let scratch = self.scratch_file(content)?;
        match renameat_with(CWD, &scratch, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(error) => {
                remove(&scratch)?;
                if error == rustix::io::Errno::EXIST { Ok(false) } else { Err(error.into()) }
            }
        }
    }

    fn scratch_file(&self, content: &[u8]) -> io::Result<PathBuf> {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let path = self.scratch.join(format!("{}-{number}", self.writer.simple()));
        fs::write(&path, content)?;
        Ok(path)
    }
}

fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Nothing for a file that is not there. A directory that is not there is an error: the host is, not the file.
fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(serde_json::from_slice(&content)?)),
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
