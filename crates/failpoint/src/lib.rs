//! Named places at which a process can be made to die, exactly there and as hard as a machine can.
//!
//! The points stand where Gantry's promises could break: before and after every commit, publish, ack and request
//! to a backend. They are not scattered over the code: each of those four things is done in one place, which
//! passes the points, and the raw calls are banned by `clippy.toml`.
//!
//! - `GANTRY_FAILPOINT=name` or `name@n`: the process kills itself with SIGKILL when it passes `name` for the first
//!   (or `n`th) time.
//! - `GANTRY_FAILPOINT_FIRED=path`: before it dies, it writes the name there, as proof.
//! - `GANTRY_FAILPOINTS_SEEN=path`: every name is appended there when it is first passed.
//!
//! Without these variables a point costs one load of a pointer.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use rustix::process::{Signal, getpid, kill_process};

struct Plan {
    /// The fatal point and which passing of it.
    fatal: Option<(String, u32)>,
    passed: AtomicU32,
    fired: Option<PathBuf>,
    seen: Option<(PathBuf, Mutex<HashSet<String>>)>,
}

static PLAN: OnceLock<Option<Plan>> = OnceLock::new();

/// Passes the point `kind.name.side`, such as `commit.claims::claim.before`.
pub fn pass(kind: &str, name: &str, side: Side) {
    if let Some(plan) = PLAN.get_or_init(Plan::from_environment) {
        plan.pass(&format!("{kind}.{name}.{side}", side = side.as_str()));
    }
}

/// On which side of the deed a point stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It has not been done.
    Before,
    /// It has been done, and nobody knows yet.
    After,
}

impl Side {
    fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// Does `deed` between its two points.
pub async fn around<T>(kind: &str, name: &str, deed: impl Future<Output = T>) -> T {
    pass(kind, name, Side::Before);
    let done = deed.await;
    pass(kind, name, Side::After);
    done
}

impl Plan {
    fn from_environment() -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let fatal = variable("GANTRY_FAILPOINT").map(|text| parse(&text));
        let seen = variable("GANTRY_FAILPOINTS_SEEN").map(|path| (path.into(), Mutex::default()));
        if fatal.is_none() && seen.is_none() {
            return None;
        }
        let fired = variable("GANTRY_FAILPOINT_FIRED").map(PathBuf::from);
        Some(Self { fatal, passed: AtomicU32::new(0), fired, seen })
    }

    fn pass(&self, point: &str) {
        if let Some((path, seen)) = &self.seen
            && seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(point.to_owned())
        {
            append(path, point);
        }
        if let Some((fatal, nth)) = &self.fatal
            && fatal == point
            && self.passed.fetch_add(1, Ordering::SeqCst) + 1 == *nth
        {
            if let Some(path) = &self.fired {
                append(path, point);
            }
            // Nothing is flushed, closed or told: that is the point.
            let _ = kill_process(getpid(), Signal::KILL);
            loop {
                std::thread::park();
            }
        }
    }
}

fn parse(text: &str) -> (String, u32) {
    match text.rsplit_once('@') {
        Some((name, nth)) => (name.to_owned(), nth.parse().unwrap_or(1)),
        None => (text.to_owned(), 1),
    }
}

fn append(path: &PathBuf, line: &str) {
    let file = OpenOptions::new().create(true).append(true).open(path);
    if let Err(error) = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())) {
        eprintln!("gantry-failpoint: cannot write {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_the_point_and_the_passing() {
        assert_eq!(parse("commit.claims::claim.after"), ("commit.claims::claim.after".to_owned(), 1));
        assert_eq!(parse("ack.gantry.reports.before@3"), ("ack.gantry.reports.before".to_owned(), 3));
    }
}
