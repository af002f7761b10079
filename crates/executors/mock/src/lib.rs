//! Containers that are only simulated: for load, for crash tests and for producers' own tests.
//!
//! A host of type `mock` is a directory, `connection_config = {"dir": "/path"}`, shared by all workers of that
//! host on one machine. A container is a line in a ledger there which says all of it, immutable from its launch on, and
//! what it does is a function of that, the clock and the line of a stop. So it lives and ends whether or not a worker
//! looks, and workers may die and adopt as with a real engine. A file system in memory (`/dev/shm`) is the right place
//! for load: nothing has to reach a disk, and a restart of the machine ends the containers anyway.
//!
//! No command is run. What a job does is said by its labels, over the defaults in the host's `executor_config` (the
//! same keys without `mock.`). `docs/MOCK.md` has examples, and what a producer sees of each in Gantry.
//!
//! | label | value | default |
//! |---|---|---|
//! | `mock.duration` | how long it runs, such as `250ms` | `0s` |
//! | `mock.prepare_delay` | how long its image takes to prepare | `0s` |
//! | `mock.start_delay` | how long from launch to start | `0s` |
//! | `mock.hidden_for` | how long after its launch nobody sees it: late visibility, as clouds have it | `0s` |
//! | `mock.exit_code` | 0 to 255 | `0` |
//! | `mock.stdout`, `mock.stderr` | printed at the start, as it is | nothing |
//! | `mock.lines` | prints `line 1` to `line N`, evenly over the print time | `0` |
//! | `mock.line_bytes` | how long each line is, filled up with dots: 20 to 65536 bytes | as its number needs |
//! | `mock.print_time` | over how long the lines are printed; `0s` is all at once | its duration |
//! | `mock.stop_delay` | how long after a SIGTERM it heeds it; killed if the grace is shorter | `0s` |
//! | `mock.stop_ignores_term` | `true`: a stop ends it only after the grace | `false` |
//! | `mock.fail` | `none`, a fault, or faults with probabilities: `throttled:0.1,lost:0.01` | `none` |
//! | `mock.seed` | a whole number; another seed, other faults | `0` |
//! | `mock.key` | stands for the job's id in the choice of its fault, so that a run can be repeated | the id |
//!
//! In a host's `executor_config`, `fail` may be an object (`{"throttled": 0.1, "lost": 0.01}`), and `sick` names the
//! failure class with which the host's checks fail.
//!
//! The faults, of which an attempt meets at most one:
//!
//! - when the image is prepared (drawn by probability: at the launch): `image_not_found`, `image_pull_denied`
//! - the launch is refused, certainly: `invalid_spec`, `launch_rejected`, `no_capacity`, `throttled` (429),
//!   `host_unreachable`, `backend_error`
//! - the launch may have happened: `unavailable` (503, nothing was done, and the next launch of the attempt works),
//!   `lost_response` (launched, but the answer is lost)
//! - launched, and then: `hidden` (for `hidden_for`), `slow_start` (by `start_delay`), `start_failed` (there never is
//!   a container), `lost` (runs for its duration and is then nowhere to be found), `oom_killed`, `no_exit_code` (ends,
//!   and nobody has its exit code), `slow_stop` (by `stop_delay`), `log_flood` (prints its `lines`)
//!
//! Which one it is, is a pure function of seed, key and attempt: see [`fault()`]. An attempt that is launched again, by
//! whatever worker, meets what it met before. The four that have an amount (`hidden`, `slow_start`, `slow_stop`,
//! `log_flood`) need its key; with such a fault in `fail` the amount is only for those who meet it.
//!
//! A launch under one name is idempotent for ever, as with Docker, unless `GANTRY_MOCK_IDEMPOTENCE` (`never`, or a time
//! such as `24h`) makes the process like a worker of a cloud's, see [`MockExecutor::from_env`]. A launch that is
//! repeated against that is refused, and the ledger has it as the second container that it would have been.
//!
//! [`ledger`] reads what the containers themselves wrote down: what really ran, how much of it at once, and what is left.

mod behaviour;
mod clock;
mod container;
mod engine;
mod executor;
mod faults;
mod folder;
mod journal;
pub mod ledger;
mod memory;
mod output;

pub use executor::{Misconfigured, MockExecutor, fault};
pub use faults::Fault;

use std::process::ExitCode;

const NAME: &str = "gantry-worker-mock";

/// The `main` of `gantry-worker-mock`.
pub fn main() -> ExitCode {
    match MockExecutor::from_env() {
        Ok(executor) => gantry_worker::main(NAME, || executor),
        Err(error) => {
            eprintln!("{NAME}: {error}");
            ExitCode::FAILURE
        }
    }
}
