//! Dispatch: the best pending jobs enter the window, marked first and published then. Polling is the guarantee,
//! a nudge the optimisation, and one that names who came saves the look.

use std::collections::HashMap;
use std::time::Duration;

use gantry_broker::consume::{self, Consumer};
use gantry_broker::{Outgoing, ack_all};
use gantry_core::ExecutorType;
use gantry_core::message::{Control, Newcomer, Nudge, Work, WorkItem};
use gantry_runtime::{Linger, Shutdown};
use gantry_store::lines;
use gantry_store::windows::{Window, Windows};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::{Instant, sleep, sleep_until};

use crate::lines::Lines;
use crate::post::Post;
use crate::room::{Found, SHARES};
use crate::shortcut::Shortcut;
use crate::{Parts, metrics};

/// Rows marked in one statement at most.
const BATCH: usize = 1_000;
/// How often a pass begins under load: a look at a window costs as much for one job as for all.
const EVERY: Duration = Duration::from_millis(25);
/// Lists of newcomers that wait for the dispatch task at most: where there are more, it looks.
pub(crate) const LISTS: usize = 64;

pub(crate) async fn run(parts: &Parts, shutdown: &Shutdown, mut came: Receiver<Vec<Newcomer>>) {
    let (mut view, mut post, mut shortcut) = (View::default(), Post::default(), Shortcut::default());
    let mut due = Instant::now() + parts.settings.poll();
    // What one finds in line the others need not.
    let mut linger = Linger::new(EVERY, BATCH).for_others_too(2 * SHARES);
    loop {
        linger.over().await;
        let newcomers = tokio::select! {
            biased;
            () = shutdown.requested() => break,
            // First: it may be of a host that is gone, and those who came later are to know.
            () = parts.nudge.notified() => None,
            Some(newcomers) = came.recv() => Some(newcomers),
            () = sleep_until(due) => None,
        };
        linger.share(if view.is_deep { 2 } else { 1 } * parts.peers.count());
        let begun = Instant::now();
        // Newcomers do not put the poll off.
        let mut newcomers = newcomers.filter(|_| begun < due);
        // All who came until now are found by a look, too.
        while let Ok(more) = came.try_recv() {
            if let Some(newcomers) = &mut newcomers {
                newcomers.extend(more);
            }
        }
        let entered = match newcomers {
            Some(newcomers) => shortcut.enter(parts, &mut post, &newcomers).await,
            None => Ok(None),
        };
        let looked = match entered {
            Ok(Some(moved)) => {
                linger.done(begun, moved);
                continue;
            }
            Ok(None) => pass(parts, &mut view, &mut post).await,
            Err(error) => Err(error),
        };
        let mut pause = parts.settings.poll();
        match looked {
            Ok(look) => pause = pause.min(look.unwrap_or(pause)),
            Err(error) => {
                view = View::default();
                parts.room.found(&HashMap::new(), parts.peers.count());
                tracing::warn!(%error, "cannot dispatch now, trying again");
                // A nudge may come at once; Postgres is not asked in a tight loop.
                sleep(pause).await;
                pause = Duration::ZERO;
            }
        }
        linger.done(begun, view.moved);
        due = Instant::now() + pause;
    }
    post.settle().await;
}

/// What this process has seen of the backlog.
#[derive(Default)]
struct View {
    windows: Windows,
    lines: HashMap<ExecutorType, Lines>,
    /// Jobs that the last pass moved, all windows together.
    moved: usize,
    /// It found a window with more than a batch of jobs: they wait for their claims, and not for a look, which counts them all.
    is_deep: bool,
}

