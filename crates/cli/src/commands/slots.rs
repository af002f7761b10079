//! `gantry slots`.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use gantry_api::wire::SlotList;
use gantry_core::clock::{Clock, SystemClock};
use gantry_core::lost::Condition;

use crate::client::Client;
use crate::error::Result;
use crate::output::{Format, ago, short, table};
use crate::watch::Watch;

const NAME: usize = 32;

#[derive(Args)]
pub(crate) struct Slots {
    /// Only of this host, by its name or id
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    #[command(flatten)]
    watch: Watch,
}

impl Slots {
    pub(crate) async fn run(self, client: &Client, format: Format) -> Result<ExitCode> {
        let query: Vec<(&str, String)> = self.host.into_iter().map(|host| ("host", host)).collect();
        let human = |held: &SlotList| listing(held, SystemClock.now());
        self.watch.print(format, async || client.slots(&query).await, human).await?;
        Ok(ExitCode::SUCCESS)
    }
}

fn listing(held: &SlotList, now: DateTime<Utc>) -> String {
    let rows = held.slots.iter().map(|slot| {
        let state = match (slot.condition, slot.stopping, slot.started_at) {
            (Condition::Unreachable, ..) => "unreachable",
            (Condition::Unowned, ..) => "unowned",
            (Condition::Owned, true, _) => "stopping",
            (Condition::Owned, false, Some(_)) => "running",
            (Condition::Owned, false, None) => "starting",
        };
        [
            slot.host.clone(),
            slot.job.to_string(),
            short(&slot.name, NAME),
            slot.attempt.to_string(),
            state.to_owned(),
            ago(now, slot.since),
        ]
    });
    table(["HOST", "JOB", "NAME", "ATTEMPT", "STATE", "SINCE"], &[3], rows.collect())
}
