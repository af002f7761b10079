//! Work waits and goes on by itself: RabbitMQ in an alarm, Postgres away for a minute, RabbitMQ away. The parts are real
//! processes: none ends, none spins, none fills its log. Each test has servers of its own, because it stops them.

use std::time::{Duration, Instant};

use gantry_core::JobId;
use gantry_testkit::eventually;
use gantry_tests::{Fleet, PATIENCE, Process, Role, Servers, jobs};
use tokio::time::sleep;

const PART: &str = env!("CARGO_BIN_EXE_gantry-part");

/// Jobs that run when the outage begins.
const RUNNING: usize = 4;

/// The whole fleet as processes, with two workers on a host of some slots.
struct Parts {
    dispatcher: Process,
    recorder: Process,
    workers: [Process; 2],
    api: Process,
}

impl Parts {
    async fn start(fleet: &Fleet, settings: &[(&str, &str)]) -> Self {
        let host = fleet.mock_host(6).await;
        let dispatcher: Vec<_> = settings.iter().copied().chain([("DISPATCHER__INTAKE_BATCH", "10")]).collect();
        let parts = Self {
            dispatcher: fleet.process(PART, Role::Dispatcher, &dispatcher).await,
            recorder: fleet.process(PART, Role::Recorder, settings).await,
            workers: [
                fleet.process(PART, Role::Worker, settings).await,
                fleet.process(PART, Role::Worker, settings).await,
            ],
            api: fleet.process(PART, Role::Api, settings).await,
        };
        fleet.served(host, 2).await;
        parts
    }

    fn all(&mut self) -> [&mut Process; 5] {
        let [first, second] = &mut self.workers;
        [&mut self.dispatcher, &mut self.recorder, first, second, &mut self.api]
    }

    /// Where their processor time and logs stand.
    fn stand(&mut self) -> Stand {
        let used = self.all().map(|process| (process.cpu(), process.lines()));
        Stand { since: Instant::now(), used }
    }

    /// Requires that every part lived through the time since `stand`, and lived calmly.
    fn were_calm(&mut self, stand: &Stand) {
        let time = stand.since.elapsed();
        for (process, (cpu, lines)) in self.all().into_iter().zip(stand.used) {
            assert!(!process.has_ended(), "a part ended:\n{}", process.log());
            let (cpu, lines) = (process.cpu() - cpu, process.lines() - lines);
            let role = process.role();
            println!("{role:?}: {cpu:?} of processor time and {lines} lines in {time:?}");
            assert!(cpu < time / 5, "{role:?} used {cpu:?} of processor time in {time:?}");
            assert!(lines < 20 + 2 * time.as_secs() as usize, "{role:?} logged {lines} lines in {time:?}");
        }
    }
}

struct Stand {
    since: Instant,
    used: [(Duration, usize); 5],
}

/// Confirms of reports that came when nobody waited for them any more.
async fn late_confirms(worker: &Process) -> f64 {
    let reports = [("exchange", "gantry.reports")];
    let settled = worker.metric("gantry_broker_publish_duration_seconds_count", &reports).await;
    let waited_for = [reports[0], ("outcome", "confirmed")];
    settled.unwrap_or(0.0) - worker.metric("gantry_broker_publishes_total", &waited_for).await.unwrap_or(0.0)
}

fn brief(jobs: usize) -> Vec<serde_json::Value> {
    vec![jobs::mock(&[("duration", "300ms")]); jobs]
}

/// Submits over HTTP what must be accepted, a few at a time, for as long as `time` lasts.
async fn submit_for(parts: &Parts, time: Duration) -> Vec<JobId> {
    let (began, mut ids) = (Instant::now(), Vec::new());
    while began.elapsed() < time {
        ids.extend(parts.api.client().submit_all(&brief(3)).await);
        sleep(Duration::from_secs(2)).await; // Spread over the outage.
    }
    ids
}

/// The job that an answer accepts.
#[track_caller]
fn accepted(answer: &serde_json::Value) -> JobId {
    assert_eq!(answer["result"], "accepted", "{answer}");
    answer["job_id"].as_str().and_then(|id| id.parse().ok()).expect("an id")
}

fn started_once(fleet: &Fleet, jobs: usize) {
    let starts = fleet.ledger().starts();
    assert!(starts.len() == jobs && starts.values().all(|starts| *starts == 1), "{starts:?}");
}

