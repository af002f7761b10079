//! The fleet: what its parts share, and how each is started.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

use gantry_api::{Http, Nudges};
use gantry_broker::Broker;
use gantry_core::{ExecutorType, FleetId, HostId, TenantId};
use gantry_executor_docker::DockerExecutor;
use gantry_executor_mock::{MockExecutor, ledger};
use gantry_store::hosts::{self, NewHost};
use gantry_store::{Scope, Store, tenants};
use gantry_testkit::{Proxy, TestDb, TestDocker, TestVhost, eventually};
use gantry_worker::Settings;
use gantry_worker::executor::Executor;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::PATIENCE;
use crate::amqp::Amqp;
use crate::http::Client;
use crate::invariants;
use crate::part::Part;
use crate::producer::Producer;
use crate::workers::patient;

/// Connections of one part at most: many parts share a server that has 300.
const CONNECTIONS: u32 = 6;
const TENANT: &str = "acme";
pub(crate) const KEY: &str = "the-key-of-acme";
const OPERATOR_KEY: &str = "the-key-of-acme-s-operator";

/// A fleet of the test's own. Declare it before its parts: they must end before it does.
#[derive(Debug)]
pub struct Fleet {
    pub(crate) pool: PgPool,
    /// The store as parts of the fleet use it.
    pub store: Store,
    /// Who submits, unless a test says otherwise.
    pub tenant: TenantId,
    id: FleetId,
    /// Where its parts find Postgres, as the role `gantry_fleet`, and RabbitMQ.
    servers: (String, String),
    uses_docker: AtomicBool,
    forgets: AtomicBool,
    folder: TempDir,
    /// RabbitMQ for the test's own use.
    pub amqp: Amqp,
    vhost: TestVhost,
    db: TestDb,
}

impl Fleet {
    /// One without hosts and without parts.
    pub async fn new() -> Self {
        let (db, vhost) = tokio::join!(TestDb::create(), TestVhost::create());
        Self::on(db, vhost, gantry_broker::Config::new).await
    }

    /// On this database and vhost; the topology is declared as `broker` has it.
    pub(crate) async fn on(db: TestDb, vhost: TestVhost, broker: impl FnOnce(String) -> gantry_broker::Config) -> Self {
        logging();
        let store = Store::new(&config(&db.fleet_url()), "test").expect("an address");
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect_lazy(&db.owner_url()).expect("an address");
        let id = tenants::fleet(&store).await.expect("the schema has a fleet");
        let tenant = tenants::put_tenant(&store, TENANT).await.expect("stored");
        tenants::put_key(&store, tenant, "test", KEY, false).await.expect("stored");
        // As in production, where parts have declared everything long before a test's client comes.
        let broker = Broker::connect(broker(vhost.amqp_url().to_owned()), "test").await.expect("connected");
        let types: Vec<&str> = ExecutorType::ALL.iter().map(|executor| executor.as_str()).collect();
        broker.topology().declare(&broker, &types).await.expect("declared");
        let amqp = Amqp::connect(vhost.amqp_url()).await;
        let folder = tempfile::tempdir().expect("a folder");
        let servers = (db.fleet_url(), vhost.amqp_url().to_owned());
        Self {
            pool,
            store,
            tenant,
            id,
            servers,
            uses_docker: AtomicBool::new(false),
            forgets: AtomicBool::new(false),
            folder,
            amqp,
            vhost,
            db,
        }
    }

    /// One whose parts, but for its API, reach Postgres and RabbitMQ through these proxies. The test itself does not.
    pub async fn behind_proxies() -> (Self, Proxy, Proxy) {
        let mut fleet = Self::new().await;
        let (postgres, rabbitmq) = (Proxy::start(&fleet.servers.0).await, Proxy::start(&fleet.servers.1).await);
        fleet.servers = (postgres.url().to_owned(), rabbitmq.url().to_owned());
        (fleet, postgres, rabbitmq)
    }

    /// One with a dispatcher, a recorder, and a mock worker with a host of `slots`.
    pub async fn simulated(slots: i32) -> (Self, [Part; 3]) {
        let fleet = Self::new().await;
        let host = fleet.mock_host(slots).await;
        let parts = [fleet.dispatcher(), fleet.recorder(), fleet.mock_worker(crate::quick())];
        fleet.served(host, 1).await;
        (fleet, parts)
    }

