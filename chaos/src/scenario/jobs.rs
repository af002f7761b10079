//! The jobs of a lab and who hands them in: a producer that outlives its connections, and keeps the ledger of what was
//! accepted.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use gantry_core::JobId;
use serde_json::{Value, json};
use uuid::Uuid;

use super::lab::{Lab, POLL};
use crate::producer::Producer;

/// After which a submission that nobody answered is handed in again, under its key.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection is tried for, at all addresses.
const CONNECT_WITHIN: Duration = Duration::from_secs(60);
/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How a job must end.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) status: &'static str,
    pub(crate) exit_code: Option<i32>,
    pub(crate) stdout: String,
    /// Attempts that are the job's own doing.
    pub(crate) attempts: i32,
    /// Whether it has a container at all.
    pub(crate) ran: bool,
}

impl End {
    /// By itself, with this code and output.
    pub(crate) fn exits(code: i32, stdout: impl Into<String>) -> Self {
        let status = if code == 0 { "completed" } else { "failed" };
        Self { status, exit_code: Some(code), stdout: stdout.into(), attempts: 1, ran: true }
    }

    /// By its run deadline; the exit code is whatever the stop made of it.
    pub(crate) fn timeout() -> Self {
        Self { status: "timeout", exit_code: None, stdout: String::new(), attempts: 1, ran: true }
    }

    /// By its queue deadline.
    pub(crate) fn waited() -> Self {
        Self { attempts: 0, ran: false, ..Self::timeout() }
    }

    /// By somebody's wish.
    pub(crate) fn cancelled() -> Self {
        Self { status: "cancelled", ..Self::timeout() }
    }
}

/// A job that was handed in.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) body: Value,
    pub(crate) end: End,
    sent: Instant,
}

/// Hands jobs in.
pub(crate) struct Client {
    addresses: Vec<String>,
    /// Each with what came back on it; the last is in use.
    producers: Vec<Producer>,
    pub(crate) jobs: Vec<Job>,
}

impl Client {
    /// Connects to the first of the addresses that answers.
    pub(crate) async fn connect(addresses: Vec<String>) -> anyhow::Result<Self> {
        let mut client = Self { addresses, producers: Vec::new(), jobs: Vec::new() };
        client.reconnect().await?;
        Ok(client)
    }

    async fn reconnect(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            for address in &self.addresses {
                // A node that is on its way up may take a connection and say nothing on it.
                let connected = tokio::time::timeout(CONNECT, Producer::connect(address)).await;
                match connected.unwrap_or_else(|_| bail!("{address} does not answer")) {
                    Ok(producer) => {
                        self.producers.push(producer);
                        return Ok(());
                    }
                    Err(error) if began.elapsed() > CONNECT_WITHIN => bail!("no way to RabbitMQ: {error:#}"),
                    Err(_) => {}
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Hands a job in; returns its place in `jobs`.
    pub(crate) async fn submit(&mut self, name: &str, mut body: Value, end: End) -> anyhow::Result<usize> {
        let key = Uuid::now_v7().to_string();
        body["name"] = json!(name);
        body["idempotency_key"] = json!(key);
        self.jobs.push(Job { name: name.to_owned(), key, body, end, sent: Instant::now() });
        let index = self.jobs.len() - 1;
        self.send(index).await?;
        Ok(index)
    }

    async fn send(&mut self, index: usize) -> anyhow::Result<()> {
        loop {
            let producer = self.producers.last().context("never connected")?;
            let job = &self.jobs[index];
            let sent = tokio::time::timeout(PATIENCE, producer.submit(&job.key, &job.body)).await;
            self.jobs[index].sent = Instant::now();
            if let Ok(Ok(())) = sent {
                return Ok(());
            }
            // Lost, or refused: a channel whose first message finds a queue without a leader is of no more use.
            tokio::time::sleep(POLL).await;
            self.reconnect().await?;
        }
    }

    /// Whether all submissions are answered; those that are not are handed in again after a while, on a new
    /// connection: the answer, or the way to it, was lost.
    pub(crate) async fn all_answered(&mut self) -> anyhow::Result<bool> {
        let open = |client: &Self, job: &Job| client.answers(&job.key).is_empty();
        let unanswered: Vec<usize> = (0..self.jobs.len()).filter(|index| open(self, &self.jobs[*index])).collect();
        if unanswered.iter().any(|index| self.jobs[*index].sent.elapsed() > PATIENCE) {
            self.reconnect().await?;
            for index in &unanswered {
                self.send(*index).await?;
            }
        }
        Ok(unanswered.is_empty())
    }

    /// Every answer to a submission.
    pub(crate) fn answers(&self, key: &str) -> Vec<Value> {
        self.producers.iter().flat_map(|producer| producer.answers(key)).collect()
    }

    /// The job that a submission made.
    pub(crate) fn id(&self, index: usize) -> Option<JobId> {
        let answers = self.answers(&self.jobs[index].key);
        let accepted = answers.iter().find(|answer| answer["result"] == "accepted")?;
        accepted["job_id"].as_str()?.parse().ok()
    }

    /// How many different terminal events of a job came, as far as this client was connected.
    pub(crate) fn ends(&self, job: JobId) -> usize {
        self.producers.iter().map(|producer| producer.ends(job)).max().unwrap_or_default()
    }

    /// Whether nothing that was told was missed: it never lost its connection.
    pub(crate) fn heard_all(&self) -> bool {
        self.producers.len() == 1
    }

    /// Whether all are answered and over.
    pub(crate) async fn settled(&mut self, lab: &Lab) -> anyhow::Result<bool> {
        if !self.all_answered().await? {
            return Ok(false);
        }
        let ids: Vec<Uuid> = (0..self.jobs.len()).filter_map(|index| self.id(index)).map(JobId::uuid).collect();
        let open: i64 =
            sqlx::query_scalar("select count(*) from container_jobs where id = any($1) and completed_at is null")
                .bind(&ids)
                .fetch_one(&lab.sql)
                .await?;
        Ok(open == 0)
    }

    /// How many are over.
    pub(crate) async fn over(lab: &Lab) -> anyhow::Result<i64> {
        let sql = "select count(*) from container_jobs where completed_at is not null";
        Ok(sqlx::query_scalar(sql).fetch_one(&lab.sql).await?)
    }
}
