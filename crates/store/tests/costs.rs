//! Costs are counted once, whatever comes again, and outlive their jobs.

use chrono::{DateTime, NaiveDate, Utc};
use gantry_core::bulk::{Deed, Filter};
use gantry_core::cost::By;
use gantry_core::message::{Ended, Report, ReportKind, ReportedOutcome, Token};
use gantry_core::{ExecutorType, Failure, FailureClass, HostId, JobId, ProjectId, TemplateId, TenantId, WorkerId};
use gantry_store::admission::{self, NewJob};
use gantry_store::audit::Actor;
use gantry_store::bulk;
use gantry_store::claims::{self, Request};
use gantry_store::costs::{self, Days, Line, NO_TEMPLATE};
use gantry_store::hosts::{self, NewHost};
use gantry_store::lines::{self, Ask};
use gantry_store::retention::{self, Defaults};
use gantry_store::workers::{self, HostCheck, NewWorker};
use gantry_store::{Config, Scope, Store, jobs, reports, tenants};
use gantry_testkit::TestDb;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// In milliseconds; at one for an hour, so that costs are easily read.
const HOUR: u64 = 3_600_000;

/// A fleet with one tenant, its template `nightly`, and one place of which a start costs 0.5 and an hour 1.
struct Lab {
    store: Store,
    api: Store,
    owner: PgConnection,
    tenant: TenantId,
    place: Place,
    template: TemplateId,
    _db: TestDb,
}

/// A worker, and a host that it serves.
#[derive(Clone, Copy)]
struct Place {
    executor: ExecutorType,
    worker: WorkerId,
    host: HostId,
}

fn money(text: &str) -> Decimal {
    text.parse().expect("a number")
}

fn ever() -> Days {
    let day = |year| NaiveDate::from_ymd_opt(year, 1, 1).expect("a day");
    Days { since: day(1970), until: day(9999) }
}

impl Lab {
    async fn new() -> Self {
        let db = TestDb::create().await;
        let store = Store::new(&Config::new(db.fleet_url()), "test").expect("an address");
        let api = Store::new(&Config::new(db.api_url()), "test").expect("an address");
        let owner = PgConnection::connect(&db.owner_url()).await.expect("connected");
        let tenant = tenants::put_tenant(&store, "acme").await.expect("stored");
        let place = place(&store, ExecutorType::Mock, "first", "0.5", "1").await;
        let mut lab = Self { store, api, owner, tenant, place, template: TemplateId::new(), _db: db };
        lab.put_template(lab.template, tenant, "nightly").await;
        lab
    }

    async fn put_template(&mut self, id: TemplateId, tenant: TenantId, name: &str) {
        self.execute(&format!(
            "insert into container_templates (id, tenant_id, name, docker_image, created_by)
             values ('{id}', '{tenant}', '{name}', 'i', 'test')"
        ))
        .await;
    }

    async fn execute(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut self.owner)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Accepts a job that may run for two hours.
    async fn submit(&mut self, template: Option<TemplateId>, retries: Value) -> JobId {
        self.submit_to(ExecutorType::Mock, self.tenant, "job", template, retries).await
    }

    async fn submit_to(
        &mut self,
        executor_type: ExecutorType,
        tenant: TenantId,
        name: &str,
        template: Option<TemplateId>,
        retries: Value,
    ) -> JobId {
        let project: uuid::Uuid = sqlx::query_scalar("select id from projects where tenant_id = $1")
            .bind(tenant.uuid())
            .fetch_one(&mut self.owner)
            .await
            .expect("one");
        let spec = json!({ "image": "i", "timeout_seconds": 7_200, "retry": retries });
        let job = NewJob {
            id: JobId::new(),
            tenant,
            project: ProjectId::from(project),
            name: name.to_owned(),
            template,
            spec: serde_json::from_value(spec).expect("a spec"),
            executor_type,
            preferred_executor: None,
            routing_reason: "the test says so".to_owned(),
            routing: Default::default(),
            override_command: None,
            override_environment: Default::default(),
            priority: 0,
            not_before: None,
            queue_timeout_seconds: None,
            idempotency: None,
            created_by: "test".to_owned(),
            schedule: None,
            at_once: false,
            concurrency_key: None,
        };
        let scope = Scope::Tenant { id: tenant, operator: false };
        admission::insert(&self.api, scope, std::slice::from_ref(&job)).await.expect("stored");
        job.id
    }

