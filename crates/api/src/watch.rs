//! The one poller behind everyone who waits for a job's end or follows its log: one statement per tenant and round,
//! however many wait, and none at all while nobody does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use gantry_core::{JobId, TenantId};
use gantry_store::jobs::{self, Progress};
use gantry_store::{Scope, Store};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

/// Between two looks while there is news.
const BUSY: Duration = Duration::from_millis(50);
/// Between two looks when nothing has happened for a while.
const CALM: Duration = Duration::from_millis(250);
/// Tenants asked for at once.
const CONCURRENT: usize = 4;

/// What is known of a job; none once it does not exist any more.
pub(crate) type Seen = Option<Progress>;

type Watched = HashMap<TenantId, HashMap<JobId, watch::Sender<Seen>>>;

/// Watches jobs until it is dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    watched: Mutex<Watched>,
    arrived: Notify,
}

impl Watcher {
    pub(crate) fn new(store: Store) -> Self {
        let shared = Arc::new(Shared::default());
        let task = AbortOnDropHandle::new(tokio::spawn(poll(store, shared.clone())));
        Self { shared, _task: task }
    }

    /// A job's progress from `seen` on, until the receiver is dropped.
    pub(crate) fn watch(&self, tenant: TenantId, job: JobId, seen: Progress) -> watch::Receiver<Seen> {
        let mut watched = self.shared.lock();
        let sender = watched.entry(tenant).or_default().entry(job).or_insert_with(|| watch::channel(Some(seen)).0);
        let receiver = sender.subscribe();
        drop(watched);
        self.shared.arrived.notify_one();
        receiver
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what nobody watches any more, and says what is left.
    fn questions(&self) -> Vec<(TenantId, Vec<JobId>)> {
        let mut watched = self.lock();
        watched.retain(|_, jobs| {
            jobs.retain(|_, sender| sender.receiver_count() > 0);
            !jobs.is_empty()
        });
        watched.iter().map(|(tenant, jobs)| (*tenant, jobs.keys().copied().collect())).collect()
    }

    /// Tells those who watch, and returns whether there was news.
    fn tell(&self, tenant: TenantId, asked: &[JobId], answer: &HashMap<JobId, Progress>) -> bool {
        let watched = self.lock();
        let Some(jobs) = watched.get(&tenant) else { return false };
        let mut news = false;
        for (job, sender) in asked.iter().filter_map(|job| Some((job, jobs.get(job)?))) {
            let now = answer.get(job).copied();
            news |= sender.send_if_modified(|seen| std::mem::replace(seen, now) != now);
        }
        news
    }
}

async fn poll(store: Store, shared: Arc<Shared>) {
    let mut pause = BUSY;
    let mut failing = false;
    loop {
        let questions = shared.questions();
        if questions.is_empty() {
            shared.arrived.notified().await;
            pause = BUSY;
            continue;
        }
        let began = Instant::now();
        let look = look(&store, &shared, questions, failing).await;
        failing = look.failed;
        pause = if look.news { BUSY } else { (pause * 5 / 4).min(CALM) };
        tokio::select! {
            () = sleep(pause) => {}
            // Newcomers are looked after soon, but many of them do not make many looks.
            () = shared.arrived.notified() => {
                pause = BUSY;
                sleep_until(began + BUSY).await;
            }
        }
    }
}

/// What a look at all watched jobs brought.
#[derive(Default)]
struct Look {
    news: bool,
    failed: bool,
}

async fn look(store: &Store, shared: &Shared, questions: Vec<(TenantId, Vec<JobId>)>, failing: bool) -> Look {
    let mut answers = stream::iter(questions)
        .map(|(tenant, jobs)| async move {
            let scope = Scope::Tenant { id: tenant, operator: false };
            let answer = jobs::progress(store, scope, &jobs).await;
            (tenant, jobs, answer)
        })
        .buffer_unordered(CONCURRENT);
    let mut look = Look::default();
    while let Some((tenant, jobs, answer)) = answers.next().await {
        match answer {
            Ok(answer) => look.news |= shared.tell(tenant, &jobs, &answer),
            Err(error) => {
                // Once per outage: those who wait keep waiting, and see the first answer after it.
                if !failing && !look.failed {
                    tracing::warn!(%error, "could not look at the jobs that somebody waits for; trying on");
                }
                look.failed = true;
            }
        }
    }
    look
}
