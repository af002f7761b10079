//! The suite that every executor passes: the same cases for a container on a socket and a task in a cloud.
//!
//! A backend brings a [`Subject`]: its executor, a host and a spec for each need. In its `tests/contract.rs`:
//!
//! ```ignore
//! async fn subject() -> MySubject { /* the engine, a host on it */ }
//! gantry_worker::contract_tests!(subject);
//! ```
//!
//! That is one test per case. Each prints one line, `contract <executor> <case> ok`, or
//! `contract <executor> <case> n/a <reason>` where the backend cannot have the case; the lines of all backends
//! together are the matrix of what holds where.
//!
//! Every test makes a fleet of its own, so that cases run side by side on one engine, and removes what it
//! left there, failed or not.

#![expect(clippy::disallowed_methods, reason = "the suite asks the executor itself")]

mod bench;
pub mod cases;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use gantry_core::FailureClass;
use gantry_core::host::Host;
use gantry_core::spec::ResolvedSpec;

pub use bench::{Bench, Started};

use crate::executor::{ExecutionId, Executor, Launch};

/// Names a file that gets a line for each case that held, or cannot be had, in any process.
const MATRIX: &str = "GANTRY_CONTRACT_MATRIX";

/// Why a backend cannot have a case, in words for the matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotApplicable(pub &'static str);

/// What a case comes to; one that does not hold panics.
pub type Verdict = Result<(), NotApplicable>;

/// A spec that the subject makes, or why its backend has no such thing.
pub type Need = Result<ResolvedSpec, NotApplicable>;

/// How exactly a backend keeps what a container prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// Byte for byte, the streams apart.
    Bytes,
    /// Line by line, the streams apart: whether the last line had an end is not known.
    Lines,
    /// Line by line, both streams as one, which is read as standard output.
    MixedLines,
}

/// A backend under test.
///
/// Specs must run on [`Subject::host`] and carry nothing of a test: the suite adds name, fleet and job.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The executor.
    fn executor(&self) -> &dyn Executor;

    /// Another instance, with nothing in memory: the executor of the worker that adopts.
    fn another(&self) -> Box<dyn Executor>;

    /// A host that answers.
    fn host(&self) -> &Host;

    /// A host of the same kind that nobody answers for, such as a socket that is not there.
    fn unreachable_host(&self) -> Host;

    /// An identifier of the right shape that no container ever had.
    fn unknown_id(&self) -> ExecutionId;

    /// The longest that the engine takes for anything that is asked of it, on a busy machine.
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// Prints the two texts, byte for byte, and ends with 0 at once.
    fn print(&self, stdout: &str, stderr: &str) -> Need;

    /// Ends with `code` at once.
    fn exit(&self, code: i32) -> Need;

    /// Runs for `time` and ends with 0; ends at once on SIGTERM, with 143.
    fn sleep(&self, time: Duration) -> Need;

    /// Prints `line 1` to `line COUNT` to stdout, a line each, spread over `time`, and ends with 0.
    fn lines(&self, count: u32, time: Duration) -> Need;

    /// Prints the line `ready` to stdout once it no longer heeds SIGTERM, and then runs for `time`.
    fn ignore_term(&self, time: Duration) -> Need;

    /// Ends by this signal, as a container's own process does: with exit code 128 + `signal`.
    fn killed(&self, signal: i32) -> Need;

    /// Is killed at its memory limit.
    fn oom(&self) -> Need;

    /// How exactly the backend keeps what a container prints.
    fn log_kind(&self) -> LogKind {
        LogKind::Bytes
    }

    /// Names an image that does not exist.
    fn missing_image(&self) -> Need;

    /// Names an image that the registry refuses to give.
    fn denied_image(&self) -> Need;

    /// Is launched, and then fails to start: there never is a container. With the class of its end.
    fn fails_to_start(&self) -> Result<(ResolvedSpec, FailureClass), NotApplicable>;

    /// Finds no room at the place.
    fn no_room(&self) -> Need;

    /// Is not launched, because the backend asks to slow down.
    fn throttled(&self) -> Need;

    /// Is launched and runs for a minute or more, and for some seconds the backend knows nothing of it, neither by
    /// its id nor in a list.
    fn hidden_at_first(&self) -> Need;

    /// A host that answers and can run nothing: closed, full, or with credentials that are refused. With the class of
    /// its failed check.
    async fn sick_host(&self) -> Result<(Host, FailureClass), NotApplicable>;

    /// Passes `validate` and `prepare`, and is refused at launch with this class.
    fn refused_launch(&self) -> Result<(ResolvedSpec, FailureClass), NotApplicable>;

    /// Is refused by `validate`.
    fn invalid(&self) -> Need;

    /// Is launched, while the answer to its launch is lost: the executor says that it may have been.
    /// Where nothing can make the backend do so, the case of the dropped launch stands for it.
    fn lost_response(&self) -> Need {
        Err(NotApplicable("nothing makes this backend lose an answer; dropping the launch is tested"))
    }

    /// Leaves a container that was created and not started, as a worker that died half way does.
    async fn leave_created(&self, launch: &Launch) -> Result<ExecutionId, NotApplicable> {
        let _ = launch;
        Err(NotApplicable("this backend creates and starts in one step"))
    }
}

