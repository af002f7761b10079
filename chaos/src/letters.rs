//! What must end among the dead letters: a submission past its delivery limit, a refused one, and messages that nobody
//! can read. Each as one letter, with its reason, and without its producer's key.

#![expect(clippy::disallowed_methods, reason = "a producer's own client, and not a part of the fleet")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use gantry_broker::dead_letter::CREDENTIALS;
use lapin::options::{BasicGetOptions, BasicNackOptions, BasicPublishOptions};
use lapin::{BasicProperties, Channel};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::producer::Producer;
use crate::verdict::Verdict;

const SUBMISSIONS: &str = "gantry.submissions";
/// Where messages are sent that nobody can read: exchange and routing key.
const UNREADABLE: [(&str, &str); 2] = [("gantry.jobs", "mock"), ("gantry.reports", "gantry.reports")];
/// Submissions that are brought to their limit beforehand: more than most loads hand in.
const HELD: usize = 3;
/// What is replayed when it has become a letter: a list of work, which nobody can read then either.
const REPLAYED: &str = "gantry.jobs";
/// How long RabbitMQ may take to give a message out again.
const GIVEN_WITHIN: Duration = Duration::from_secs(10);

/// A message that must be put aside.
#[derive(Clone, Debug)]
struct Doomed {
    name: &'static str,
    reason: &'static str,
}

/// The dead letters of a fleet.
pub(crate) struct Letters {
    channel: Channel,
    /// Messages that one more return makes expire: their ids and delivery tags.
    held: Vec<(String, u64)>,
    /// By message id.
    doomed: BTreeMap<String, Doomed>,
}

impl Letters {
    /// Brings submissions to their limit. Before a dispatcher is there: nobody else may take them.
    pub(crate) async fn new(producer: &Producer) -> anyhow::Result<Self> {
        let channel = producer.channel().await?;
        let mut held = Vec::with_capacity(HELD);
        for _ in 0..HELD {
            let key = Uuid::now_v7().to_string();
            let body = json!({ "name": "expired", "idempotency_key": key, "spec": { "image": "simulated" } });
            producer.submit(&key, &body).await?;
            held.push((key, hold(&channel).await?));
        }
        Ok(Self { channel, held, doomed: BTreeMap::new() })
    }

    /// Sends one of each, as far as there are submissions left that can expire.
    pub(crate) async fn send(&mut self) -> anyhow::Result<()> {
        if let Some((id, tag)) = self.held.pop() {
            give_back(&self.channel, tag).await?;
            self.doomed.insert(id, Doomed { name: "expired", reason: "delivery_limit" });
        }
        for (exchange, route) in UNREADABLE {
            let id = Uuid::now_v7().to_string();
            let properties = BasicProperties::default().with_delivery_mode(2).with_message_id(id.as_str().into());
            let options = BasicPublishOptions { mandatory: true, immediate: false };
            let sent = self.channel.basic_publish(exchange.into(), route.into(), options, b"unreadable", properties);
            let confirm = sent.await?.await.context("a message was not confirmed")?;
            ensure!(!confirm.is_nack() && confirm.take_message().is_none(), "no queue took a message");
            self.doomed.insert(id, Doomed { name: exchange, reason: "invalid_message" });
        }
        Ok(())
    }

    /// A submission under this key was handed in that must be refused.
    pub(crate) fn expect_refused(&mut self, key: String) {
        self.doomed.insert(key, Doomed { name: "refused", reason: "invalid_field" });
    }

    /// Asks for the replay of what is to be replayed and was not yet; `sql` as the database's owner.
    pub(crate) async fn replay(&self, sql: &PgPool) -> anyhow::Result<()> {
        let replayed = self.doomed.iter().filter(|(_, doomed)| doomed.name == REPLAYED);
        let ids: Vec<&String> = replayed.map(|(id, _)| id).collect();
        sqlx::query(
            "update dead_letters set state = 'replaying', replay_at = now(), replayed_by = 'chaos',
                 request_id = gen_random_uuid()
             where message_id = any($1) and state = 'waiting' and replays = 0",
        )
        .bind(ids)
        .execute(sql)
        .await?;
        Ok(())
    }

