//! Servers that still run in a folder because their supervisor was killed.
//!
//! A server is started with its folder as working directory, and the lock on the folder says
//! that no living supervisor owns it. So a process of the right name in that working directory
//! is a leftover: no pid file can say so without being fooled by a pid that was used again.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::process::{POLL, STOP_WITHIN};

/// Stops the processes called one of `names` that work in `folder`, and waits until they have
/// ended. Kills those that do not end in time.
pub(crate) async fn stop(folder: &Path, names: &[&str], signal: Signal) {
    let found = processes(folder, names);
    for (pid, parent) in &found {
        // Workers are stopped by their master, which wants to do it in its own order.
        if !found.contains_key(parent) {
            tracing::info!(?pid, ?folder, "stopping a server left by an earlier run");
            // An error: it has ended just now.
            let _ = kill_process(*pid, signal);
        }
    }
    let mut deadline = Instant::now() + STOP_WITHIN;
    loop {
        let left = processes(folder, names);
        if left.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            for pid in left.into_keys() {
                let _ = kill_process(pid, Signal::KILL);
            }
            deadline = Instant::now() + STOP_WITHIN;
        }
        sleep(POLL).await;
    }
}

/// The processes called one of `names` whose working directory is `folder`, with their parents.
pub(crate) fn processes(folder: &Path, names: &[&str]) -> HashMap<Pid, Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return HashMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let works_in = fs::read_link(entry.path().join("cwd")).ok()?;
            (works_in == folder).then_some(())?;
            // "pid (name) state parent ...", and the name may hold spaces and brackets.
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let (head, rest) = stat.rsplit_once(')')?;
            let (_, name) = head.split_once('(')?;
            names.contains(&name).then_some(())?;
            let parent = Pid::from_raw(rest.split_whitespace().nth(1)?.parse().ok()?)?;
            Some((pid, parent))
        })
        .collect()
}
