//! The producer of a run: a steady stream through both doors, each job handed in again until it is answered, and the
//! ledger of what was accepted, in its own memory.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gantry_core::JobId;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use super::amqp::Amqp;
use super::dice::Dice;
use super::http::Http;
use super::jobs;
use crate::producer::Received;
use crate::workload::{Cancel, Case, Submitted};

/// Between two jobs on simulated containers, and on real ones: somewhat less than the slots can take.
const MOCK_EVERY: Duration = Duration::from_millis(500);
const DOCKER_EVERY: Duration = Duration::from_millis(1_800);
/// Jobs that are not over at most, so that a long outage is not followed by an hour's work.
const OPEN: usize = 80;
/// How long an answer is waited for before a job is handed in again.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// Between two attempts at a cancel, and before what was answered is handed in once more.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// One in so many is handed in again although it was answered.
const REPEATED: u64 = 8;
const TICK: Duration = Duration::from_millis(100);

/// The way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Amqp,
    Http,
    /// Both at once, with one key.
    Both,
}

/// A job and what has been done about it.
struct Entry {
    job: Submitted,
    body: Value,
    door: Door,
    /// Whether it is handed in once more after its answer.
    repeat: bool,
    sent: Option<Instant>,
    accepted: Option<Instant>,
    cancel_tried: Option<Instant>,
    cancelled: bool,
}

/// What is to be done.
enum Action {
    Send { key: String, body: Value, door: Door },
    Cancel { index: usize, job: JobId, when: Cancel },
}

struct Shared {
    amqp: Amqp,
    http: Http,
    received: Arc<Mutex<Received>>,
    entries: Mutex<Vec<Entry>>,
    submitting: AtomicBool,
}

/// A producer at work. It ends with the value.
pub(crate) struct Producer {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

impl Producer {
    pub(crate) fn start(amqp: &str, api: &str, seed: u64, ledger: PathBuf) -> anyhow::Result<Self> {
        let received = Arc::<Mutex<Received>>::default();
        let shared = Arc::new(Shared {
            amqp: Amqp::new(amqp, received.clone()),
            http: Http::new(api)?,
            received,
            entries: Mutex::default(),
            submitting: AtomicBool::new(true),
        });
        let connected = shared.clone();
        let tasks = [
            tokio::spawn(async move { connected.amqp.stay_connected().await }),
            tokio::spawn(work(shared.clone(), Dice::new(seed), ledger)),
        ];
        Ok(Self { shared, tasks })
    }

    /// No more new jobs; those that are there are still tended.
    pub(crate) fn stop_submitting(&self) {
        self.shared.submitting.store(false, Ordering::Relaxed);
    }

    /// The ledger: what was handed in, and what came back.
    pub(crate) fn ledger(&self) -> (Vec<Submitted>, Received) {
        let jobs = self.shared.entries().iter().map(|entry| entry.job.clone()).collect();
        (jobs, self.shared.received().clone())
    }

    /// Jobs whose end was told.
    pub(crate) fn ended(&self) -> usize {
        self.shared.received().ended()
    }

    /// Jobs that are not answered, or not over as far as the producer was told.
    pub(crate) fn open(&self) -> usize {
        self.shared.open()
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn work(shared: Arc<Shared>, mut dice: Dice, ledger: PathBuf) {
    let mut streams = [
        Stream::new(MOCK_EVERY, Box::new(jobs::mock)),
        Stream::new(DOCKER_EVERY, Box::new(move |dice| jobs::docker(dice, &ledger))),
    ];
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for stream in &mut streams {
            if shared.submitting.load(Ordering::Relaxed)
                && shared.open() < OPEN
                && let Some(case) = stream.next(&mut dice)
            {
                shared.entries().push(Entry::new(case, &mut dice));
            }
        }
        for action in shared.due() {
            let shared = shared.clone();
            // Each on its own, because any may hang until its time is up. What fails is due again.
            tokio::spawn(async move { shared.act(action).await });
        }
    }
}

/// One job of every kind of life.
type Deck = Box<dyn Fn(&mut Dice) -> Vec<Case> + Send>;

/// Jobs of one kind, one after another.
struct Stream {
    every: Duration,
    last: Instant,
    make: Deck,
    left: Vec<Case>,
}

impl Stream {
    fn new(every: Duration, make: Deck) -> Self {
        Self { every, last: Instant::now(), make, left: Vec::new() }
    }

