//! `gantry job run`.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use gantry_core::clock::{Clock, SystemClock};
use gantry_core::spec::Submission;
use gantry_core::{JobId, Status};
use tokio::time::sleep;
use uuid::Uuid;

use super::super::values::duration;
use super::interrupt::Interrupts;
use super::logs::Sink;
use super::options::Options;
use super::{ended, follow, wait};
use crate::client::Client;
use crate::error::Result;
use crate::exit::{self, End};
use crate::output::{Format, note};

/// How long a job may be pending before its reason is told, and between two looks at it.
const WORTH_TELLING: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    job: Options,
    /// Do not start it before this time, such as 2026-03-01T06:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "delay")]
    not_before: Option<DateTime<Utc>>,
    /// Do not start it before this time has passed, such as 10m
    #[arg(long, value_parser = duration, value_name = "TIME")]
    delay: Option<Duration>,
    /// Print the job's id and leave it to itself
    #[arg(long, short)]
    detach: bool,
}

impl Run {
    pub(super) async fn run(self, client: &Client, format: Format) -> Result<ExitCode> {
        let detach = self.detach;
        let submission = self.submission(SystemClock.now())?;
        let mut interrupts = Interrupts::new()?;
        let Some(accepted) = interrupts.or_leave(client.submit(&submission)).await else {
            note("gantry: left before Gantry has answered; `gantry job list` shows whether the job was accepted");
            return Ok(ExitCode::from(exit::INTERRUPTED));
        };
        let accepted = accepted?;
        let id = accepted.id;
        if detach {
            format.print(&accepted, |_| id.to_string())?;
            return Ok(ExitCode::SUCCESS);
        }
        let code = match format {
            Format::Table => interrupts.or_cancel(client, id, followed(client, id)).await,
            Format::Json => interrupts.or_cancel(client, id, awaited(client, id)).await,
        };
        code.unwrap_or_else(|| {
            note(&format!("gantry: left the job to itself; `gantry job logs -f {id}` follows it"));
            Ok(ExitCode::from(exit::INTERRUPTED))
        })
    }

    fn submission(self, now: DateTime<Utc>) -> Result<Submission> {
        Ok(Submission {
            // So that the submission can be sent again when its answer is lost.
            idempotency_key: Some(format!("cli-{}", Uuid::now_v7())),
            not_before: self.not_before.or(self.delay.map(|delay| now + delay)),
            ..self.job.submission()?
        })
    }
}

/// Follows the log to its end.
async fn followed(client: &Client, id: JobId) -> Result<ExitCode> {
    let mut sink = Sink::streams();
    let end = async { follow::to_end(client, id, &mut sink).await };
    // Only where nobody but a person reads along: elsewhere stderr is the container's alone.
    let end = if std::io::stderr().is_terminal() {
        note(&format!("gantry: job {id}"));
        tokio::select! {
            end = end => end,
            never = tell_why_it_waits(client, id) => never,
        }
    } else {
        end.await
    };
    end.map(|end| ended(End::from(&end), Format::Table))
}

async fn awaited(client: &Client, id: JobId) -> Result<ExitCode> {
    let job = wait::to_end(client, id, None).await?;
    Format::Json.print(&job, |_| String::new())?;
    Ok(ended(End::from(&job.job), Format::Json))
}

/// Tells each reason for which the job waits, while it waits for long. Never ends.
async fn tell_why_it_waits<T>(client: &Client, id: JobId) -> T {
    let mut told = None;
    loop {
        sleep(WORTH_TELLING).await;
        match client.job(id, None).await.map(|job| job.job) {
            Ok(job) if job.status == Status::Pending => {
                if let Some(reason) = job.waiting_reason.filter(|reason| told != Some(*reason)) {
                    note(&format!("gantry: waiting: {reason}"));
                    told = Some(reason);
                }
            }
            Ok(_) => return std::future::pending().await,
            // The follower tries the same API, and tells what is wrong with it.
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: Run,
    }

    fn submission(line: &[&str]) -> Submission {
        let line = ["run", "--image", "i"].iter().chain(line);
        Line::try_parse_from(line).expect("parsed").run.submission(DateTime::UNIX_EPOCH).expect("a job")
    }

    #[test]
    fn every_submission_has_a_key_of_its_own() {
        let key = || submission(&[]).idempotency_key.expect("a key");
        assert_ne!(key(), key());
    }

    #[test]
    fn a_job_may_start_later() {
        let at = |line: &[&str]| submission(line).not_before.map(|time| time.to_rfc3339());
        assert_eq!(at(&[]), None);
        assert_eq!(at(&["--delay", "1h 30m"]).as_deref(), Some("1970-01-01T01:30:00+00:00"));
        assert_eq!(at(&["--not-before", "2026-03-01T06:00:00+01:00"]).as_deref(), Some("2026-03-01T05:00:00+00:00"));
        for line in [&["--delay", "1m", "--not-before", "2026-03-01T06:00:00Z"][..], &["--not-before", "tomorrow"]] {
            assert!(Line::try_parse_from(["run", "--image", "i"].iter().chain(line)).is_err(), "{line:?}");
        }
    }
}