    /// Claims all that is pending.
    async fn claim(&mut self) -> Vec<Token> {
        self.claim_at(self.place).await
    }

    async fn claim_at(&mut self, Place { executor, worker, host }: Place) -> Vec<Token> {
        self.execute("update container_jobs set parked_until = null, waiting_reason = null where status = 'pending'")
            .await;
        let standing = lines::standing(&self.store, executor).await.expect("lines");
        let asks: Vec<Ask> = standing.iter().map(|line| Ask { at: line.entrance(), jobs: 50, look: 50 }).collect();
        let served = lines::dispatch(&self.store, executor, &asks).await.expect("dispatched");
        let items: Vec<_> = served.into_iter().flat_map(|served| served.items).collect();
        let request = Request {
            worker,
            fleet: tenants::fleet(&self.store).await.expect("a fleet"),
            executor,
            hosts: &[host],
            items: &items,
            alone: false,
            launch_follows: true,
        };
        let claimed = claims::claim(&self.store, &request).await.expect("claimed").claimed;
        claimed.into_iter().map(|claimed| claimed.token).collect()
    }

    async fn apply(&self, ends: &[(Token, Ended)]) -> usize {
        let report = |(token, ended): &(Token, Ended)| Report {
            token: *token,
            kind: ReportKind::Ended(ended.clone()),
            traceparent: None,
        };
        let batch: Vec<Report> = ends.iter().map(report).collect();
        reports::apply(&self.store, &batch, &|| 0.5).await.expect("applied").superseded
    }

    fn scope(&self, operator: bool) -> Scope {
        Scope::Tenant { id: self.tenant, operator }
    }

    async fn by_host(&self) -> Vec<Line> {
        self.by_place(By::Host, self.tenant).await
    }

    async fn by_template(&self) -> Vec<Line> {
        self.by_template_of(self.tenant).await
    }

    async fn by_job(&self) -> Vec<Line> {
        self.by_job_of(self.tenant).await
    }

    async fn by_place(&self, by: By, id: TenantId) -> Vec<Line> {
        let scope = Scope::Tenant { id, operator: false };
        costs::by_place(&self.api, scope, by, false, ever(), None, 10).await.expect("read")
    }

    /// What an operator sees of all tenants.
    async fn by_place_of_everyone(&self, by: By) -> Vec<Line> {
        costs::by_place(&self.api, self.scope(true), by, true, ever(), None, 10).await.expect("read")
    }

    async fn by_template_of(&self, id: TenantId) -> Vec<Line> {
        let scope = Scope::Tenant { id, operator: false };
        costs::by_template(&self.api, scope, id, ever(), None, 10).await.expect("read")
    }

    async fn by_job_of(&self, id: TenantId) -> Vec<Line> {
        let scope = Scope::Tenant { id, operator: false };
        costs::by_job(&self.api, scope, id, ever(), None, 100).await.expect("read")
    }

    async fn ended_at(&mut self, job: JobId) -> DateTime<Utc> {
        sqlx::query_scalar("select completed_at from container_jobs where id = $1")
            .bind(job.uuid())
            .fetch_one(&mut self.owner)
            .await
            .expect("a job")
    }

    async fn estimate(&self, job: JobId) -> Option<Decimal> {
        jobs::get(&self.api, self.scope(false), job).await.expect("read").expect("a job").estimated_cost
    }
}

/// What a line says of its key: attempts, those that completed, and untimed ones; for how many minutes they ran; their
/// cost, that of those that failed, and the estimate.
fn sums([runs, completed, untimed]: [i64; 3], minutes: i64, [cost, failed_cost, estimated_cost]: [&str; 3]) -> Line {
    Line {
        key: String::new(),
        name: String::new(),
        runs,
        completed,
        untimed,
        run_millis: minutes * 60_000,
        cost: Some(money(cost)),
        failed_cost: money(failed_cost),
        estimated_cost: Some(money(estimated_cost)),
        ended_at: None,
    }
}

fn line(key: impl ToString, name: &str, sums: &Line) -> Line {
    Line { key: key.to_string(), name: name.to_owned(), ..sums.clone() }
}