    /// One with a dispatcher, a recorder, and a docker worker with a host of `slots`.
    pub async fn docker(slots: i32) -> (Self, [Part; 3]) {
        let fleet = Self::new().await;
        let host = fleet.docker_host(slots).await;
        let parts = [fleet.dispatcher(), fleet.recorder(), fleet.docker_worker()];
        fleet.served(host, 1).await;
        (fleet, parts)
    }

    /// A host of simulated containers, in the one directory that this fleet has for them.
    pub async fn mock_host(&self, slots: i32) -> HostId {
        self.mock_host_of(None, slots).await
    }

    /// The same, for one tenant alone. It is another host on the same engine.
    pub async fn mock_host_of(&self, owner: Option<TenantId>, slots: i32) -> HostId {
        let directory = json!({ "dir": self.folder.path() });
        self.host(owner, ExecutorType::Mock, directory, json!({}), slots).await
    }

    /// A host of the tenant's own, on another engine of simulated containers: what runs there is in no ledger.
    pub async fn mock_host_elsewhere(&self, slots: i32) -> HostId {
        let directory = json!({ "dir": self.folder.path().join("elsewhere") });
        self.host(Some(self.tenant), ExecutorType::Mock, directory, json!({}), slots).await
    }

    /// A host of the tenant's own, on another engine, which refuses every launch at once for a reason of its own.
    pub async fn mock_host_that_fails(&self, slots: i32) -> HostId {
        let directory = json!({ "dir": self.folder.path().join("elsewhere") });
        let owner = Some(self.tenant);
        self.host(owner, ExecutorType::Mock, directory, json!({ "fail": "backend_error" }), slots).await
    }

    /// The test's engine as a host. Nothing is pulled: there is nothing to pull from.
    pub async fn docker_host(&self, slots: i32) -> HostId {
        self.uses_docker.store(true, Ordering::Relaxed);
        let endpoint = json!({ "endpoint": TestDocker::find().host() });
        self.host(None, ExecutorType::Docker, endpoint, json!({ "pull_policy": "never" }), slots).await
    }

    /// Says that jobs are removed from it: more was paid for than what is left.
    pub fn forgets(&self) {
        self.forgets.store(true, Ordering::Relaxed);
    }

    pub(crate) async fn host(
        &self,
        tenant: Option<TenantId>,
        executor_type: ExecutorType,
        connection: Value,
        config: Value,
        slots: i32,
    ) -> HostId {
        let host = NewHost {
            tenant,
            name: executor_type.as_str(),
            executor_type,
            connection_config: connection,
            executor_config: config,
            max_concurrent_jobs: slots,
            cost_per_job: Default::default(),
            cost_per_hour: Default::default(),
        };
        hosts::insert(&self.store, Scope::Fleet, &host).await.expect("stored")
    }

    /// Another tenant; its key is its name.
    pub async fn other_tenant(&self, name: &str) -> TenantId {
        let tenant = tenants::put_tenant(&self.store, name).await.expect("stored");
        tenants::put_key(&self.store, tenant, "test", name, false).await.expect("stored");
        tenant
    }

    /// Starts a dispatcher.
    pub fn dispatcher(&self) -> Part {
        self.dispatcher_with(gantry_dispatcher::Settings::default())
    }

    /// Starts a dispatcher with these settings.
    pub fn dispatcher_with(&self, settings: gantry_dispatcher::Settings) -> Part {
        let (database, broker) = self.servers();
        Part::spawn("dispatcher", move |shutdown| async move {
            let broker = Broker::connect(broker, "dispatcher").await?;
            gantry_dispatcher::Service::new(Store::new(&database, "dispatcher")?, broker, settings).run(shutdown).await
        })
    }

    /// Starts a recorder.
    pub fn recorder(&self) -> Part {
        let (database, broker) = self.servers();
        Part::spawn("recorder", move |shutdown| async move {
            let broker = Broker::connect(broker, "recorder").await?;
            gantry_recorder::Service::new(Store::new(&database, "recorder")?, broker).run(shutdown).await
        })
    }

    /// Starts a worker of simulated containers.
    pub fn mock_worker(&self, settings: Settings) -> Part {
        self.worker("mock worker", settings, || Arc::new(MockExecutor::new()))
    }

    /// Starts a worker of real containers.
    pub fn docker_worker(&self) -> Part {
        self.worker("docker worker", patient(), || Arc::new(DockerExecutor::new()))
    }

