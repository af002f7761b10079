//! `gantry dlq`: dead letters.

mod choose;
mod show;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use gantry_api::wire::{DropRequest, Letter, LetterList, LettersReply, ReplayRequest};
use gantry_core::clock::{Clock, SystemClock};
use gantry_core::letter::State;
use gantry_core::{LetterId, LetterRequestId};
use serde::Serialize;

use self::choose::{Choice, Which};
use super::values::one_of;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::output::{Format, ago, note, plain, short, table};
use crate::watch::Watch;

/// Characters of a reason in words that a list shows.
const DETAIL: usize = 60;
/// Letters of a page while the outcome of a replay is read.
const PAGE: u32 = 500;
/// Between two looks at a replay that goes on.
const LOOK: Duration = Duration::from_millis(500);
/// For so long nothing may happen after the last letter is due, before nobody seems to replay.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Subcommand)]
pub(crate) enum Command {
    /// List dead letters, newest first
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one with its headers and its body
    Show {
        /// Its id
        id: LetterId,
    },
    /// Hand letters over again: submissions through admission, lists of work or reports to their queue
    ///
    /// Replaying twice is harmless: the same submission is the same job, and what is stale changes nothing.
    Replay(Replay),
    /// Forget about letters
    Drop(Drop),
}

#[derive(Args)]
pub(crate) struct List {
    /// Only in these states; by default those that nobody has decided about
    #[arg(long, value_parser = one_of::<State>(), value_delimiter = ',', value_name = "STATE", conflicts_with = "all")]
    state: Vec<State>,
    /// In whatever state
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    which: Which,
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Only letters older than this one: where the page before ended
    #[arg(long, value_name = "ID")]
    before: Option<LetterId>,
    #[command(flatten)]
    watch: Watch,
}

#[derive(Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    choice: Choice,
    /// So many in a second
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Do not wait for what becomes of them
    #[arg(long)]
    no_wait: bool,
}

#[derive(Args)]
pub(crate) struct Drop {
    #[command(flatten)]
    choice: Choice,
    /// Yes, they are not wanted any more
    #[arg(long)]
    yes: bool,
}

impl Command {
    pub(crate) async fn run(self, client: &Client, format: Format) -> Result<ExitCode> {
        match self {
            Self::List(list) => {
                let human = |found: &LetterList| listing(found, SystemClock.now());
                list.watch.print(format, async || client.letters(&list.query()).await, human).await?;
            }
            Self::Show { id } => {
                let letter = client.letter(id).await?;
                let now = SystemClock.now();
                format.print(&letter, |letter| show::text(letter, now))?;
            }
            Self::Replay(replay) => return replay.run(client, format).await,
            Self::Drop(drop) => {
                if !drop.yes {
                    let message = "nobody brings dropped letters back; if that is what you want, say so with --yes";
                    return Err(Error::Usage(message.to_owned()));
                }
                let (ids, filter, limit) = drop.choice.parts()?;
                let reply = client.drop_letters(&DropRequest { ids, filter, limit }).await?;
                format.print(&reply, |reply| counted(reply, "dropped"))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = self.which.query();
        let undecided = [State::Waiting, State::Replaying];
        let states = if self.state.is_empty() && !self.all { &undecided[..] } else { &self.state };
        query.extend(states.iter().map(|state| ("state", state.to_string())));
        query.push(("limit", self.limit.to_string()));
        query.extend(self.before.map(|id| ("before", id.to_string())));
        query
    }
}

/// What became of a replay.
#[derive(Debug, Serialize)]
struct Replayed {
    #[serde(flatten)]
    reply: LettersReply,
    /// Letters that were handed over.
    replayed: usize,
    /// Letters that were refused again, by the reason.
    refused: BTreeMap<String, usize>,
}

impl Replay {
    async fn run(self, client: &Client, format: Format) -> Result<ExitCode> {
        let (ids, filter, limit) = self.choice.parts()?;
        let request = ReplayRequest { ids, filter, limit, rate_per_second: Some(self.rate) };
        let reply = client.replay_letters(&request).await?;
        if self.no_wait || reply.letters == 0 {
            format.print(&reply, |reply| counted(reply, "going to be replayed"))?;
            return Ok(ExitCode::SUCCESS);
        }
        if format == Format::Table {
            note(&counted(&reply, "going to be replayed"));
        }
        let outcome = outcome(client, reply).await?;
        format.print(&outcome, |outcome| {
            let first = format!("{} replayed", outcome.replayed);
            let refused = outcome.refused.iter().map(|(why, letters)| format!("{letters} refused: {}", plain(why)));
            [first].into_iter().chain(refused).collect::<Vec<_>>().join("\n")
        })?;
        Ok(if outcome.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Waits until none of the letters is being replayed any more, and sums up what became of them.
async fn outcome(client: &Client, reply: LettersReply) -> Result<Replayed> {
    let pages = |state: Option<State>, limit: u32, before: Option<LetterId>| {
        let mut query = of_request(reply.request);
        query.extend(state.map(|state| ("state", state.to_string())));
        query.push(("limit", limit.to_string()));
        query.extend(before.map(|id| ("before", id.to_string())));
        query
    };
    loop {
        let left = client.letters(&pages(Some(State::Replaying), 1, None)).await?;
        if left.letters.is_empty() {
            break;
        }
        let overdue =
            reply.last_at.map_or(Duration::ZERO, |due| (SystemClock.now() - due).to_std().unwrap_or_default());
        if overdue > PATIENCE {
            let message = format!(
                "some letters are still not replayed; is a dispatcher running? `gantry dlq list --state replaying` shows \
                 them, and they are replayed once one is (request {})",
                reply.request
            );
            return Err(Error::NotEnded(message));
        }
        tokio::time::sleep(LOOK).await;
    }
    let (mut replayed, mut refused, mut before) = (0, BTreeMap::new(), None);
    loop {
        let page = client.letters(&pages(None, PAGE, before)).await?;
        for letter in page.letters {
            match letter.replay_problem {
                Some(problem) => *refused.entry(problem).or_insert(0) += 1,
                None => replayed += 1,
            }
        }
        before = page.next;
        if before.is_none() {
            return Ok(Replayed { reply, replayed, refused });
        }
    }
}

fn of_request(request: LetterRequestId) -> Vec<(&'static str, String)> {
    vec![("request", request.to_string())]
}

fn counted(reply: &LettersReply, what: &str) -> String {
    let letters = if reply.letters == 1 { "letter" } else { "letters" };
    let more = if reply.more { "; more match: say it again, or with a higher --limit" } else { "" };
    format!("{} {letters} {what}{more}", reply.letters)
}

fn listing(list: &LetterList, now: DateTime<Utc>) -> String {
    let rows = list.letters.iter().map(|letter| row(letter, now)).collect();
    let header = ["ID", "STATE", "LAST CAME", "TIMES", "QUEUE", "REASON", "DETAIL"];
    let mut text = table(header, &[3], rows);
    if let Some(next) = list.next {
        text.push_str(&format!("\nThere are more: --before {next}"));
    }
    text
}

fn row(letter: &Letter, now: DateTime<Utc>) -> [String; 7] {
    let detail = letter.replay_problem.as_ref().map(|problem| format!("replay refused: {problem}"));
    [
        letter.id.to_string(),
        letter.state.to_string(),
        ago(now, letter.last_received_at),
        letter.arrivals.to_string(),
        letter.queue.clone().unwrap_or_else(|| letter.origin.clone()),
        letter.reason.clone(),
        short(&detail.unwrap_or_else(|| letter.detail.clone()), DETAIL),
    ]
}

/// A time as the API takes it.
fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
