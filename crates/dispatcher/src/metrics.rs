//! What the dispatcher counts, and what it shows of the fleet.
//!
//! The gauges of the fleet are read from Postgres by [`observe`](crate::observe); every replica shows the same ones. What
//! is not known at the moment is not shown: a value from before an outage would look like one of now.

use std::sync::{LazyLock, Mutex, MutexGuard, Once};

use gantry_core::ExecutorType;
use gantry_core::bulk::Action;
use gantry_store::drift::{HostSlots, Pool};
use gantry_store::retention::{Lag, Removed};
use opentelemetry::metrics::{AsyncInstrument, Counter, Meter};
use opentelemetry::{KeyValue, global};

/// Made at its first use, when telemetry has begun.
static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics::new(&global::meter("gantry-dispatcher")));

struct Metrics {
    dispatched: Counter<u64>,
    republished: Counter<u64>,
    dead: Counter<u64>,
    replayed: Counter<u64>,
    removed: Counter<u64>,
    bulk: Counter<u64>,
}

impl Metrics {
    fn new(meter: &Meter) -> Self {
        Self {
            dispatched: meter
                .u64_counter("gantry.jobs.dispatched")
                .with_description("Jobs that entered the window of their executor type.")
                .build(),
            republished: meter
                .u64_counter("gantry.jobs.republished")
                .with_description("Dispatched jobs whose message was published again because nobody claimed them.")
                .build(),
            dead: meter
                .u64_counter("gantry.workers.declared_dead")
                .with_description("Workers that this process declared dead because they missed their beats.")
                .build(),
            replayed: meter
                .u64_counter("gantry.dead_letters.replayed")
                .with_description("Dead letters that were replayed, or whose replay was refused.")
                .build(),
            removed: meter
                .u64_counter("gantry.retention.removed")
                .with_description("Rows that were removed because they were kept long enough.")
                .build(),
            bulk: meter
                .u64_counter("gantry.bulk.changed")
                .with_description("Jobs that operations on many jobs changed.")
                .build(),
        }
    }
}

pub(crate) fn dispatched(executor: ExecutorType, jobs: usize) {
    METRICS.dispatched.add(jobs as u64, &[of(executor)]);
    gantry_runtime::metrics::batch("dispatch", jobs);
}

pub(crate) fn bulk_changed(action: Action, jobs: i64) {
    METRICS.bulk.add(jobs.unsigned_abs(), &[KeyValue::new("action", action.to_string())]);
}

pub(crate) fn republished(executor: ExecutorType, jobs: usize) {
    METRICS.republished.add(jobs as u64, &[of(executor)]);
}

pub(crate) fn declared_dead() {
    METRICS.dead.add(1, &[]);
}

pub(crate) fn replayed(accepted: bool) {
    let outcome = if accepted { "replayed" } else { "refused" };
    METRICS.replayed.add(1, &[KeyValue::new("outcome", outcome)]);
}

pub(crate) fn removed(removed: &Removed) {
    for (kind, rows) in [
        ("job", removed.jobs),
        ("attempt", removed.attempts),
        ("event", removed.events),
        ("log_chunk", removed.chunks),
        ("dead_letter", removed.letters),
        ("schedule_run", removed.runs),
    ] {
        METRICS.removed.add(rows, &[KeyValue::new("kind", kind)]);
    }
}

/// How far behind removing was at the last look; with none, nothing is shown.
pub(crate) fn overdue(lag: Option<Lag>) {
    static SHOWN: Mutex<Option<Lag>> = Mutex::new(None);
    static REGISTERED: Once = Once::new();
    let shown = || SHOWN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    REGISTERED.call_once(|| {
        global::meter("gantry-dispatcher")
            .f64_observable_gauge("gantry.retention.lag")
            .with_unit("s")
            .with_description("For how long the oldest job or log is overdue to be removed; 0 if none is.")
            .with_callback(move |gauge| {
                if let Some(lag) = *shown() {
                    gauge.observe(lag.jobs.as_secs_f64(), &[KeyValue::new("kind", "job")]);
                    gauge.observe(lag.logs.as_secs_f64(), &[KeyValue::new("kind", "log")]);
                }
            })
            .build();
    });
    *shown() = lag;
}