async fn place(store: &Store, executor: ExecutorType, name: &str, per_job: &str, per_hour: &str) -> Place {
    let worker = NewWorker {
        id: WorkerId::new(),
        executor_type: executor,
        name: "test",
        version: "0",
        reads_version: 1,
        lease_seconds: 3_600,
    };
    workers::register(store, &worker).await.expect("stored");
    let host = NewHost {
        tenant: None,
        name,
        executor_type: executor,
        connection_config: json!({}),
        executor_config: json!({}),
        max_concurrent_jobs: 100,
        cost_per_job: money(per_job),
        cost_per_hour: money(per_hour),
    };
    let host = hosts::insert(store, Scope::Fleet, &host).await.expect("stored");
    let check = HostCheck { host, answered: true, healthy: true, detail: String::new() };
    workers::put_checks(store, worker.id, &[check]).await.expect("stored");
    Place { executor, worker: worker.id, host }
}

fn exited(exit_code: i32, run_millis: u64) -> Ended {
    Ended {
        execution_id: Some("container".to_owned()),
        run_millis: Some(run_millis),
        ..Ended::bare(ReportedOutcome::Exited { exit_code })
    }
}

fn failed(class: FailureClass) -> Ended {
    Ended::bare(ReportedOutcome::Failed(Failure::new(class, "the test says so")))
}

#[tokio::test]
async fn each_attempt_counts_once_however_often_its_end_is_told() {
    let mut lab = Lab::new().await;
    let twice = json!({ "max_attempts": 2, "on_exit_codes": [3] });
    let job = lab.submit(Some(lab.template), twice).await;
    lab.submit(None, json!({})).await;

    let claimed = lab.claim().await;
    let ends: Vec<(Token, Ended)> =
        claimed.iter().map(|token| (*token, exited(if token.job == job { 3 } else { 0 }, HOUR))).collect();
    // The same end twice in one batch, and again in another, as after a crash between commit and ack.
    assert_eq!(lab.apply(&[ends.clone(), ends.clone()].concat()).await, 2);
    assert_eq!(lab.apply(&ends).await, 2);
    let again = lab.claim().await;
    assert_eq!(again.iter().map(|token| (token.job, token.attempt)).collect::<Vec<_>>(), [(job, 2)]);
    // Side by side, as after a redelivery to another recorder.
    let end = [(again[0], exited(0, HOUR / 2))];
    let (one, other) = tokio::join!(lab.apply(&end), lab.apply(&end));
    assert_eq!(one + other, 1);

    let whole = lab.by_host().await;
    assert_eq!((whole[0].runs, whole[0].completed, whole[0].untimed), (3, 2, 0));
    assert_eq!((whole[0].cost, whole[0].failed_cost), (Some(money("4.0")), money("1.5")));
    assert_eq!(whole[0].run_millis, 5 * 1_800_000);
    // Each job once, at two hours and a start.
    assert_eq!(whole[0].estimated_cost, Some(money("5")));
    let by_template = lab.by_template().await;
    assert_eq!(by_template.iter().map(|line| line.name.as_str()).collect::<Vec<_>>(), ["", "nightly"]);
    assert_eq!(by_template[0].key, NO_TEMPLATE);
    assert_eq!((by_template[1].runs, by_template[1].failed_cost), (2, money("1.5")));
    let of_job = lab.by_job().await.into_iter().find(|line| line.key == job.to_string()).expect("a line");
    assert_eq!((of_job.runs, of_job.completed, of_job.cost), (2, 1, Some(money("2.5"))));
    assert_eq!((of_job.failed_cost, of_job.estimated_cost), (money("1.5"), Some(money("2.5"))));
}

#[tokio::test]
async fn what_never_started_costs_nothing_and_what_nobody_timed_is_not_known() {
    let mut lab = Lab::new().await;
    for _ in 0..4 {
        lab.submit(None, json!({})).await;
    }
    let claimed = lab.claim().await;
    let vanished = Ended { execution_id: Some("container".to_owned()), ..failed(FailureClass::ImageNotFound) };
    let ends = [
        failed(FailureClass::ImageNotFound),
        vanished,
        Ended::bare(ReportedOutcome::Exited { exit_code: 1 }),
        exited(0, 0),
    ];
    lab.apply(&claimed.iter().copied().zip(ends).collect::<Vec<_>>()).await;
    let mut costs = Vec::new();
    for token in &claimed {
        let of_job = lab.by_job().await.into_iter().find(|line| line.key == token.job.to_string()).expect("a line");
        costs.push((of_job.cost, of_job.untimed));
    }
    assert_eq!(costs, [(Some(Decimal::ZERO), 0), (None, 1), (None, 1), (Some(money("0.5")), 0)]);
    let whole = lab.by_host().await;
    assert_eq!((whole[0].runs, whole[0].untimed, whole[0].cost), (4, 2, Some(money("0.5"))));
}

