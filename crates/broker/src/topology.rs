//! Every exchange, queue and binding of a fleet, and how they are declared.
//!
//! | exchange | kind | queue |
//! |---|---|---|
//! | `gantry.submissions` | direct | `gantry.submissions`: bounded, full means refused |
//! | `gantry.jobs` | direct | `gantry.jobs.<executor_type>`, key `<executor_type>` |
//! | `gantry.reports` | direct | `gantry.reports` |
//! | `gantry.events`, `gantry.logs` | topic | the subscribers' own |
//! | `gantry.control` | fanout | the subscribers' own |
//! | `gantry.dead` | direct | `gantry.dead`, `gantry.submissions.expired` |
//!
//! Work queues are quorum queues with a delivery limit and at-least-once
//! dead-lettering. A submission past that limit goes to
//! `gantry.submissions.expired` first, because it still carries the producer's
//! API key: the dispatcher takes that off on the way to `gantry.dead`.

use lapin::{
    Channel, ErrorKind, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{AMQPValue, FieldTable, LongString},
};

use crate::{Broker, Config, connection, message::short};

/// Where a message goes: an exchange and a routing key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Exchange; empty for the default one.
    pub exchange: String,
    /// Routing key.
    pub routing_key: String,
}

/// Why the topology could not be declared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It exists with other arguments. RabbitMQ cannot change them in place.
    #[error(
        "{kind} `{name}` exists with other settings than this configuration asks for ({reason}); \
         restore the former settings, or empty and delete it (`rabbitmqctl delete_queue {name}`, \
         or the management console) and start again, or choose another `prefix` or vhost"
    )]
    Mismatch {
        /// `queue` or `exchange`.
        kind: &'static str,
        /// Its name, prefix included.
        name: String,
        /// RabbitMQ's own words.
        reason: String,
    },
    /// The user of the URL may not declare it.
    #[error("not allowed to declare {kind} `{name}` ({reason}); grant the user configure, write and read permission")]
    Forbidden {
        /// `queue` or `exchange`.
        kind: &'static str,
        /// Its name, prefix included.
        name: String,
        /// RabbitMQ's own words.
        reason: String,
    },
    /// Anything else, a lost connection for one.
    #[error("could not declare {kind} `{name}`")]
    Declare {
        /// `queue` or `exchange`.
        kind: &'static str,
        /// Its name, prefix included.
        name: String,
        /// What lapin said.
        #[source]
        source: lapin::Error,
    },
    /// No channel could be opened on the connection.
    #[error("could not open a channel")]
    Channel(#[source] lapin::Error),
    /// There is no connection.
    #[error(transparent)]
    Connection(#[from] connection::Error),
}

/// The names of one fleet.
#[derive(Debug, Clone)]
pub struct Topology {
    prefix: String,
    submissions_max_length: u32,
    delivery_limit: u32,
}

impl Topology {
    /// The topology that `config` describes.
    pub fn new(config: &Config) -> Self {
        Self {
            prefix: config.prefix.clone(),
            submissions_max_length: config.submissions_max_length,
            delivery_limit: config.delivery_limit,
        }
    }

    fn name(&self, base: &str) -> String {
        format!("{}{base}", self.prefix)
    }

    /// Queue of jobs that producers submit.
    pub fn submissions_queue(&self) -> String {
        self.name("gantry.submissions")
    }

    /// Queue of submissions past the delivery limit, credentials still on them.
    pub fn expired_queue(&self) -> String {
        self.name("gantry.submissions.expired")
    }

    /// Queue of dispatched jobs for one executor type.
    pub fn jobs_queue(&self, executor_type: &str) -> String {
        self.name(&format!("gantry.jobs.{executor_type}"))
    }

    /// Queue of the workers' reports.
    pub fn reports_queue(&self) -> String {
        self.name("gantry.reports")
    }

    /// Queue of what could not be processed.
    pub fn dead_queue(&self) -> String {
        self.name("gantry.dead")
    }

    /// Topic exchange of public events.
    pub fn events_exchange(&self) -> String {
        self.name("gantry.events")
    }

    /// Topic exchange of the live log tail.
    pub fn logs_exchange(&self) -> String {
        self.name("gantry.logs")
    }

    /// Fanout exchange of nudges.
    pub fn control_exchange(&self) -> String {
        self.name("gantry.control")
    }

    fn dead_exchange(&self) -> String {
        self.name("gantry.dead")
    }

    /// To the dispatcher. Producers may also leave the routing key empty.
    pub fn submissions(&self) -> Route {
        self.route("gantry.submissions", &self.submissions_queue())
    }

    /// To the workers of one executor type.
    pub fn jobs(&self, executor_type: &str) -> Route {
        self.route("gantry.jobs", executor_type)
    }

    /// To the recorder.
    pub fn reports(&self) -> Route {
        self.route("gantry.reports", &self.reports_queue())
    }

    /// To whoever listens for events with this key
    /// (`job.<status>.<executor_type>.<tenant>`).
    pub fn events(&self, key: &str) -> Route {
        self.route("gantry.events", key)
    }

    /// To whoever follows logs with this key.
    pub fn logs(&self, key: &str) -> Route {
        self.route("gantry.logs", key)
    }

    /// To every process of the fleet.
    pub fn control(&self) -> Route {
        self.route("gantry.control", "")
    }

    /// To the dead letters.
    pub fn dead(&self) -> Route {
        self.route("gantry.dead", &self.dead_queue())
    }

    /// The work queue, without the prefix, that takes what is published to `exchange` with `routing_key`; none for
    /// any other exchange. What is past the limit of deliveries counts as a submission: nothing else goes there.
    pub fn queue_of(&self, exchange: &str, routing_key: &str) -> Option<String> {
        match self.without_prefix(exchange) {
            queue @ ("gantry.submissions" | "gantry.reports") => Some(queue.to_owned()),
            "gantry.jobs" => Some(format!("gantry.jobs.{routing_key}")),
            "gantry.dead" if routing_key == self.expired_queue() => Some("gantry.submissions".to_owned()),
            // The default exchange, whose keys are queues.
            "" => Some(self.without_prefix(routing_key))
                .filter(|queue| {
                    ["gantry.submissions", "gantry.reports"].contains(queue) || self.back_to(queue).is_some()
                })
                .map(str::to_owned),
            _ => None,
        }
    }

    /// The way back to a queue that [`Topology::queue_of`] named; none for one that takes no letters back.
    /// Submissions do not go back this way: they need their producer's key.
    pub fn back_to(&self, queue: &str) -> Option<Route> {
        match queue.strip_prefix("gantry.jobs.") {
            Some(executor_type) => Some(self.jobs(executor_type)),
            None => (queue == "gantry.reports").then(|| self.reports()),
        }
    }

    pub(crate) fn without_prefix<'a>(&self, name: &'a str) -> &'a str {
        name.strip_prefix(self.prefix.as_str()).unwrap_or(name)
    }

    fn route(&self, exchange: &str, routing_key: &str) -> Route {
        Route { exchange: self.name(exchange), routing_key: routing_key.to_owned() }
    }

    /// Declares all of it, with a jobs queue for each of `executor_types`.
    /// Declaring what exists already with the same settings changes nothing.
    /// From then on `broker` declares it again by itself, on every new
    /// connection and when something of it is found missing.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where something exists with other settings.
    pub async fn declare(&self, broker: &Broker, executor_types: &[&str]) -> Result<(), Error> {
        self.declare_on(&broker.channel().await?, executor_types).await?;
        broker.stands(executor_types);
        Ok(())
    }

    pub(crate) async fn declare_on(&self, channel: &Channel, executor_types: &[&str]) -> Result<(), Error> {
        for (name, kind) in [
            ("gantry.submissions", ExchangeKind::Direct),
            ("gantry.jobs", ExchangeKind::Direct),
            ("gantry.reports", ExchangeKind::Direct),
            ("gantry.events", ExchangeKind::Topic),
            ("gantry.logs", ExchangeKind::Topic),
            ("gantry.control", ExchangeKind::Fanout),
            ("gantry.dead", ExchangeKind::Direct),
        ] {
            declare_exchange(channel, &self.name(name), kind).await?;
        }

        // What receives dead letters exists before what sends them: at-least-once
        // dead-lettering keeps a message in its source queue while nothing takes it.
        for queue in [self.dead_queue(), self.expired_queue()] {
            declare_queue(channel, &queue, quorum()).await?;
            bind(channel, &queue, &self.dead_exchange(), &queue).await?;
        }

        let submissions = self.submissions_queue();
        let mut bounded = self.work_queue(&self.expired_queue());
        bounded.insert("x-max-length".into(), AMQPValue::LongLongInt(self.submissions_max_length.into()));
        declare_queue(channel, &submissions, bounded).await?;
        for key in [submissions.as_str(), ""] {
            bind(channel, &submissions, &self.submissions().exchange, key).await?;
        }

        let work = self.work_queue(&self.dead_queue());
        let reports = self.reports_queue();
        declare_queue(channel, &reports, work.clone()).await?;
        bind(channel, &reports, &self.reports().exchange, &reports).await?;
        for executor_type in executor_types {
            let queue = self.jobs_queue(executor_type);
            declare_queue(channel, &queue, work.clone()).await?;
            bind(channel, &queue, &self.jobs("").exchange, executor_type).await?;
        }
        Ok(())
    }

    /// Arguments of a work queue whose dead letters go to the queue `dead`.
    fn work_queue(&self, dead: &str) -> FieldTable {
        let mut arguments = quorum();
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(self.delivery_limit.into()));
        arguments.insert("x-dead-letter-exchange".into(), text(&self.dead_exchange()));
        arguments.insert("x-dead-letter-routing-key".into(), text(dead));
        arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
        // RabbitMQ refuses at-least-once dead-lettering without it, and a full
        // submissions queue must tell its producers.
        arguments.insert("x-overflow".into(), text("reject-publish"));
        arguments
    }
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value.as_bytes()))
}