    /// The next job, if it is time.
    fn next(&mut self, dice: &mut Dice) -> Option<Case> {
        if self.last.elapsed() < self.every {
            return None;
        }
        self.last = Instant::now();
        if self.left.is_empty() {
            self.left = (self.make)(dice);
            dice.shuffle(&mut self.left);
        }
        self.left.pop()
    }
}

impl Entry {
    fn new((name, mut body, cancel, end): Case, dice: &mut Dice) -> Self {
        let key = Uuid::now_v7().to_string();
        body["name"] = json!(name);
        body["idempotency_key"] = json!(key);
        let door = dice.one_of(&[Door::Amqp, Door::Amqp, Door::Amqp, Door::Http, Door::Http, Door::Both]);
        let repeat = dice.between(1, REPEATED) == 1;
        let job = Submitted { name, key, cancel, end };
        Self { job, body, door, repeat, sent: None, accepted: None, cancel_tried: None, cancelled: false }
    }
}

impl Shared {
    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> usize {
        let (entries, received) = (self.entries(), self.received());
        entries.iter().filter(|entry| !is_over(entry, &received)).count()
    }

    /// What must be done now; noted as begun.
    fn due(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        let (mut entries, received) = (self.entries(), self.received());
        for (index, entry) in entries.iter_mut().enumerate() {
            let answered = !received.answers(&entry.job.key).is_empty();
            let waited = |since: Option<Instant>, time| since.is_none_or(|since| since.elapsed() >= time);
            let again = if answered {
                entry.repeat && waited(entry.sent, AGAIN_AFTER)
            } else {
                waited(entry.sent, ANSWER_WITHIN)
            };
            if again {
                entry.repeat &= !answered;
                entry.sent = Some(Instant::now());
                let (key, body) = (entry.job.key.clone(), entry.body.clone());
                actions.push(Action::Send { key, body, door: entry.door });
            }
            let Some(job) = received.accepted(&entry.job.key) else { continue };
            let accepted = *entry.accepted.get_or_insert_with(Instant::now);
            let when = entry.job.cancel;
            let due = match when {
                Cancel::Never => false,
                Cancel::Pending | Cancel::Running => true,
                Cancel::After(delay) => accepted.elapsed() >= delay,
            };
            if due && !entry.cancelled && waited(entry.cancel_tried, AGAIN_AFTER) {
                entry.cancel_tried = Some(Instant::now());
                actions.push(Action::Cancel { index, job, when });
            }
        }
        actions
    }

    async fn act(&self, action: Action) {
        match action {
            Action::Send { key, body, door } => {
                let amqp = async {
                    // Not confirmed is not answered: it is handed in again.
                    if door != Door::Http {
                        let _ = self.amqp.submit(&key, &body).await;
                    }
                };
                let http = async {
                    if door != Door::Amqp
                        && let Ok(answer) = self.http.submit(&body).await
                    {
                        self.received().answer(&key, answer);
                    }
                };
                tokio::join!(amqp, http);
            }
            Action::Cancel { index, job, when } => {
                if when == Cancel::Running && !self.http.has_started(job).await.unwrap_or(false) {
                    return;
                }
                if self.http.cancel(job).await.is_ok()
                    && let Some(entry) = self.entries().get_mut(index)
                {
                    entry.cancelled = true;
                }
            }
        }
    }
}

/// Whether a job is answered and, if it was accepted, over.
fn is_over(entry: &Entry, received: &Received) -> bool {
    match received.accepted(&entry.job.key) {
        Some(job) => received.ends(job) > 0,
        None => entry.job.end.is_none() && !received.answers(&entry.job.key).is_empty(),
    }
}