    pub(crate) fn worker(
        &self,
        name: &'static str,
        settings: Settings,
        executor: impl FnOnce() -> Arc<dyn Executor> + Send + 'static,
    ) -> Part {
        let (database, broker) = self.servers();
        Part::spawn(name, move |shutdown| async move {
            let broker = Broker::connect(broker, name).await?;
            // Less than a third of the shortest lease in these tests.
            let database = gantry_store::Config { transaction_timeout_millis: 900, ..database };
            let store = Store::new(&database, name)?;
            gantry_worker::Service::new(store, broker, executor(), settings).run(shutdown).await
        })
    }

    /// Starts an API, and a client of it with the tenant's key.
    pub async fn api(&self) -> (Part, Client) {
        let (database, broker) = (config(&self.db.api_url()), gantry_broker::Config::new(self.vhost.amqp_url()));
        let (bound, address) = oneshot::channel();
        let part = Part::spawn("api", move |shutdown| async move {
            let listen = Http { listen: SocketAddr::from(([127, 0, 0, 1], 0)) };
            let nudges = Nudges::new(&Broker::connect(broker, "api").await?);
            let (service, address) = gantry_api::Service::bind(&listen, Store::new(&database, "api")?, nudges).await?;
            let _ = bound.send(address);
            Ok(service.run(shutdown).await?)
        });
        (part, Client::new(address.await.expect("the API starts"), KEY))
    }

    /// A client with an operator's key of the tenant.
    pub async fn operator(&self, client: &Client) -> Client {
        tenants::put_key(&self.store, self.tenant, "operator", OPERATOR_KEY, true).await.expect("stored");
        client.with_key(Some(OPERATOR_KEY))
    }

    /// A producer of the tenant.
    pub async fn producer(&self) -> Producer {
        Producer::new(self.amqp.clone(), KEY).await
    }

    fn servers(&self) -> (gantry_store::Config, gantry_broker::Config) {
        (config(&self.servers.0), gantry_broker::Config::new(self.servers.1.as_str()))
    }

    /// Waits until so many live workers serve a host.
    pub async fn served(&self, host: HostId, workers: i64) {
        eventually(PATIENCE, async || {
            let listed = hosts::list(&self.store, Scope::Fleet).await.expect("hosts");
            listed.iter().any(|listed| listed.host.id == host && listed.workers == workers)
        })
        .await;
    }

    /// What really ran in the simulated containers' directory.
    pub fn ledger(&self) -> ledger::Ledger {
        ledger::read(self.folder.path()).expect("a ledger")
    }

    /// The directory of the simulated containers.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// This fleet's containers on the test's engine, by name.
    #[expect(clippy::disallowed_methods, reason = "asks the engine itself, as nobody of the fleet")]
    pub async fn containers(&self) -> Vec<String> {
        let owned = DockerExecutor::new().list_owned(&invariants::engine(), self.id).await;
        owned.expect("the engine answers").into_iter().map(|owned| owned.name).collect()
    }

    /// Where its parts find Postgres and RabbitMQ; the API's role has an address of its own.
    pub(crate) fn addresses(&self) -> (&str, &str) {
        (&self.servers.0, &self.servers.1)
    }

    /// RabbitMQ's own address, past any proxy.
    pub fn amqp_address(&self) -> &str {
        self.vhost.amqp_url()
    }

    /// A producer of the tenant over a connection of the test's choice.
    pub async fn producer_on(&self, amqp: Amqp) -> Producer {
        Producer::new(amqp, KEY).await
    }

    /// RabbitMQ lost everything: queues, exchanges and connections.
    pub async fn reset_broker(&self) {
        self.vhost.reset().await;
    }

    /// Somebody deleted every queue and every exchange of Gantry's.
    pub async fn delete_topology(&self) {
        self.vhost.delete_all("gantry.").await;
    }

    /// Throws away every message in every queue.
    pub async fn purge(&self) {
        self.vhost.purge_all().await;
    }

    /// Where Postgres is, as the role of the fleet.
    pub fn fleet_database(&self) -> String {
        self.db.fleet_url()
    }

    /// Postgres's address for the API's role.
    pub fn api_database(&self) -> String {
        self.db.api_url()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let engine = self.uses_docker.load(Ordering::Relaxed).then_some(self.id);
        let forgets = self.forgets.load(Ordering::Relaxed);
        invariants::check(self.db.owner_url(), self.folder.path(), engine, forgets);
    }
}

fn config(url: &str) -> gantry_store::Config {
    gantry_store::Config { max_connections: CONNECTIONS, ..gantry_store::Config::new(url) }
}

/// Gantry's log among the test's output, as `RUST_LOG` asks for it.
fn logging() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().init();
    });
}
