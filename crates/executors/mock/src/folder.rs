//! The directory that stands for an engine.
//!
//! ```text
//! identity          the engine's identity, made once
//! ledger/NUMBER     what was launched, stopped and removed, see `journal`
//! refused/NAME      a launch that was answered with a 503, once
//! scratch/          what is not in its place yet
//! ```
//! A file that must appear whole is written in `scratch` and renamed to its place without replacing (renameat2), so that
//! a process killed at any moment leaves no half of one, and of two that make one file the second learns that it is
//! there. Nothing is synced: a power cut ends the simulated containers too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use uuid::Uuid;

const IDENTITY: &str = "identity";
const LEDGER: &str = "ledger";
const REFUSED: &str = "refused";
const SCRATCH: &str = "scratch";
/// Behind the number of a part of the ledger.
const PART: &str = ".jsonl";

/// An open directory.
#[derive(Debug)]
pub(crate) struct Folder {
    identity: PathBuf,
    ledger: PathBuf,
    refused: PathBuf,
    scratch: PathBuf,
    /// Unique to this process and folder: the beginning of its scratch files' names.
    writer: Uuid,
    written: AtomicU64,
}

impl Folder {
    /// Opens the directory, which is made if only itself is missing.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        make(root)?;
        let folder = |name| {
            let path = root.join(name);
            make(&path).map(|()| path)
        };
        let (ledger, refused, scratch) = (folder(LEDGER)?, folder(REFUSED)?, folder(SCRATCH)?);
        let (writer, written) = (Uuid::now_v7(), AtomicU64::new(0));
        let folder = Self { identity: root.join(IDENTITY), ledger, refused, scratch, writer, written };
        // Whoever comes second keeps what the first made.
        folder.put_file(&folder.identity, |file| file.write_all(Uuid::now_v7().to_string().as_bytes()))?;
        Ok(folder)
    }

    /// The engine's identity, read anew: the directory may have been replaced.
    pub(crate) fn identity(&self) -> io::Result<String> {
        fs::read_to_string(&self.identity)
    }

    /// The number of the last part of the ledger: 1 where there is none yet.
    pub(crate) fn last_part(&self) -> io::Result<u32> {
        Ok(parts_in(&self.ledger)?.last().map_or(1, |(number, _)| *number))
    }

    /// Whether the ledger has this part.
    pub(crate) fn has_part(&self, number: u32) -> bool {
        self.part(number).exists()
    }

    /// Makes a part of the ledger that begins with what `write` writes; false if somebody made it before.
    pub(crate) fn put_part(
        &self,
        number: u32,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> io::Result<bool> {
        self.put_file(&self.part(number), write)
    }

    /// Opens a part of the ledger, to read it and to append to it. The first is made so too.
    pub(crate) fn open_part(&self, number: u32) -> io::Result<File> {
        OpenOptions::new().read(true).append(true).create(number == 1).open(self.part(number))
    }

    fn part(&self, number: u32) -> PathBuf {
        // Listed in order up to ninety-nine million.
        self.ledger.join(format!("{number:08}{PART}"))
    }

    /// Notes that the launch under this name was refused; false if it was before.
    pub(crate) fn put_refused(&self, name: &str) -> io::Result<bool> {
        match File::create_new(self.refused.join(name)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Forgets the refusals that are older than `age`, and what killed processes began to write before.
    pub(crate) fn sweep(&self, age: Duration) -> io::Result<()> {
        for entry in fs::read_dir(&self.refused)?.chain(fs::read_dir(&self.scratch)?) {
            let path = entry?.path();
            let written = match fs::metadata(&path) {
                Ok(metadata) => metadata.modified()?,
                Err(error) => {
                    absent(&path, error)?;
                    continue;
                }
            };
            if written.elapsed().is_ok_and(|passed| passed > age) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Writes a file that appears whole; false if its place was taken.
    fn put_file(&self, path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<bool> {
        let scratch = self.scratch_path();
        let mut file = BufWriter::new(File::create_new(&scratch)?);
        write(&mut file)?;
        file.flush()?;
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

/// The parts of the ledger in an engine's directory, in their order.
pub(crate) fn parts(root: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(parts_in(&root.join(LEDGER))?.into_iter().map(|(_, path)| path).collect())
}

fn parts_in(ledger: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(ledger)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(PART)).and_then(|number| number.parse().ok());
        parts.extend(number.map(|number| (number, entry.path())));
    }
    parts.sort_unstable();
    Ok(parts)
}

fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|error| absent(path, error))
}

/// Nothing is wrong with a file that is not there. A directory that is not there is an error: the host is, not the file.
fn absent(path: &Path, error: io::Error) -> io::Result<()> {
    match path.parent() {
        Some(folder) if error.kind() == ErrorKind::NotFound && folder.is_dir() => Ok(()),
        _ => Err(error),
    }
}