/// Runs one case against one subject, cleans up behind it, and prints its line of the matrix.
pub async fn run<S: Subject>(name: &str, subject: S, case: impl AsyncFnOnce(&Bench<'_>) -> Verdict) {
    let bench = Bench::new(&subject);
    let result = AssertUnwindSafe(case(&bench)).catch_unwind().await;
    bench.clean_up().await;
    let executor = subject.executor().executor_type();
    let line = match result {
        Ok(Ok(())) => format!("contract {executor} {name} ok"),
        Ok(Err(NotApplicable(reason))) => format!("contract {executor} {name} n/a {reason}"),
        Err(panic) => std::panic::resume_unwind(panic),
    };
    println!("{line}");
    if let Some(matrix) = std::env::var_os(MATRIX) {
        let written = OpenOptions::new().create(true).append(true).open(matrix).and_then(|mut file| {
            // In one piece: the cases of all executors run side by side.
            file.write_all(format!("{line}\n").as_bytes())
        });
        written.expect("the file of the matrix can be written");
    }
}

/// One `#[tokio::test]` for each case of the suite. `$subject` names an async function without arguments that
/// gives a [`Subject`]; it is called once per case. The calling crate needs tokio with its macros.
#[macro_export]
macro_rules! contract_tests {
    ($subject:path) => {
        $crate::contract_tests! { $subject:
            host::identity_is_stable,
            host::an_unreachable_host_fails_its_check,
            host::a_sick_host_fails_its_check,
            host::what_cannot_run_is_refused_before_anything_is_sent,
            launch::a_launch_runs_once_to_its_end,
            launch::a_launch_again_is_the_same_container,
            launch::a_launch_again_after_the_end_starts_nothing,
            launch::two_launches_at_once_are_one_container,
            launch::a_launch_whose_answer_is_lost_is_found,
            launch::a_launch_dropped_at_any_moment_is_adopted,
            launch::a_launch_to_nowhere_is_no_container,
            launch::a_refused_launch_leaves_nothing_running,
            launch::a_missing_image_is_named,
            launch::a_denied_pull_is_told_apart,
            launch::a_start_that_fails_without_a_container_is_an_end,
            launch::a_place_without_room_says_so,
            launch::a_throttled_launch_is_no_container,
            launch::a_created_container_is_adopted_and_started,
            end::exit_codes_are_kept,
            end::a_signal_is_128_and_its_number,
            end::an_oom_kill_is_told_apart,
            observe::many_are_observed_at_once,
            observe::none_are_observed_as_none,
            observe::a_poll_error_is_no_state,
            observe::what_is_not_visible_yet_is_not_gone,
            observe::another_worker_sees_the_same,
            observe::waiting_for_a_change_ends_in_time,
            logs::logs_begin_with_the_first_byte,
            logs::small_pages_make_the_whole,
            logs::reading_again_gives_the_same,
            logs::a_silent_container_has_an_empty_log,
            logs::a_running_container_is_followed,
            stop::sigterm_is_heeded_before_the_grace_is_over,
            stop::sigkill_follows_the_grace,
            stop::stopping_what_is_over_succeeds,
            stop::stopping_on_an_unreachable_host_fails,
            find::a_container_is_found_in_every_state,
            find::what_never_was_is_absent,
            find::an_unreachable_host_knows_nothing,
            remove::what_ended_is_removed_for_good,
            remove::a_running_container_is_not_removed,
            remove::a_created_container_is_removed,
            owned::only_this_fleet_is_listed,
            owned::a_created_container_is_listed,
        }
    };
    ($subject:path: $($module:ident :: $case:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            $crate::contract::run(stringify!($case), $subject().await, $crate::contract::cases::$module::$case).await;
        }
    )+};
}
