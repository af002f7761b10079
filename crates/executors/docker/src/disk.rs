//! Whether an engine has room on its disk.
//!
//! Its API tells how much its images and containers take, after minutes of counting, and never how much is free. So the
//! free space is looked at where the engine is on this machine and its folder can be seen, and for every engine it counts
//! when it says itself that its disk is full.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use gantry_core::{Failure, FailureClass};

/// How long an engine that said that its disk is full gets no further job, unless its free space can be seen.
const FULL: Duration = Duration::from_secs(120);
/// How every part of an engine says so.
const NO_SPACE: &str = "no space left on device";

/// What is known of an engine's disk.
#[derive(Default)]
pub(crate) struct Disk {
    said_full: Mutex<Option<(Instant, String)>>,
}

impl Disk {
    /// The class of an error with this text if it is about a full disk, which is remembered.
    pub(crate) fn class_of(&self, text: &str) -> Option<FailureClass> {
        if !text.contains(NO_SPACE) {
            return None;
        }
        *self.said_full.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), text.to_owned()));
        Some(FailureClass::NoCapacity)
    }

    /// What the engine said of its full disk, a short while ago.
    fn said_full(&self) -> Option<String> {
        let mut said = self.said_full.lock().unwrap_or_else(PoisonError::into_inner);
        said.take_if(|(at, _)| at.elapsed() >= FULL);
        said.as_ref().map(|(_, text)| text.clone())
    }

    /// The free space in MiB, where it can be seen: `folder` is the engine's, if that is on this machine.
    ///
    /// # Errors
    /// `no_capacity`, with what to do, if it is less than `least`, or if the engine has said that its disk is full.
    pub(crate) async fn check(&self, folder: Option<PathBuf>, least: u64) -> Result<Option<u64>, Failure> {
        let no_room = |what: String| {
            let remedy = "free some with `docker system prune --all` there, or make the disk larger";
            Failure::new(FailureClass::NoCapacity, format!("{what}: {remedy}; jobs go there again by themselves then"))
        };
        let free = match &folder {
            Some(folder) => free(folder.clone()).await,
            None => None,
        };
        match (free, folder) {
            (Some(free), Some(folder)) if free < least => {
                let folder = folder.display();
                Err(no_room(format!("{folder} has {free} MiB free, and `min_free_disk_mb` is {least}")))
            }
            (None, _) if let Some(said) = self.said_full() => {
                Err(no_room(format!("the engine's disk is full ({said})")))
            }
            _ => Ok(free),
        }
    }
}

/// What a user other than root may still write there, in MiB; none if it cannot be seen from here.
async fn free(folder: PathBuf) -> Option<u64> {
    // Asked aside: a file system that hangs is not to hold this thread up.
    let stat = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&folder)).await;
    let stat = stat.ok()?.ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn too_little_is_no_capacity_and_enough_is_told() {
        let disk = Disk::default();
        let here = || Some(PathBuf::from("/"));
        let free = disk.check(here(), 0).await.expect("nothing is asked for").expect("it can be seen");
        assert!(free > 0);
        let failure = disk.check(here(), u64::MAX).await.expect_err("no disk is so large");
        assert_eq!(failure.class, FailureClass::NoCapacity);
        assert!(failure.message.contains("docker system prune"), "{failure}");
        assert_eq!(disk.check(Some("/no/such/folder".into()), u64::MAX).await, Ok(None), "it cannot be seen");
    }

    #[tokio::test]
    async fn an_engine_that_says_it_is_full_is_believed_for_a_while() {
        let disk = Disk::default();
        assert_eq!(disk.class_of("something else"), None);
        assert_eq!(disk.check(None, 1).await, Ok(None));
        let text = "write /x: no space left on device";
        assert_eq!(disk.class_of(text), Some(FailureClass::NoCapacity));
        let failure = disk.check(None, 1).await.expect_err("it said so");
        assert!(failure.message.contains(text), "{failure}");
        // What can be seen is worth more than what was said.
        assert!(disk.check(Some("/".into()), 0).await.is_ok());
    }
}
