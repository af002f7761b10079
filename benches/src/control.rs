//! The control plane at its limit: every job durable at every step, beside what the servers can do alone.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use gantry_core::message::{
    CloudEvent, Ended, EventKind, JobEvent, Report, ReportKind, ReportedOutcome, Reports, Token, Work, WorkItem,
};
use gantry_core::{ExecutorType, JobId, Status, TenantId};
use serde_json::{Value, json};

use crate::fleet::{Executor, Fleet, Layout, Servers};
use crate::floors::{self, Flow, Flows};
use crate::measure::{self, median, round};
use crate::producer;

/// Enough that no job waits for a slot, with four workers at once, too.
pub(crate) const SLOTS: u32 = 8_000;
/// How long RabbitMQ's statistics lag behind.
const STATISTICS_LAG: Duration = Duration::from_secs(7);

/// Who takes the events of the jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Events {
    /// Nobody: no queue is bound
    Unbound,
    /// A quorum queue that is drained
    Drained,
}

/// Interleaved pairs of the path and the floors, for each kind of `events`, or for all if none is named.
pub(crate) async fn run(
    servers: &Servers,
    binaries: &Path,
    jobs: usize,
    pairs: usize,
    events: &[Events],
) -> anyhow::Result<Value> {
    let events = if events.is_empty() { Events::value_variants() } else { events };
    let fleet = Fleet::start(servers, binaries, Layout::plain(Executor::Mock, SLOTS)).await?;
    producer::warm_up(&fleet).await?;
    let mut kinds = serde_json::Map::new();
    for kind in events {
        let mut rows = Vec::new();
        for pair in 0..pairs {
            let row = one(servers, &fleet, jobs, *kind == Events::Drained).await?;
            eprintln!("control, events {}, pair {}: {row}", name(*kind), pair + 1);
            rows.push(row);
        }
        let figures = |key: &str| rows.iter().filter_map(|row| row[key].as_f64()).collect::<Vec<_>>();
        let ratio = |floor: &str| {
            median(
                rows.iter().filter_map(|row| Some(row["jobs_per_second"].as_f64()? / row[floor].as_f64()?)).collect(),
            )
        };
        kinds.insert(
            name(*kind).to_owned(),
            json!({
                "jobs_per_second": median(figures("jobs_per_second")),
                "sql_floor": median(figures("sql_floor")),
                "broker_floor": median(figures("broker_floor")),
                "both_floors": median(figures("both_floors")),
                "ratio_to_sql_floor": ratio("sql_floor"),
                "ratio_to_broker_floor": ratio("broker_floor"),
                "ratio_to_both_floors": ratio("both_floors"),
                "pairs": rows,
            }),
        );
    }
    fleet.stop().await?;
    Ok(json!({ "case": "control", "jobs": jobs, "events": kinds }))
}

fn name(events: Events) -> &'static str {
    match events {
        Events::Unbound => "unbound",
        Events::Drained => "drained",
    }
}

async fn one(servers: &Servers, fleet: &Fleet, jobs: usize, drained: bool) -> anyhow::Result<Value> {
    servers.settle().await?;
    let before = Published::read(servers).await?;
    let drain = match drained {
        true => {
            let consumer = floors::subscribed(servers, &fleet.broker).await?;
            Some(tokio::spawn(floors::drain(consumer, jobs)))
        }
        false => None,
    };
    let began = fleet.cpu();
    let run = producer::all_at_once(fleet, jobs).await?;
    let cpu = fleet.cpu().since(&began);
    if let Some(drain) = drain {
        drain.await??;
        floors::unsubscribed(servers, &fleet.broker).await?;
    }
    let verified = measure::verify(fleet, &run).await?;
    let sent = Published::read(servers).await?.since(&before);
    let flows = flows(fleet, jobs, sent, drained)?;
    let sql = floors::sql(servers, jobs).await?;
    let broker = floors::broker(servers, jobs, flows).await?;
    let both = floors::both(servers, jobs, flows).await?;
    Ok(json!({
        "jobs_per_second": round(run.per_second()),
        "sql_floor": round(sql),
        "broker_floor": round(broker),
        "both_floors": round(both),
        "cpu_seconds": cpu,
        "messages": { "submissions": jobs, "work": sent.work, "reports": sent.reports, "events": jobs },
        "verified": verified,
    }))
}

/// How many messages ever came to the fleet's inner queues, as RabbitMQ counts them.
#[derive(Clone, Copy, Debug)]
struct Published {
    work: usize,
    reports: usize,
}

impl Published {
    async fn read(servers: &Servers) -> anyhow::Result<Self> {
        tokio::time::sleep(STATISTICS_LAG).await;
        let client = reqwest::Client::builder().no_proxy().build()?;
        let count = async |queue: &str| -> anyhow::Result<usize> {
            let mut url = reqwest::Url::parse(&servers.rabbitmq.management_url())?;
            url.path_segments_mut()
                .map_err(|()| anyhow::anyhow!("not an http address"))?
                .extend(["api", "queues", "/", queue]);
            let told: Value = client.get(url).send().await?.error_for_status()?.json().await?;
            // Left out until there was one.
            Ok(usize::try_from(told["message_stats"]["publish"].as_u64().unwrap_or_default())?)
        };
        Ok(Self { work: count("gantry.jobs.mock").await?, reports: count("gantry.reports").await? })
    }

    fn since(self, before: &Self) -> Self {
        Self { work: self.work - before.work, reports: self.reports - before.reports }
    }
}

/// The messages of a run: as many as were sent, as long as those were.
fn flows(fleet: &Fleet, jobs: usize, sent: Published, events_drained: bool) -> anyhow::Result<Flows> {
    let (job, tenant) = (JobId::new(), TenantId::new());
    let per = |messages: usize| jobs.div_ceil(messages.max(1));
    let work = Work::V1 { jobs: vec![WorkItem { job, attempt: 1, sequence: 1 }; per(sent.work)] };
    let ended = Ended {
        execution_id: Some(format!("gantry-{}", job.uuid().simple())),
        run_millis: Some(1),
        startup_millis: Some(1),
        ..Ended::bare(ReportedOutcome::Exited { exit_code: 0 })
    };
    let report =
        Report { token: Token { job, attempt: 1, epoch: 1 }, traceparent: None, kind: ReportKind::Ended(ended) };
    let reports = Reports::V1 { reports: vec![serde_json::to_value(&report)?; per(sent.reports)] };
    let kind = EventKind::Ended(Status::Completed);
    let event = CloudEvent {
        specversion: "1.0".to_owned(),
        id: kind.id(job, 1),
        source: "/gantry".to_owned(),
        event_type: "gantry.job.completed".to_owned(),
        subject: job,
        time: "2026-01-01T00:00:00.000000Z".to_owned(),
        datacontenttype: "application/json".to_owned(),
        data: JobEvent {
            job_id: job,
            tenant_id: tenant,
            name: "bench".to_owned(),
            status: Status::Completed,
            executor_type: ExecutorType::Mock,
            attempt: 1,
            sequence: kind.sequence(1),
            exit_code: Some(0),
            failure: None,
        },
    };
    let flow = |messages, body: Vec<u8>| Flow { messages, bytes: body.len() };
    Ok(Flows {
        submissions: Flow { messages: jobs, bytes: producer::submission_bytes(fleet)? },
        work: flow(sent.work, serde_json::to_vec(&work)?),
        reports: flow(sent.reports, serde_json::to_vec(&reports).context("reports")?),
        events: flow(jobs, serde_json::to_vec(&event)?),
        events_drained,
    })
}