/// Fills every window; again as long as a full batch says that there is more. Returns when there is something to look
/// at that was not looked at this time, if a window has room for it.
async fn pass(parts: &Parts, view: &mut View, post: &mut Post) -> Result<Option<Duration>, gantry_store::Error> {
    // Each dispatcher sees the same room, at the same time as the others.
    let share = |places: i64| usize::try_from(places).unwrap_or(0).div_ceil(parts.peers.count());
    loop {
        let mut full = false;
        let mut next_look: Option<Duration> = None;
        let mut found: HashMap<ExecutorType, Found> = HashMap::new();
        (view.moved, view.is_deep) = (0, false);
        parts.room.look();
        for window in view.windows.read(&parts.store).await? {
            let factor = parts.settings.window_factor;
            view.is_deep |= window.dispatched > i64::try_from(BATCH).unwrap_or(i64::MAX);
            parts.spread.found(window.executor, window.workers, window.free_slots);
            // For those who just come in: each has a slot, so it does not matter in which order they came, and whose they are.
            let slots = share(room(window, factor.min(1.0)));
            let whole = usize::try_from(room(window, factor)).unwrap_or(0);
            let room = share(room(window, factor)).min(BATCH);
            if room == 0 {
                continue;
            }
            let lines = view.lines.entry(window.executor).or_default();
            // Those who waited for a full host stand in line with the others: a slot is free now.
            let limit = i64::try_from(room).unwrap_or(i64::MAX);
            if lines::unpark_full(&parts.store, window.executor, window.tenant, limit).await? > 0 {
                lines.forget();
            }
            let unseen = lines.look(&parts.store, window.executor).await?;
            let (items, stopped) = lines.dispatch(&parts.store, window.executor, window.tenant, room).await?;
            metrics::dispatched(window.executor, items.len());
            view.moved += items.len();
            full |= stopped || items.len() == BATCH;
            let is_short = items.len() < room;
            if is_short {
                next_look = next_look.into_iter().chain(unseen).min();
            } else if room < whole {
                // The parts of the others: they may know of nobody in line, and whoever is there has no nudge to wait for.
                next_look = next_look.into_iter().chain([EVERY]).min();
            }
            if window.tenant.is_none() {
                // Where it is short, nobody is in line any more, as far as this look sees.
                let free = if is_short && !stopped { slots.saturating_sub(items.len()) } else { 0 };
                found.insert(window.executor, Found { moved: items.len(), free });
            }
            if !items.is_empty() {
                post.send_in_turn(parts, window.executor, items).await;
            }
        }
        parts.room.found(&found, parts.peers.count());
        if !full {
            return Ok(next_look);
        }
    }
}

fn room(window: Window, factor: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "slots are few against 2^52")]
    let size = (window.free_slots as f64 * factor).ceil() as i64;
    size - window.dispatched
}

/// Publishes work. What is not confirmed stays dispatched and is published again by upkeep.
pub(crate) async fn publish(parts: &Parts, executor: ExecutorType, items: &[WorkItem]) {
    if items.is_empty() {
        return;
    }
    let route = parts.broker.topology().jobs(executor.as_str());
    let messages: Vec<Outgoing> = items
        .chunks(parts.spread.list(executor, items.len()))
        .filter_map(|jobs| Outgoing::json(route.clone(), &Work::V1 { jobs: jobs.to_vec() }).ok())
        .collect();
    for error in parts.publisher.publish_all(messages).await.into_iter().filter_map(Result::err) {
        tracing::warn!(%error, executor.type = %executor, "work was not published, and will be again");
    }
}

/// Turns nudges of other parts into looks of our own, and hands on who came where that is all that they say. No look for that
/// of an end that only freed slots, where the last look left some that nobody waits for: with few jobs at a time that is each
/// of them, and a look costs more than it finds.
pub(crate) async fn listen(parts: &Parts, shutdown: &Shutdown, came: Sender<Vec<Newcomer>>) {
    let options = consume::Options { prefetch: 1_000, ..consume::Options::default() };
    let mut consumer = Consumer::subscribe(&parts.broker, parts.broker.topology().control_exchange(), &[""], options);
    loop {
        let deliveries = tokio::select! {
            deliveries = consumer.next_batch() => deliveries,
            () = shutdown.requested() => return,
        };
        let (mut is_worth_a_look, mut all) = (false, Vec::new());
        for delivery in &deliveries {
            let Ok(Control::V1(Nudge::Dispatch { executors, only_slots, newcomers })) = delivery.json() else {
                continue;
            };
            is_worth_a_look |= newcomers.is_empty() && !(only_slots && parts.room.is_left(&executors));
            all.extend(newcomers);
        }
        if is_worth_a_look || (!all.is_empty() && came.try_send(all).is_err()) {
            parts.nudge.notify_one();
        }
        ack_all(deliveries).await;
    }
}
