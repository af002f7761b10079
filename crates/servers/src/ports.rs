//! TCP ports on 127.0.0.1 that a server keeps over restarts.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::Path;

use crate::{Error, Result};

/// Below the range that Linux takes for outgoing connections (from 32768), so that a port
/// cannot be taken by chance between two starts of its server.
const RANGE: Range<u16> = 20_000..32_000;

/// The port stored in `file` if it is still free, else a free one, stored: a server of the caller's own keeps it over
/// restarts.
pub fn kept_port(file: &Path) -> Result<u16> {
    let [port] = keep(file)?;
    Ok(port)
}

/// The `N` ports stored in `file` if all of them are still free, else `N` free ones, stored.
pub(crate) fn keep<const N: usize>(file: &Path) -> Result<[u16; N]> {
    if let Some(ports) = stored(file)
        && ports.iter().all(|port| is_free(*port))
    {
        return Ok(ports);
    }
    let ports = free()?;
    let text: String = ports.iter().map(|port| format!("{port}\n")).collect();
    fs::write(file, text).map_err(Error::io("write", file))?;
    Ok(ports)
}

fn stored<const N: usize>(file: &Path) -> Option<[u16; N]> {
    let text = fs::read_to_string(file).ok()?;
    let ports: Vec<u16> = text.lines().map(str::parse).collect::<Result<_, _>>().ok()?;
    ports.try_into().ok()
}

fn free<const N: usize>() -> Result<[u16; N]> {
    // Start anywhere: processes that look for ports at the same time should not meet. A new
    // `RandomState` has new keys, so its hash of nothing is a random number.
    let random = RandomState::new().hash_one(()) as u16;
    let ports: Vec<u16> =
        RANGE.cycle().skip(usize::from(random)).take(RANGE.len()).filter(|port| is_free(*port)).take(N).collect();
    ports.try_into().map_err(|_| Error::NoFreePort)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_kept_while_they_are_free() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("ports");
        let first: [u16; 3] = keep(&file).expect("there are free ports");
        assert!(first.iter().all(|port| RANGE.contains(port)), "{first:?}");
        assert_eq!(keep(&file).expect("they are still free"), first);
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first[1])).expect("it is free");
        let second: [u16; 3] = keep(&file).expect("there are others");
        assert!(!second.contains(&first[1]), "{second:?}");
        drop(taken);
        assert_eq!(keep(&file).expect("they are still free"), second);
    }

    #[test]
    fn a_file_that_says_something_else_is_replaced() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("ports");
        fs::write(&file, "20000\nnonsense\n").expect("writes");
        let ports: [u16; 2] = keep(&file).expect("there are free ports");
        assert_eq!(keep(&file).expect("stored"), ports);
    }
}
