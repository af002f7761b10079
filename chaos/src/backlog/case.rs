//! The cases, and how large each is.

use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;

use super::sheet::Sheet;
use super::{claims, limits, pending, schedules, shares};

/// A promise of the backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Case {
    /// A tenant's long line delays nobody else, and nothing grows with it
    Backlog,
    /// Tenants share the starts by their weights
    Shares,
    /// A claim costs the same however much has finished before
    Claim,
    /// Never more than the limit in force, whatever operators do
    Limits,
    /// One job per due time, with three dispatchers
    Schedules,
}

impl Case {
    pub(super) fn in_order() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied()
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Backlog => "backlog",
            Self::Shares => "shares",
            Self::Claim => "claim",
            Self::Limits => "limits",
            Self::Schedules => "schedules",
        }
    }

    /// Measures it.
    pub(super) async fn run(self, size: &Size, seed: u64, binaries: &Path, sheet: &mut Sheet) -> anyhow::Result<()> {
        // Boxed: the cases are long, and only one of them runs.
        match self {
            Self::Backlog => Box::pin(pending::run(&size.pending, binaries, sheet)).await,
            Self::Shares => Box::pin(shares::run(&size.shares, binaries, sheet)).await,
            Self::Claim => Box::pin(claims::run(&size.claims, sheet)).await,
            Self::Limits => Box::pin(limits::run(&size.limits, seed, binaries, sheet)).await,
            Self::Schedules => Box::pin(schedules::run(&size.schedules, seed, binaries, sheet)).await,
        }
    }
}

/// How large, and what the figures must keep.
pub(super) struct Size {
    pending: pending::Size,
    shares: shares::Size,
    claims: claims::Size,
    limits: limits::Size,
    schedules: schedules::Size,
}

impl Size {
    /// What is promised.
    pub(super) fn full() -> Self {
        Self {
            pending: pending::Size {
                warm: 8_000,
                few: 1_000,
                many: 100_000,
                hold: Duration::from_secs(40),
                first_start: Duration::from_secs(5),
                growth: 1.2,
            },
            shares: shares::Size { starts: 10_000, tolerance: 0.1 },
            claims: claims::Size { finished: 2_000_000, rounds: 21, claims: 600, growth: 1.2 },
            limits: limits::Size { workers: 20, jobs: 5_000, within: Duration::from_secs(900) },
            schedules: schedules::Size { schedules: 10_000, dispatchers: 3 },
        }
    }

    /// The same in small. What is counted is as strict; times and ratios only tell a fault from none.
    pub(super) fn short() -> Self {
        Self {
            pending: pending::Size {
                warm: 1_000,
                few: 200,
                many: 5_000,
                hold: Duration::from_secs(5),
                first_start: Duration::from_secs(20),
                growth: 2.0,
            },
            shares: shares::Size { starts: 1_000, tolerance: 0.1 },
            claims: claims::Size { finished: 20_000, rounds: 5, claims: 100, growth: 4.0 },
            limits: limits::Size { workers: 6, jobs: 600, within: Duration::from_secs(300) },
            schedules: schedules::Size { schedules: 5_000, dispatchers: 3 },
        }
    }
}
