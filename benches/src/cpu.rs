//! Which process used how much of the CPU: where the time of a run went.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

/// The unit of times in /proc: Linux shows hundredths of a second there, whatever the kernel counts in.
const TICKS: f64 = 100.0;

/// Seconds of CPU by name, since the processes began.
#[derive(Clone, Debug, Default)]
pub(crate) struct Used(BTreeMap<String, f64>);

impl Used {
    /// Of `trees` with all their descendants, those that have ended included; of `single` alone.
    pub(crate) fn of<'a>(
        trees: impl IntoIterator<Item = (&'a str, u32)>,
        single: impl IntoIterator<Item = (&'a str, u32)>,
    ) -> Self {
        let all = processes();
        let mut used = BTreeMap::new();
        for (name, root) in trees {
            *used.entry(name.to_owned()).or_default() += tree(&all, root);
        }
        for (name, pid) in single {
            *used.entry(name.to_owned()).or_default() += all.get(&pid).map_or(0.0, |process| process.own);
        }
        Self(used)
    }

    /// What was used since an earlier look.
    pub(crate) fn since(&self, earlier: &Self) -> Value {
        let spent = |name: &String, now: &f64| now - earlier.0.get(name).copied().unwrap_or_default();
        let by_name: BTreeMap<&String, f64> =
            self.0.iter().map(|(name, now)| (name, (spent(name, now) * 100.0).round() / 100.0)).collect();
        json!(by_name)
    }
}

struct Process {
    parent: u32,
    own: f64,
    /// Of children that it has waited for.
    waited_for: f64,
}

fn tree(all: &BTreeMap<u32, Process>, root: u32) -> f64 {
    let children = all.iter().filter(|(_, process)| process.parent == root).map(|(pid, _)| tree(all, *pid));
    all.get(&root).map_or(0.0, |process| process.own + process.waited_for) + children.sum::<f64>()
}

/// Every process of this machine.
fn processes() -> BTreeMap<u32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name, in parentheses, may have anything in it.
            let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
            let seconds = |index: usize| fields.get(index)?.parse::<f64>().ok().map(|count| count / TICKS);
            let process = Process {
                parent: fields.get(1)?.parse().ok()?,
                own: seconds(11)? + seconds(12)?,
                waited_for: seconds(13)? + seconds(14)?,
            };
            Some((pid, process))
        })
        .collect()
}

/// The resident memory of a process, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
