//! Postgres and RabbitMQ of one test's own: to be stopped, started again, or driven into an alarm. The servers that all
//! tests share are nobody's to stop.

use gantry_servers::{Postgres, RabbitMq};
use gantry_testkit::{TestDb, TestVhost};
use tempfile::TempDir;

use crate::Fleet;

/// The servers. Declare them before the fleet: it cleans up in them when it ends.
#[derive(Debug)]
pub struct Servers {
    postgres: Option<Postgres>,
    rabbitmq: Option<RabbitMq>,
    data: TempDir,
}

impl Servers {
    /// Starts both.
    pub async fn start() -> Self {
        let data = tempfile::Builder::new().prefix("gantry-own").tempdir().expect("a folder");
        let (postgres, rabbitmq) = tokio::join!(Postgres::start(data.path()), RabbitMq::start(data.path()));
        let (postgres, rabbitmq) = (Some(postgres.expect("Postgres")), Some(rabbitmq.expect("RabbitMQ")));
        Self { postgres, rabbitmq, data }
    }

    /// A fleet on them, without hosts and without parts.
    pub async fn fleet(&self) -> Fleet {
        self.fleet_of(gantry_broker::Config::new).await
    }

    /// The same, with a queue of submissions that holds so many.
    pub async fn fleet_with(&self, submissions_max_length: u32) -> Fleet {
        let broker = |url| gantry_broker::Config { submissions_max_length, ..gantry_broker::Config::new(url) };
        self.fleet_of(broker).await
    }

    async fn fleet_of(&self, broker: impl FnOnce(String) -> gantry_broker::Config) -> Fleet {
        let postgres = self.postgres.as_ref().expect("Postgres runs").url("postgres", "postgres");
        let rabbitmq = self.rabbitmq.as_ref().expect("RabbitMQ runs");
        let (amqp, management) = (rabbitmq.amqp_url("/"), rabbitmq.management_url());
        let (db, vhost) = tokio::join!(TestDb::create_on(&postgres), TestVhost::create_on(&amqp, &management));
        Fleet::on(db, vhost, broker).await
    }

    /// Stops Postgres as an operator does.
    pub async fn stop_postgres(&mut self) {
        self.postgres.take().expect("it runs").stop().await.expect("stopped");
    }

    /// Starts it again, on the same port and with the same data.
    pub async fn start_postgres(&mut self) {
        self.postgres = Some(Postgres::start(self.data.path()).await.expect("started"));
    }

    /// Stops RabbitMQ as an operator does.
    pub async fn stop_rabbitmq(&mut self) {
        self.rabbitmq.take().expect("it runs").stop().await.expect("stopped");
    }

    /// Starts it again, on the same port and with the same data.
    pub async fn start_rabbitmq(&mut self) {
        self.rabbitmq = Some(RabbitMq::start(self.data.path()).await.expect("started"));
    }

    /// Runs `rabbitmqctl`.
    pub async fn rabbitmqctl(&self, arguments: &[&str]) -> String {
        self.rabbitmq.as_ref().expect("it runs").ctl(arguments).await.expect("done")
    }

    /// Stops both in order.
    pub async fn stop(mut self) {
        let rabbitmq = async {
            if let Some(server) = self.rabbitmq.take() {
                server.stop().await.expect("stopped");
            }
        };
        let postgres = async {
            if let Some(server) = self.postgres.take() {
                server.stop().await.expect("stopped");
            }
        };
        tokio::join!(rabbitmq, postgres);
    }
}