#[tokio::test]
async fn an_estimate_follows_the_templates_history_and_the_cheapest_active_host() {
    let mut lab = Lab::new().await;
    let first = lab.submit(Some(lab.template), json!({})).await;
    assert_eq!(lab.estimate(first).await, Some(money("2.5")), "no history: its timeout");
    let failing = lab.submit(Some(lab.template), json!({})).await;
    let ends: Vec<_> = lab
        .claim()
        .await
        .into_iter()
        .map(|token| if token.job == failing { (token, exited(1, 7_200_000)) } else { (token, exited(0, HOUR / 4)) })
        .collect();
    lab.apply(&ends).await;
    let second = lab.submit(Some(lab.template), json!({})).await;
    assert_eq!(lab.estimate(second).await, Some(money("0.75")), "what failed tells nothing");
    let inline = lab.submit(None, json!({})).await;
    assert_eq!(lab.estimate(inline).await, Some(money("2.5")), "a job without a template has no history");

    let cheap = place(&lab.store, ExecutorType::Mock, "cheap", "0.1", "1.2").await.host;
    let third = lab.submit(Some(lab.template), json!({})).await;
    assert_eq!(lab.estimate(third).await, Some(money("0.4")));
    lab.execute(&format!("update executor_hosts set state = 'cordoned' where id = '{cheap}'")).await;
    let fourth = lab.submit(Some(lab.template), json!({})).await;
    assert_eq!(lab.estimate(fourth).await, Some(money("0.75")));
    lab.execute("update executor_hosts set is_active = false").await;
    let nowhere = lab.submit(Some(lab.template), json!({})).await;
    assert_eq!(lab.estimate(nowhere).await, None, "nobody has named a price");
    assert_eq!(lab.estimate(first).await, Some(money("2.5")), "an estimate stays what it was");
}

#[tokio::test]
async fn a_job_sent_elsewhere_is_expected_to_cost_what_it_costs_there() {
    let mut lab = Lab::new().await;
    lab.submit(Some(lab.template), json!({})).await;
    let measured = lab.claim().await;
    lab.apply(&[(measured[0], exited(0, HOUR / 4))]).await;
    let docker = place(&lab.store, ExecutorType::Docker, "dear", "9", "4").await;
    let made = lab.submit(Some(lab.template), json!({})).await;
    let inline = lab.submit(None, json!({})).await;
    assert_eq!((lab.estimate(made).await, lab.estimate(inline).await), (Some(money("0.75")), Some(money("2.5"))));

    let actor = Actor { tenant: lab.tenant, name: "key:test".to_owned() };
    let deed = Deed::Move(ExecutorType::Docker);
    bulk::put(&lab.api, lab.scope(false), &actor, deed, &Filter::default()).await.expect("stored");
    while bulk::work::batch(&lab.store).await.expect("a batch").is_some() {}
    assert_eq!((lab.estimate(made).await, lab.estimate(inline).await), (Some(money("10")), Some(money("17"))));

    let ends: Vec<_> = lab.claim_at(docker).await.into_iter().map(|token| (token, exited(0, HOUR))).collect();
    lab.apply(&ends).await;
    let by_executor = lab.by_place(By::Executor, lab.tenant).await;
    let told: Vec<_> = by_executor.iter().map(|line| (line.key.as_str(), line.cost, line.estimated_cost)).collect();
    let known = |text| Some(money(text));
    assert_eq!(told, [("docker", known("26"), known("27")), ("mock", known("0.75"), known("2.5"))]);
}