fn of(executor: ExecutorType) -> KeyValue {
    KeyValue::new("executor_type", executor.as_str())
}

/// What was last read of the fleet.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    pub(crate) hosts: Vec<HostSlots>,
    /// With the dispatched rows that have no message, where RabbitMQ could be asked.
    pub(crate) pools: Vec<(Pool, Option<i64>)>,
    /// Age in seconds of the oldest event that is not published, 0 if all are; none if that is not known.
    pub(crate) unpublished_age: Option<f64>,
}

static FLEET: Mutex<Option<Fleet>> = Mutex::new(None);

/// Replaces what is shown; with none, nothing is.
pub(crate) fn show(fleet: Option<Fleet>) {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| register(&global::meter("gantry-dispatcher")));
    *fleet_now() = fleet;
}

fn fleet_now() -> MutexGuard<'static, Option<Fleet>> {
    FLEET.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The meter keeps the callbacks.
fn register(meter: &Meter) {
    of_hosts(meter, "gantry.host.slots.limit", "Slots that a host has.", |host| host.limit);
    of_hosts(meter, "gantry.host.slots.counted", "Slots in use by the host's own count, by which claims go.", |host| {
        host.counted
    });
    of_hosts(meter, "gantry.host.slots.held", "Slots that attempts hold.", |host| host.held);
    of_hosts(
        meter,
        "gantry.drift.slots.counted_not_held",
        "Slots that a host counts and no attempt holds; below 0 the other way round. 0 in health.",
        |host| host.counted - host.held,
    );
    of_hosts(
        meter,
        "gantry.drift.slots.held_not_running",
        "Slots that attempts hold beyond the jobs that are running; below 0 the other way round. 0 in health.",
        |host| host.held - host.running,
    );
    of_pools(meter, "gantry.workers.alive", "Workers whose lease has not passed.", |(pool, _)| Some(pool.workers));
    of_pools(
        meter,
        "gantry.drift.dispatched_without_message",
        "Jobs dispatched more than two seconds ago and not claimed while their queue is empty. 0 in health.",
        |(_, lost)| *lost,
    );
    meter
        .f64_observable_gauge("gantry.outbox.unpublished.age")
        .with_unit("s")
        .with_description("Age of the oldest public event that is not published yet; 0 if all are.")
        .with_callback(|gauge| {
            if let Some(age) = fleet_now().as_ref().and_then(|fleet| fleet.unpublished_age) {
                gauge.observe(age, &[]);
            }
        })
        .build();
}

fn of_hosts(meter: &Meter, name: &'static str, description: &'static str, value: fn(&HostSlots) -> i64) {
    let show = move |gauge: &dyn AsyncInstrument<i64>| {
        for host in fleet_now().iter().flat_map(|fleet| &fleet.hosts) {
            let labels = [
                KeyValue::new("host", host.name.clone()),
                KeyValue::new("host_id", host.host.to_string()),
                of(host.executor),
            ];
            gauge.observe(value(host), &labels);
        }
    };
    meter.i64_observable_gauge(name).with_description(description).with_callback(show).build();
}

fn of_pools(
    meter: &Meter,
    name: &'static str,
    description: &'static str,
    value: fn(&(Pool, Option<i64>)) -> Option<i64>,
) {
    let show = move |gauge: &dyn AsyncInstrument<i64>| {
        for pool in fleet_now().iter().flat_map(|fleet| &fleet.pools) {
            if let Some(value) = value(pool) {
                gauge.observe(value, &[of(pool.0.executor)]);
            }
        }
    };
    meter.i64_observable_gauge(name).with_description(description).with_callback(show).build();
}
