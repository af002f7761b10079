//! The ledger as a process takes part in it: every launch, stop and removal on a host, in one order for all processes.
//!
//! A line is added with one write to a file that is opened for appending, which the kernel does one after the other and
//! whole. Their order is the order in which things happened, and what is there follows from the lines alone: of two
//! that launch one name the first has it, and a second removal does nothing. Before its own line counts, its writer has
//! taken in all that stand above it, and so learns that it came second. What was written outlives its writer.
//!
//! A line counts if it is JSON from one line's end to the next. A process killed in the middle of a write can leave a
//! piece without an end. Together with the line that is appended to it that piece is no JSON, wherever it was cut; who
//! appended it sees the piece, and appends once more.
//!
//! The ledger is a row of files, so that who opens it need not read all that ever ran. Whoever finds the last part long
//! enough closes it with a line, below which nothing counts: what was written there is written again in the next part.
//! That begins with what was there at the line, and is made whole by whoever comes to the line and does not find it.
//! So it does not matter who closes a part, whether two do, or whether one is killed having done it.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::sync::Arc;

use rustix::fs::fstat;

use crate::folder::Folder;
use crate::ledger::Line;
use crate::memory::Memory;

/// How long a part is at least when it is closed: some ten thousand containers that come and go.
const PART_BYTES: u64 = 4 << 20;

/// And how many times as long as its beginning: what is there is written again only now and then.
const OVER_BEGINNING: u64 = 4;

/// Room for a line of a container that does nothing.
const LINE: usize = 512;

/// The ledger of an engine, and what it says.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: Arc<Folder>,
    memory: Memory,
    /// The part that is written to.
    number: u32,
    file: File,
    /// Up to where the part was read: where a line begins.
    read: u64,
    /// Where that ends with which the part began.
    beginning: u64,
    /// [`PART_BYTES`], but for tests.
    part_bytes: u64,
}

impl Journal {
    /// Opens the ledger of a directory; nothing is read yet.
    pub(crate) fn open(folder: Arc<Folder>) -> io::Result<Self> {
        let number = folder.last_part()?;
        let file = folder.open_part(number)?;
        let memory = Memory::default();
        Ok(Self { folder, memory, number, file, read: 0, beginning: 0, part_bytes: PART_BYTES })
    }

    /// What was read, which may not be all.
    pub(crate) fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// What the ledger says by now.
    pub(crate) fn current(&mut self) -> io::Result<&mut Memory> {
        while !self.read_to(self.length()?)? {}
        Ok(&mut self.memory)
    }

    /// Adds a line. False if it says nothing new, because of what others had added before.
    pub(crate) fn append(&mut self, line: Line) -> io::Result<bool> {
        let bytes = bytes_of(&line)?;
        loop {
            let begin = self.write(&bytes)?;
            // Below a closing line, or behind a piece, it does not count.
            if self.read_to(begin)? && self.read == begin {
                break;
            }
        }
        self.read += length(&bytes);
        let is_new = self.memory.apply(line);
        if self.read > self.part_bytes + OVER_BEGINNING * self.beginning {
            // Nothing is wrong if that fails: the part gets longer.
            let _ = self.close();
        }
        Ok(is_new)
    }

    /// Writes a line as it is; returns where it begins.
    fn write(&self, line: &[u8]) -> io::Result<u64> {
        let mut file = &self.file;
        if file.write(line)? < line.len() {
            return Err(ErrorKind::WriteZero.into());
        }
        // The end of what was appended, and of nothing that others have appended since.
        let end = file.stream_position()?;
        end.checked_sub(length(line)).filter(|begin| *begin >= self.read).ok_or_else(cut)
    }

    /// The length of the part now. A part that was deleted is an error: the host is gone, not its containers.
    fn length(&self) -> io::Result<u64> {
        let stat = fstat(&self.file)?;
        if stat.st_nlink == 0 {
            return Err(ErrorKind::NotFound.into());
        }
        u64::try_from(stat.st_size).ok().filter(|length| *length >= self.read).ok_or_else(cut)
    }

    /// Takes in the whole lines up to `until`. False if the part was closed above: the next is the one that is read now.
    fn read_to(&mut self, until: u64) -> io::Result<bool> {
        if self.read == until {
            return Ok(true);
        }
        let (memory, beginning) = (&mut self.memory, &mut self.beginning);
        let (end, closed) = lines(&self.file, self.read, until, |line, end| match line {
            Line::Begun => *beginning = end,
            line => {
                memory.apply(line);
            }
        })?;
        self.read = end;
        if closed {
            self.turn()?;
        }
        Ok(!closed)
    }

    /// Goes on to the next part, and makes it if nobody did.
    fn turn(&mut self) -> io::Result<()> {
        let (next, memory, mut written) = (self.number + 1, &self.memory, 0);
        let is_made = !self.folder.has_part(next)
            && self.folder.put_part(next, |file| {
                // Line by line: it may be long.
                for line in memory.lines().chain([Line::Begun]) {
                    let line = bytes_of(&line)?;
                    written += length(&line);
                    file.write_all(&line)?;
                }
                Ok(())
            })?;
        self.file = self.folder.open_part(next)?;
        self.number = next;
        // What another made says the same, but how long that is, it says itself.
        self.read = if is_made { written } else { 0 };
        self.beginning = self.read;
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        self.write(&bytes_of(&Line::Closed)?)?;
        self.current().map(drop)
    }
}

/// Gives `take` the lines of a part that count, from one that begins at `from` up to `until`, each with where it ends.
/// Returns where the first line begins that was not taken: a closing line (true), or one that has no end yet.
pub(crate) fn lines(
    mut file: &File,
    from: u64,
    until: u64,
    mut take: impl FnMut(Line, u64),
) -> io::Result<(u64, bool)> {
    file.seek(SeekFrom::Start(from))?;
    let mut reader = BufReader::new(file.take(until.saturating_sub(from)));
    let (mut read, mut bytes) = (from, Vec::new());
    loop {
        bytes.clear();
        reader.read_until(b'\n', &mut bytes)?;
        if bytes.last() != Some(&b'\n') {
            return Ok((read, false));
        }
        let end = read + length(&bytes);
        match serde_json::from_slice(&bytes) {
            Ok(Line::Closed) => return Ok((read, true)),
            Ok(line) => take(line, end),
            // A piece, and what was appended to it.
            Err(_) => {}
        }
        read = end;
    }
}

fn bytes_of(line: &Line) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(LINE);
    serde_json::to_writer(&mut bytes, line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn length(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}

fn cut() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the ledger is shorter than it was")
}

#[cfg(test)]
mod tests;
