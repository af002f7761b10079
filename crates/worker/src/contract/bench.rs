//! What the cases share: launching under a name of their own, waiting on states, reading a log, cleaning up.

use std::time::Duration;

use gantry_core::naming::external_name;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{FleetId, JobId};
use tokio::time::Instant;

use super::Subject;
use crate::executor::{End, ExecutionId, Executor, Found, Launch, LogCursor, LogPage, Observed, Owned, Stream};

/// Between two looks at a state that is waited for.
const POLL: Duration = Duration::from_millis(20);

/// A subject and the fleets of one case.
pub struct Bench<'a> {
    /// The backend under test.
    pub subject: &'a dyn Subject,
    /// The fleet that the case's containers belong to.
    pub fleet: FleetId,
    /// A second one on the same engine.
    pub other_fleet: FleetId,
}

/// A container that was launched.
#[derive(Clone, Debug)]
pub struct Started {
    /// How it was launched.
    pub launch: Launch,
    /// What it became.
    pub id: ExecutionId,
}

impl<'a> Bench<'a> {
    pub(super) fn new(subject: &'a dyn Subject) -> Self {
        Self { subject, fleet: FleetId::new(), other_fleet: FleetId::new() }
    }

    /// The executor under test.
    pub fn executor(&self) -> &dyn Executor {
        self.subject.executor()
    }

    /// A launch of a new job of the case's fleet.
    pub fn launch_of(&self, spec: ResolvedSpec) -> Launch {
        self.launch_in(self.fleet, spec)
    }

    /// A launch of a new job of the given fleet.
    pub fn launch_in(&self, fleet: FleetId, spec: ResolvedSpec) -> Launch {
        let (job, attempt) = (JobId::new(), 1);
        Launch { name: external_name(fleet, job, attempt), fleet, job, attempt, spec }
    }

    /// Validates, prepares and launches, as the engine does; all of it must succeed.
    pub async fn start(&self, spec: ResolvedSpec) -> Started {
        self.start_launch(self.launch_of(spec)).await
    }

    /// [`Bench::start`] for a launch that the case made.
    pub async fn start_launch(&self, launch: Launch) -> Started {
        let (executor, host) = (self.executor(), self.subject.host());
        executor.validate(host, &launch.spec).expect("a spec of the subject is valid");
        executor.prepare(host, &launch.spec).await.expect("a spec of the subject can be prepared");
        let id = executor.launch(host, &launch).await.expect("a spec of the subject can be launched");
        assert!(!id.0.is_empty() && id.0.len() <= 255, "an execution id has 1 to 255 characters: {id}");
        Started { launch, id }
    }

    /// One look at one container. Left out of the answer means that nothing is known for now: look again.
    pub async fn observe(&self, id: &ExecutionId) -> Observed {
        self.until("the executor knows the container's state", async || self.look(self.executor(), id).await).await
    }

    /// One look through the given executor; none if the answer leaves the container out.
    pub async fn look(&self, executor: &dyn Executor, id: &ExecutionId) -> Option<Observed> {
        let states = executor.observe(self.subject.host(), std::slice::from_ref(id)).await.expect("the host answers");
        states.into_iter().find(|(seen, _)| seen == id).map(|(_, state)| state)
    }

    /// Waits for the end.
    pub async fn until_ended(&self, id: &ExecutionId) -> End {
        self.until("the container ends", async || match self.observe(id).await {
            Observed::Ended(end) => Some(end),
            Observed::Gone => panic!("{id} is gone before anybody removed it"),
            Observed::Starting | Observed::Running => None,
        })
        .await
    }

    /// Waits until the executor is certain that nothing was launched under a name. At once where the backend knows;
    /// later where it may be slow to show what it launched. It is never found.
    pub async fn until_absent(&self, name: &str) {
        self.until("nothing is known under the name", async || {
            match self.executor().find(self.subject.host(), name).await {
                Found::Absent => Some(()),
                Found::Unknown(_) => None,
                found @ Found::Found(_) => panic!("nothing was launched as {name}, and it is {found:?}"),
            }
        })
        .await;
    }

    /// Waits until it runs.
    pub async fn until_running(&self, id: &ExecutionId) {
        self.until("the container runs", async || match self.observe(id).await {
            Observed::Running => Some(()),
            Observed::Starting => None,
            state @ (Observed::Ended(_) | Observed::Gone) => panic!("{id} should run for a while, it is {state:?}"),
        })
        .await;
    }

    /// Waits until `look` gives something, for as long as the subject's patience.
    pub async fn until<T>(&self, what: &str, look: impl AsyncFn() -> Option<T>) -> T {
        let patience = self.subject.patience();
        let deadline = Instant::now() + patience;
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            assert!(Instant::now() < deadline, "waited {patience:?} in vain: {what}");
            // The pace of looking, not a guess at how long anything takes.
            tokio::time::sleep(POLL).await;
        }
    }

    /// One page of a log.
    pub async fn page(&self, id: &ExecutionId, cursor: Option<&LogCursor>, max_bytes: usize) -> LogPage {
        self.executor().logs(self.subject.host(), id, cursor, max_bytes).await.expect("the log can be read")
    }

    /// Reads an ended container's log to its end in pages of about `max_bytes`.
    pub async fn whole_log(&self, id: &ExecutionId, max_bytes: usize) -> Log {
        let mut log = Log::default();
        loop {
            let page = self.page(id, log.cursor.as_ref(), max_bytes).await;
            assert!(!page.more || page.cursor != log.cursor, "more is promised, and the cursor stands still");
            log.add(&page);
            if !page.more {
                return log;
            }
        }
    }

    /// What the executor lists of the case's fleet.
    pub async fn owned(&self) -> Vec<Owned> {
        self.executor().list_owned(self.subject.host(), self.fleet).await.expect("the host answers")
    }

    /// Stops and removes every container of the case's fleets. A failure is only told: it must not hide the
    /// case's own, and the next test has fleets of its own.
    pub(super) async fn clean_up(&self) {
        for fleet in [self.fleet, self.other_fleet] {
            if let Err(failure) = self.clean_up_fleet(fleet).await {
                eprintln!("containers of {fleet} may be left: {failure}");
            }
        }
    }

    async fn clean_up_fleet(&self, fleet: FleetId) -> Result<(), gantry_core::Failure> {
        let (executor, host) = (self.executor(), self.subject.host());
        let deadline = Instant::now() + self.subject.patience();
        loop {
            let owned = executor.list_owned(host, fleet).await?;
            let mut last = Ok(());
            for container in &owned {
                // One that ends or is removed just now may refuse: the next round sees what is left.
                last = match container.running {
                    true => executor.stop(host, &container.id, Duration::ZERO).await,
                    false => executor.remove(host, &container.id).await,
                };
            }
            if owned.is_empty() || Instant::now() > deadline {
                return last;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// A log as far as it was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Where to go on.
    pub cursor: Option<LogCursor>,
}

impl Log {
    /// Adds a page.
    pub fn add(&mut self, page: &LogPage) {
        for (stream, bytes) in &page.chunks {
            match stream {
                Stream::Stdout => self.stdout.extend_from_slice(bytes),
                Stream::Stderr => self.stderr.extend_from_slice(bytes),
            }
        }
        self.cursor.clone_from(&page.cursor);
    }
}
