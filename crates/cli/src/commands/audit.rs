//! `gantry audit`.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use gantry_api::wire::AuditList;
use gantry_core::clock::{Clock, SystemClock};

use crate::client::Client;
use crate::error::Result;
use crate::output::{Format, ago, table};

#[derive(Args)]
pub(crate) struct Audit {
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
}

impl Audit {
    pub(crate) async fn run(self, client: &Client, format: Format) -> Result<ExitCode> {
        let list = client.audit(&[("limit", self.limit)]).await?;
        let now = SystemClock.now();
        format.print(&list, |list| listing(list, now))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn listing(list: &AuditList, now: DateTime<Utc>) -> String {
    let rows = list.entries.iter().map(|entry| {
        [ago(now, entry.at), entry.actor.clone(), entry.action.clone(), entry.subject.clone(), entry.detail.to_string()]
    });
    table(["WHEN", "WHO", "WHAT", "ON", "DETAIL"], &[], rows.collect())
}
