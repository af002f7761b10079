//! Containers that are only simulated: for load, for crash tests and for producers' own tests.
//!
//! A host of type `mock` is a directory, `connection_config = {"dir": "/path"}`, shared by all workers of that
//! host on one machine. A container is a file there, immutable from its launch on, and what it does is a function
//! of that file, the clock and a stop mark. So it lives and ends whether or not a worker looks, and workers may
//! die and adopt as with a real engine. A file system in memory (`/dev/shm`) is the right place for load: ext4 makes
//! a file slowly where many were just deleted, and a restart of the machine ends the containers anyway. No command is run; what a job does is said by its labels, over the
//! defaults in the host's `executor_config` (the same keys without `mock.`):
//!
//! | label | value | default |
//! |---|---|---|
//! | `mock.duration` | how long it runs, such as `250ms` | `0s` |
//! | `mock.prepare_delay` | how long its image takes to prepare | `0s` |
//! | `mock.start_delay` | how long from launch to start | `0s` |
//! | `mock.exit_code` | 0 to 255 | `0` |
//! | `mock.stdout`, `mock.stderr` | printed at the start, as it is | nothing |
//! | `mock.lines` | prints `line 1` to `line N`, evenly over the duration | `0` |
//! | `mock.stop_ignores_term` | `true`: a stop ends it only after the grace | `false` |
//! | `mock.fail` | `none`, or a fault, see below | `none` |
//!
//! The faults: `image_not_found` and `image_pull_denied` (when the image is prepared); `invalid_spec`,
//! `launch_rejected`, `no_capacity`, `throttled`, `host_unreachable` and `backend_error` (the launch is refused);
//! `lost_response` (launched, but the answer is lost); `lost` (runs for its duration and is then nowhere to be
//! found); `oom_killed` (ends so after its duration).
//!
//! [`ledger`] reads what the containers themselves wrote down: what really ran, and how much of it at once.

mod behaviour;
mod clock;
mod container;
mod engine;
mod executor;
mod folder;
pub mod ledger;
mod memory;
mod output;

pub use executor::MockExecutor;