#[tokio::test]
async fn costs_outlive_their_jobs() {
    let mut lab = Lab::new().await;
    lab.submit(Some(lab.template), json!({})).await;
    let claimed = lab.claim().await;
    lab.apply(&[(claimed[0], exited(0, HOUR))]).await;
    let before = (lab.by_host().await, lab.by_template().await);
    lab.execute(
        "update container_jobs set completed_at = completed_at - interval '2 days';
         update container_executions set ended_at = ended_at - interval '2 days';
         delete from outbox",
    )
    .await;
    let kept = Defaults { jobs_seconds: 86_400, logs_seconds: 86_400 };
    retention::remove_logs(&lab.store, kept, 10, 1_000).await.expect("removed");
    assert_eq!(retention::remove_jobs(&lab.store, kept, 10).await.expect("removed").jobs, 1);
    assert_eq!(lab.by_job().await, []);
    assert_eq!((lab.by_host().await, lab.by_template().await), before);
    assert_eq!(before.0[0].cost, Some(money("1.5")));
    lab.execute("delete from container_templates; delete from worker_hosts; delete from executor_hosts").await;
    let (host, template) = (lab.by_host().await.remove(0), lab.by_template().await.remove(0));
    assert_eq!((host.name.as_str(), host.cost, &host.key), ("", before.0[0].cost, &before.0[0].key));
    assert_eq!((template.name.as_str(), template.cost), ("", before.1[0].cost));
}

#[tokio::test]
async fn pages_hold_everything_once() {
    let mut lab = Lab::new().await;
    for _ in 0..5 {
        lab.submit(None, json!({})).await;
    }
    // All in one transaction: their ends are at the same time.
    let ends: Vec<_> = lab.claim().await.into_iter().map(|token| (token, exited(0, 1))).collect();
    lab.apply(&ends).await;
    let all = lab.by_job().await;
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = costs::by_job(&lab.api, lab.scope(false), lab.tenant, ever(), after, 2).await.expect("read");
        let Some(last) = page.last() else { break };
        after = Some(last.place().parse().expect("a place"));
        seen.extend(page);
    }
    assert_eq!((seen.len(), seen), (5, all));
    for (days, found) in [((1970, 2000), 0), ((2000, 9999), 5)] {
        let day = |year| NaiveDate::from_ymd_opt(year, 1, 1).expect("a day");
        let days = Days { since: day(days.0), until: day(days.1) };
        assert_eq!(
            costs::by_job(&lab.api, lab.scope(false), lab.tenant, days, None, 9).await.expect("read").len(),
            found
        );
        let runs = costs::by_place(&lab.api, lab.scope(false), By::Executor, false, days, None, 9).await.expect("read");
        assert_eq!(runs.iter().map(|line| line.runs).sum::<i64>(), i64::try_from(found).expect("small"));
    }
}

