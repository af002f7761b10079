//! What operators give up by the command line, against the API on a real Postgres: a host that does not come back, and a
//! job whose end nobody can confirm.

use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use gantry_api::{Http, Nudges, Service};
use gantry_core::host::State;
use gantry_core::{ExecutorType, HostId, JobId, WorkerId};
use gantry_runtime::Shutdown;
use gantry_store::audit;
use gantry_store::claims::{self, Request};
use gantry_store::hosts::{self, NewHost};
use gantry_store::lines::{self, Ask};
use gantry_store::workers::{self, HostCheck, NewWorker};
use gantry_store::{Config, Scope, Store, lost, reports, tenants};
use gantry_testkit::TestDb;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::task::JoinHandle;

const MOCK: ExecutorType = ExecutorType::Mock;
const OPERATOR: &str = "operator-key";
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The API on a free port, and a database that no dispatcher, worker or recorder looks at.
struct Api {
    store: Store,
    url: String,
    shutdown: Shutdown,
    served: JoinHandle<std::io::Result<()>>,
    _db: TestDb,
}

/// A host with a live worker.
struct Place {
    host: HostId,
    worker: WorkerId,
}

impl Api {
    async fn start() -> Self {
        let db = TestDb::create().await;
        let store = Store::new(&Config::new(db.fleet_url()), "test").expect("an address");
        let tenant = tenants::put_tenant(&store, "acme").await.expect("stored");
        tenants::put_key(&store, tenant, "operator", OPERATOR, true).await.expect("stored");
        let listen = Http { listen: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let api = Store::new(&Config::new(db.api_url()), "gantry-api").expect("an address");
        let (service, address) = Service::bind(&listen, api, Nudges::default()).await.expect("a free port");
        let shutdown = Shutdown::new();
        let served = tokio::spawn(service.run(shutdown.clone()));
        Self { store, url: format!("http://{address}"), shutdown, served, _db: db }
    }

    async fn stop(self) {
        self.shutdown.request();
        let served = tokio::time::timeout(PATIENCE, self.served).await;
        served.expect("it stops").expect("it does not panic").expect("it served");
    }

    async fn gantry(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_gantry"))
            .args(arguments)
            .env("GANTRY_URL", &self.url)
            .env("GANTRY_API_KEY", OPERATOR)
            .env("NO_PROXY", "*")
            .output()
            .await
            .expect("gantry runs")
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.gantry(&[&["-o", "json"], arguments].concat()).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// What it prints, where it succeeds.
    async fn says(&self, arguments: &[&str]) -> String {
        let output = self.gantry(arguments).await;
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// What it says, where it is refused.
    async fn refused(&self, arguments: &[&str]) -> String {
        let output = self.gantry(arguments).await;
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    }

    async fn place(&self, name: &str) -> Place {
        let host = NewHost {
            tenant: None,
            name,
            executor_type: MOCK,
            connection_config: json!({}),
            executor_config: json!({}),
            max_concurrent_jobs: 4,
            cost_per_job: Default::default(),
            cost_per_hour: Default::default(),
        };
        let host = hosts::insert(&self.store, Scope::Fleet, &host).await.expect("stored");
        let worker = WorkerId::new();
        let (name, version) = ("w", "1");
        let new = NewWorker { id: worker, executor_type: MOCK, name, version, reads_version: 1, lease_seconds: 600 };
        workers::register(&self.store, &new).await.expect("registered");
        let check = HostCheck { host, answered: true, healthy: true, detail: String::new() };
        workers::put_checks(&self.store, worker, &[check]).await.expect("stored");
        Place { host, worker }
    }

    /// A job that runs there.
    async fn running(&self, place: &Place) -> JobId {
        let job = self.json(&["job", "run", "--detach", "--executor", "mock", "--image", "i"]).await;
        let lines = lines::standing(&self.store, MOCK).await.expect("read");
        let asks: Vec<Ask> = lines.iter().map(|line| Ask { at: line.entrance(), jobs: 1, look: 10 }).collect();
        let served = lines::dispatch(&self.store, MOCK, &asks).await.expect("dispatched");
        let items: Vec<_> = served.into_iter().flat_map(|served| served.items).collect();
        let fleet = tenants::fleet(&self.store).await.expect("a fleet");
        let (worker, hosts) = (place.worker, &[place.host]);
        let request =
            Request { worker, fleet, executor: MOCK, hosts, items: &items, alone: false, launch_follows: true };
        let claimed = claims::claim(&self.store, &request).await.expect("asked").claimed;
        assert_eq!(claimed.len(), 1);
        assert_eq!(job["id"], json!(claimed[0].token.job.to_string()));
        claimed[0].token.job
    }

    async fn job(&self, job: JobId) -> Value {
        self.json(&["job", "show", &job.to_string()]).await
    }

    async fn state(&self, host: HostId) -> State {
        let hosts = hosts::list(&self.store, Scope::Fleet).await.expect("read");
        hosts.iter().find(|listed| listed.host.id == host).expect("the host").state
    }

    /// What the dispatcher's upkeep and the recorder do then: how many ends were recorded.
    async fn upkeep(&self) -> usize {
        lost::mark_on_lost_hosts(&self.store, 100).await.expect("marked");
        let ends = lost::reports(&self.store, 100).await.expect("read");
        let applied = reports::apply(&self.store, &ends, &|| 0.5).await.expect("applied");
        assert_eq!(applied.superseded, 0);
        ends.len()
    }

    /// The audit log, oldest first: what, on what, and the rest.
    async fn audit(&self) -> Vec<(String, String, Value)> {
        let mut entries = audit::list(&self.store, Scope::Fleet, None, 100).await.expect("read");
        entries.reverse();
        assert!(entries.iter().all(|entry| entry.actor.starts_with("key:")), "{entries:?}");
        entries.into_iter().map(|entry| (entry.action, entry.subject, entry.detail)).collect()
    }
}

#[tokio::test]
async fn a_host_that_does_not_come_back_is_declared_lost() {
    let api = Api::start().await;
    let (gone, near) = (api.place("gone").await, api.place("near").await);
    let (on_gone, on_near) = (api.running(&gone).await, api.running(&near).await);
    workers::hand_over(&api.store, gone.worker).await.expect("handed over");

    // Nobody reaches it.
    assert_eq!(api.says(&["host", "lost", "gone"]).await, "host gone is lost, 1 attempts there are given up\n");
    assert_eq!((api.state(gone.host).await, api.state(near.host).await), (State::Lost, State::Active));
    let first = ("host_lost".to_owned(), gone.host.to_string(), json!({ "slots": 1, "forced": false }));
    assert_eq!(api.audit().await, std::slice::from_ref(&first));
    assert_eq!(api.upkeep().await, 1);
    let job = api.job(on_gone).await;
    let attempt = &job["attempts"][0];
    assert_eq!(
        (&attempt["abandoned"]["by"], &attempt["failure_class"]),
        (&json!("host lost"), &json!("lost")),
        "{job}"
    );
    assert_eq!(api.job(on_near).await["attempts"][0].get("abandoned"), None);

    // A live worker reaches this one: it says so, and what to do.
    let refused = api.refused(&["host", "lost", "near"]).await;
    assert!(refused.starts_with("error[host_reachable]: 1 live workers reach host `near`"), "{refused}");
    assert!(refused.contains("send `force` to give all of it up"), "{refused}");
    assert_eq!((api.state(near.host).await, api.upkeep().await), (State::Active, 0));
    assert_eq!(api.audit().await, std::slice::from_ref(&first));
    let forced = api.says(&["host", "lost", "near", "--force"]).await;
    assert_eq!(forced, "host near is lost, 1 attempts there are given up\n");
    assert_eq!((api.state(near.host).await, api.upkeep().await), (State::Lost, 1));
    assert_eq!(api.job(on_near).await["attempts"][0]["abandoned"]["by"], "host lost");
    let second = ("host_lost".to_owned(), near.host.to_string(), json!({ "slots": 1, "forced": true }));
    assert_eq!(api.audit().await, [first, second]);

    assert!(api.refused(&["host", "lost", "nowhere"]).await.starts_with("error[not_found]: "));
    api.stop().await;
}

#[tokio::test]
async fn a_job_is_abandoned_only_by_who_says_that_he_means_it() {
    let api = Api::start().await;
    let place = api.place("mock").await;
    let job = api.running(&place).await;
    let id = job.to_string();

    let refused = api.refused(&["job", "abandon", &id]).await;
    assert!(refused.starts_with("error[confirmation_required]: "), "{refused}");
    for says in ["it may run beside whatever comes next", "say so with `force`", "else cancel the job"] {
        assert!(refused.contains(says), "{refused}");
    }
    assert_eq!((api.job(job).await["attempts"][0].get("abandoned"), api.upkeep().await), (None, 0));
    assert_eq!(api.audit().await, []);

    let given_up = api.says(&["job", "abandon", &id, "--force"]).await;
    assert_eq!(given_up, format!("attempt 1 of job {id} is given up\n"));
    let given_up = api.says(&["job", "abandon", &id, "--force"]).await;
    assert_eq!(given_up, format!("attempt 1 of job {id} was given up before\n"));
    let shown = api.job(job).await;
    let abandoned = &shown["attempts"][0]["abandoned"];
    assert_eq!((&shown["status"], &abandoned["how"]), (&json!("running"), &json!("fail")), "{shown}");
    assert!(abandoned["by"].as_str().is_some_and(|by| by.starts_with("key:")), "{shown}");
    let deed = ("job_abandoned".to_owned(), id.clone(), json!({ "attempt": 1, "as": "fail" }));
    assert_eq!(api.audit().await, [deed]);

    assert_eq!(api.upkeep().await, 1);
    let shown = api.job(job).await;
    assert_eq!((&shown["status"], &shown["failure_class"]), (&json!("failed"), &json!("lost")), "{shown}");
    let refused = api.refused(&["job", "abandon", &id, "--force"]).await;
    assert!(refused.starts_with("error[conflict]: ") && refused.contains("nothing to give up"), "{refused}");
    assert_eq!(api.audit().await.len(), 1);
    api.stop().await;
}