    /// Whether all that was sent has arrived, and was replayed if it is to be.
    pub(crate) async fn have_arrived(&self, sql: &PgPool) -> anyhow::Result<bool> {
        let letters = letters(sql).await?;
        let is_done = |id: &String, doomed: &Doomed| {
            let replayed = |letter: &Value| letter["replays"].as_i64() > Some(0);
            letters.get(id).into_iter().flatten().any(|letter| doomed.name != REPLAYED || replayed(letter))
        };
        Ok(self.doomed.iter().all(|(id, doomed)| is_done(id, doomed)))
    }

    /// Counts what did not arrive, or not as it must.
    pub(crate) async fn judge(&self, sql: &PgPool, verdict: &mut Verdict) -> anyhow::Result<()> {
        let letters = letters(sql).await?;
        for (id, doomed) in &self.doomed {
            judge(id, doomed, letters.get(id).map_or(&[], Vec::as_slice), verdict);
        }
        Ok(())
    }
}

/// What is kept as dead letters, by message id; `sql` as the database's owner.
async fn letters(sql: &PgPool) -> anyhow::Result<BTreeMap<String, Vec<Value>>> {
    let rows: Vec<(String, Value)> = sqlx::query_as(
        "select message_id, jsonb_build_object('reason', reason, 'headers', headers, 'replays', replays) from dead_letters
         where message_id is not null",
    )
    .fetch_all(sql)
    .await?;
    let mut letters = BTreeMap::<String, Vec<Value>>::new();
    for (id, letter) in rows {
        letters.entry(id).or_default().push(letter);
    }
    Ok(letters)
}

fn judge(id: &str, Doomed { name, reason }: &Doomed, letters: &[Value], verdict: &mut Verdict) {
    match letters {
        [] => verdict.lose(format!("{name} ({id}) is not among the dead letters")),
        [letter] => {
            let told = CREDENTIALS.iter().any(|header| letter["headers"].get(header).is_some());
            if letter["reason"] != *reason || told {
                verdict.wrong(format!("{name} ({id}) should be put aside for {reason}, without its key: {letter}"));
            }
        }
        // It is put aside at least once, and what is the same is one letter.
        more => verdict.duplicate(format!("{name} ({id}) is {} letters", more.len())),
    }
}

/// Takes the one submission that waits and returns it as often as RabbitMQ allows; its tag.
async fn hold(channel: &Channel) -> anyhow::Result<u64> {
    let limit = gantry_broker::Config::new("").delivery_limit;
    for _ in 0..limit {
        let tag = take(channel).await?;
        give_back(channel, tag).await?;
    }
    take(channel).await
}

async fn take(channel: &Channel) -> anyhow::Result<u64> {
    let end = Instant::now() + GIVEN_WITHIN;
    loop {
        if let Some(message) = channel.basic_get(SUBMISSIONS.into(), BasicGetOptions { no_ack: false }).await? {
            return Ok(message.delivery.delivery_tag);
        }
        ensure!(Instant::now() < end, "a submission did not come again");
        // What was returned is there again in a moment, and nothing tells when.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn give_back(channel: &Channel, tag: u64) -> anyhow::Result<()> {
    Ok(channel.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_must_be_there_once_and_as_it_should() {
        let counts = |letters: &[Value]| {
            let mut verdict = Verdict::default();
            judge("id", &Doomed { name: "expired", reason: "delivery_limit" }, letters, &mut verdict);
            (verdict.lost, verdict.duplicated, verdict.wrong_result)
        };
        let good = json!({ "reason": "delivery_limit", "headers": { "x-team": "a" } });
        let told = json!({ "reason": "delivery_limit", "headers": { "x-gantry-api-key": "secret" } });
        assert_eq!(counts(std::slice::from_ref(&good)), (0, 0, 0));
        assert_eq!(counts(&[]), (1, 0, 0));
        assert_eq!(counts(&[good.clone(), good]), (0, 1, 0));
        assert_eq!(counts(&[json!({ "reason": "rejected", "headers": {} })]), (0, 0, 1));
        assert_eq!(counts(&[told]), (0, 0, 1));
    }
}