#[tokio::test]
async fn each_view_tells_of_each_key_what_is_its_own() {
    let mut lab = Lab::new().await;
    let (acme, nightly, first) = (lab.tenant, lab.template, lab.place);
    let second = place(&lab.store, ExecutorType::Docker, "second", "2", "8").await;
    let (globex, weekly) = (tenants::put_tenant(&lab.store, "globex").await.expect("stored"), TemplateId::new());
    lab.put_template(weekly, globex, "weekly").await;

    let twice = json!({ "max_attempts": 2, "on_exit_codes": [3] });
    let plain = lab.submit_to(first.executor, acme, "plain", None, json!({})).await;
    let retried = lab.submit_to(first.executor, acme, "retried", Some(nightly), twice).await;
    let broken = lab.submit_to(second.executor, acme, "broken", Some(nightly), json!({})).await;
    let long = lab.submit_to(first.executor, globex, "long", Some(weekly), json!({})).await;
    let vanished = lab.submit_to(second.executor, globex, "vanished", Some(weekly), json!({})).await;
    assert_eq!((lab.claim_at(first).await.len(), lab.claim_at(second).await.len()), (3, 2));
    // One after the other: jobs are listed in the order of their ends.
    for (job, ended) in [
        (plain, exited(0, HOUR)),
        (retried, exited(3, HOUR / 2)),
        (broken, exited(1, HOUR / 4)),
        (long, exited(0, 2 * HOUR)),
        (vanished, Ended::bare(ReportedOutcome::Exited { exit_code: 0 })),
    ] {
        assert_eq!(lab.apply(&[(Token { job, attempt: 1, epoch: 1 }, ended)]).await, 0);
    }
    let again = lab.claim_at(first).await;
    assert_eq!(lab.apply(&[(again[0], exited(0, HOUR / 10))]).await, 0);

    let of_plain = sums([1, 1, 0], 60, ["1.5", "0", "2.5"]);
    let of_retried = sums([2, 1, 0], 36, ["1.6", "1", "2.5"]);
    let of_broken = sums([1, 0, 0], 15, ["4", "4", "18"]);
    let of_long = sums([1, 1, 0], 120, ["2.5", "0", "2.5"]);
    let of_vanished = sums([1, 1, 1], 0, ["0", "0", "18"]);
    let jobs = [
        Line { ended_at: Some(lab.ended_at(retried).await), ..line(retried, "retried", &of_retried) },
        Line { ended_at: Some(lab.ended_at(broken).await), ..line(broken, "broken", &of_broken) },
        Line { ended_at: Some(lab.ended_at(plain).await), ..line(plain, "plain", &of_plain) },
    ];
    assert_eq!(lab.by_job_of(acme).await, jobs);
    let jobs = [
        Line { ended_at: Some(lab.ended_at(vanished).await), cost: None, ..line(vanished, "vanished", &of_vanished) },
        Line { ended_at: Some(lab.ended_at(long).await), ..line(long, "long", &of_long) },
    ];
    assert_eq!(lab.by_job_of(globex).await, jobs);

    let of_nightly = sums([3, 1, 0], 51, ["5.6", "5", "20.5"]);
    let templates = [line(NO_TEMPLATE, "", &of_plain), line(nightly, "nightly", &of_nightly)];
    assert_eq!(lab.by_template_of(acme).await, templates);
    let of_globex = sums([2, 2, 1], 120, ["2.5", "0", "20.5"]);
    assert_eq!(lab.by_template_of(globex).await, [line(weekly, "weekly", &of_globex)]);

    // Of acme at the first place, and at the second; of both tenants; of both places.
    let at_first = sums([3, 2, 0], 96, ["3.1", "1", "5"]);
    let of_acme = sums([4, 2, 0], 111, ["7.1", "5", "23"]);
    let (all_first, all_second) = (sums([4, 3, 0], 216, ["5.6", "1", "7.5"]), sums([2, 1, 1], 15, ["4", "4", "36"]));
    let hosts = |one: &Line, other: &Line| [line(first.host, "first", one), line(second.host, "second", other)];
    let executors = |one: &Line, other: &Line| [line("docker", "docker", other), line("mock", "mock", one)];
    for (tenant, one, other) in [(acme, &at_first, &of_broken), (globex, &of_long, &of_vanished)] {
        assert_eq!(lab.by_place(By::Host, tenant).await, hosts(one, other));
        assert_eq!(lab.by_place(By::Executor, tenant).await, executors(one, other));
    }
    let owners = [line(acme, "acme", &of_acme), line(globex, "globex", &of_globex)];
    assert_eq!(lab.by_place(By::Tenant, acme).await, owners[..1]);
    assert_eq!(lab.by_place(By::Tenant, globex).await, owners[1..]);
    assert_eq!(lab.by_place_of_everyone(By::Tenant).await, owners);
    assert_eq!(lab.by_place_of_everyone(By::Host).await, hosts(&all_first, &all_second));
    assert_eq!(lab.by_place_of_everyone(By::Executor).await, executors(&all_first, &all_second));
}

#[tokio::test]
async fn only_an_operator_sees_what_others_pay() {
    let mut lab = Lab::new().await;
    lab.submit(Some(lab.template), json!({})).await;
    let claimed = lab.claim().await;
    lab.apply(&[(claimed[0], exited(0, HOUR))]).await;
    let other = tenants::put_tenant(&lab.store, "globex").await.expect("stored");
    for operator in [false, true] {
        let scope = Scope::Tenant { id: other, operator };
        for by in [By::Tenant, By::Host, By::Executor] {
            let own = costs::by_place(&lab.api, scope, by, false, ever(), None, 9).await.expect("read");
            assert_eq!(own, [], "{by}");
            let all = costs::by_place(&lab.api, scope, by, true, ever(), None, 9).await.expect("read");
            assert_eq!(all.len(), usize::from(operator), "{by}");
        }
        for tenant in [lab.tenant, other] {
            assert_eq!(costs::by_template(&lab.api, scope, tenant, ever(), None, 9).await.expect("read"), []);
            assert_eq!(costs::by_job(&lab.api, scope, tenant, ever(), None, 9).await.expect("read"), []);
        }
    }
}