/// The alarm blocks every connection that publishes, on the whole node.
#[tokio::test]
async fn a_broker_in_an_alarm_is_waited_for() {
    let servers = Servers::start().await;
    let fleet = servers.fleet().await;
    let mut parts = Parts::start(&fleet, &[]).await;
    let mut ids = parts.api.client().submit_all(&brief(10)).await;
    fleet.all_complete(&ids).await;
    ids.extend(parts.api.client().submit_all(&vec![jobs::mock(&[("duration", "6s")]); RUNNING]).await);
    fleet.count_reaches("running", RUNNING).await;

    servers.rabbitmqctl(&["set_vm_memory_high_watermark", "0.0000001"]).await;
    let stand = parts.stand();
    ids.extend(parts.api.client().submit_all(&brief(3)).await);
    let blocked = "gantry_broker_connection_blocked";
    eventually(PATIENCE, async || parts.dispatcher.metric(blocked, &[]).await == Some(1.0)).await;
    // A producer waits, too: RabbitMQ reads nothing of what it sends.
    let producer = fleet.producer().await;
    let waiting = producer.clone();
    let submission = tokio::spawn(async move { waiting.send(waiting.message(&jobs::mock(&[]))).await });
    ids.extend(submit_for(&parts, Duration::from_secs(30)).await);
    parts.were_calm(&stand);
    assert!(!submission.is_finished());
    assert_eq!(parts.dispatcher.metric(blocked, &[]).await, Some(1.0));
    // Containers run on meanwhile; their ends wait to be told.
    eventually(PATIENCE, async || parts.workers[0].metric(blocked, &[]).await == Some(1.0)).await;

    servers.rabbitmqctl(&["set_vm_memory_high_watermark", "0.4"]).await;
    let cleared = Instant::now();
    let answer = producer.answer(&submission.await.expect("sent in the end")).await;
    ids.push(accepted(&answer));
    fleet.all_complete(&ids).await;
    println!("all had ended {:?} after the alarm", cleared.elapsed());
    eventually(PATIENCE, async || parts.dispatcher.metric(blocked, &[]).await == Some(0.0)).await;
    started_once(&fleet, ids.len());
    // Reports were tried again every ten seconds. Only the ones on their way when the alarm began were sent: one for each
    // job at most, because a worker learns of the alarm only by its first publish.
    let mut late = 0.0;
    for worker in &parts.workers {
        late += late_confirms(worker).await;
    }
    assert!(late <= RUNNING as f64, "{late} messages had piled up");
    drop((parts, fleet));
    servers.stop().await;
}

#[tokio::test]
async fn postgres_is_away_for_a_minute() {
    const BOUND: u32 = 20;
    let mut servers = Servers::start().await;
    let fleet = servers.fleet_with(BOUND).await;
    let mut parts = Parts::start(&fleet, &[("BROKER__SUBMISSIONS_MAX_LENGTH", "20")]).await;
    let producer = fleet.producer().await;
    let mut ids = producer.submit_all(&brief(6)).await;
    fleet.all_complete(&ids).await;
    // Some end while Postgres is away, some long after.
    for duration in ["5s", "5s", "75s", "75s"] {
        ids.push(producer.submit(&jobs::mock(&[("duration", duration)])).await);
    }
    fleet.count_reaches("running", 4).await;
    let workers: Vec<String> = fleet.scalar("select array_agg(id::text order by id) from workers").await;

    servers.stop_postgres().await;
    let stand = parts.stand();
    // Far more than the queue holds: it takes what it may, and refuses the rest.
    let mut taken = Vec::new();
    let mut refused = 0;
    for body in brief(150) {
        match producer.offer(producer.message(&body)).await {
            Some(submission) => taken.push(submission),
            None => refused += 1,
        }
    }
    println!("{} taken, {refused} refused", taken.len());
    assert!(refused >= 50 && taken.len() >= BOUND as usize, "{} taken, {refused} refused", taken.len());
    while stand.since.elapsed() < Duration::from_secs(60) {
        let answer = parts.api.client().post("/v1/jobs", jobs::mock(&[]).to_string()).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(answer.body["code"], "unavailable", "{answer:?}");
        assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
        sleep(Duration::from_secs(3)).await; // Spread over the outage.
    }
    parts.were_calm(&stand);

    servers.start_postgres().await;
    let back = Instant::now();
    for submission in &taken {
        ids.push(accepted(&producer.answer(submission).await));
    }
    fleet.all_complete(&ids).await;
    println!("all had ended {:?} after Postgres was back", back.elapsed());
    assert_eq!(fleet.scalar::<i64>("select count(*) from container_jobs").await, ids.len() as i64);
    started_once(&fleet, ids.len());
    // Nobody could beat, so nobody was declared dead: the same two workers live on.
    let alive: Vec<String> =
        fleet.scalar("select array_agg(id::text order by id) from workers where state = 'alive'").await;
    assert_eq!(alive, workers);
    drop((parts, fleet));
    servers.stop().await;
}

#[tokio::test]
async fn rabbitmq_is_away_for_half_a_minute() {
    let mut servers = Servers::start().await;
    let fleet = servers.fleet().await;
    let mut parts = Parts::start(&fleet, &[]).await;
    let mut ids = parts.api.client().submit_all(&brief(6)).await;
    fleet.all_complete(&ids).await;
    ids.extend(parts.api.client().submit_all(&vec![jobs::mock(&[("duration", "6s")]); RUNNING]).await);
    fleet.count_reaches("running", RUNNING).await;

    servers.stop_rabbitmq().await;
    let stand = parts.stand();
    eventually(PATIENCE, async || parts.recorder.metric("gantry_broker_connection_up", &[]).await == Some(0.0)).await;
    ids.extend(submit_for(&parts, Duration::from_secs(30)).await);
    parts.were_calm(&stand);

    servers.start_rabbitmq().await;
    let back = Instant::now();
    fleet.all_complete(&ids).await;
    println!("all had ended {:?} after RabbitMQ was back", back.elapsed());
    started_once(&fleet, ids.len());
    drop((parts, fleet));
    servers.stop().await;
}