async fn declare_exchange(channel: &Channel, name: &str, kind: ExchangeKind) -> Result<(), Error> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel
        .exchange_declare(short(name), kind, options, FieldTable::default())
        .await
        .map_err(|source| explain("exchange", name, source))
}

async fn declare_queue(channel: &Channel, name: &str, arguments: FieldTable) -> Result<(), Error> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel
        .queue_declare(short(name), options, arguments)
        .await
        .map(drop)
        .map_err(|source| explain("queue", name, source))
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> Result<(), Error> {
    channel
        .queue_bind(short(queue), short(exchange), short(key), QueueBindOptions::default(), FieldTable::default())
        .await
        .map_err(|source| explain("queue", queue, source))
}

fn explain(kind: &'static str, name: &str, source: lapin::Error) -> Error {
    let name = name.to_owned();
    if let ErrorKind::ProtocolError(error) = source.kind() {
        let reason = error.get_message().to_string();
        match error.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => {
                return Error::Mismatch { kind, name, reason };
            }
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                return Error::Forbidden { kind, name, reason };
            }
            _ => {}
        }
    }
    Error::Declare { kind, name, source }
}

/// Whether RabbitMQ said that a queue or an exchange does not exist.
pub(crate) fn is_not_found(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(error) => matches!(error.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)),
        _ => false,
    }
}
