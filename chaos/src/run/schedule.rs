//! What is broken, when and for how long: a function of the seed alone.

use std::fmt;
use std::time::Duration;

use super::dice::Dice;
use crate::part::Part;

/// One process of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member {
    pub(crate) part: Part,
    /// From 1.
    pub(crate) number: u8,
}

/// What parts talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Server {
    Postgres,
    RabbitMq,
    Engine,
}

/// What happens to the connections between one part and one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cut {
    /// They are reset; new ones may come at once.
    Reset,
    /// They stay open, and bytes wait.
    Stall,
    /// Requests arrive, and their answers are thrown away.
    DropResponses,
    /// They are reset, and so is every new one.
    Refuse,
}

/// What happens to a whole server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outage {
    RabbitMqStopped,
    RabbitMqKilled,
    PostgresImmediate,
    /// It stops its containers itself.
    EngineStopped,
    EngineKilled,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Kill(Member),
    /// Every process of a part at once: nobody is left to take over.
    KillAll(Part),
    Stop(Member),
    /// A worker stands still for longer than its lease, and goes on.
    Freeze(Member),
    Cut(Cut, Server, Member),
    /// A worker is cut off from Postgres for longer than its lease, while its containers run.
    Partition(Cut, Member),
    /// Every queue is emptied, with messages in it.
    Purge,
    /// And a process is killed meanwhile, which has to begin without the server.
    Outage(Outage, Member),
}

/// A fault and its place in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Undisturbed work before it.
    pub(crate) pause: Duration,
    pub(crate) fault: Fault,
    /// How long a cut lasts, or a server is away. Some servers are away for longer than a lease.
    pub(crate) lasts: Duration,
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Full,
    /// Every main kind once.
    Short,
}

const PARTS: [Part; 5] = [Part::Dispatcher, Part::Recorder, Part::Worker, Part::DockerWorker, Part::Api];
const CUTS: [Cut; 3] = [Cut::Reset, Cut::Stall, Cut::DropResponses];
const OUTAGES: [Outage; 5] = [
    Outage::RabbitMqStopped,
    Outage::RabbitMqKilled,
    Outage::PostgresImmediate,
    Outage::EngineKilled,
    Outage::EngineStopped,
];

/// Every process of the fleet: two of each part, but for the API.
pub(crate) fn members() -> impl Iterator<Item = Member> {
    PARTS.into_iter().flat_map(|part| (1..=copies(part)).map(move |number| Member { part, number }))
}

fn copies(part: Part) -> u8 {
    if part == Part::Api { 1 } else { 2 }
}

/// The faults of a run, in their order.
pub(crate) fn schedule(seed: u64, size: Size) -> Vec<Step> {
    let mut dice = Dice::new(seed);
    let mut faults = match size {
        Size::Full => full(&mut dice),
        Size::Short => short(&mut dice),
    };
    dice.shuffle(&mut faults);
    let longest_pause = if size == Size::Full { 8_000 } else { 4_000 };
    faults
        .into_iter()
        .map(|fault| Step {
            pause: Duration::from_millis(dice.between(2_000, longest_pause)),
            fault,
            lasts: Duration::from_millis(match fault {
                Fault::Outage(..) => dice.between(3_000, 12_000),
                _ => dice.between(2_000, 5_000),
            }),
        })
        .collect()
}

fn full(dice: &mut Dice) -> Vec<Fault> {
    let mut faults = vec![Fault::Purge];
    for part in PARTS {
        faults.push(Fault::Kill(one_of(dice, part)));
        faults.push(Fault::Stop(one_of(dice, part)));
        if copies(part) > 1 {
            faults.push(Fault::KillAll(part));
        }
    }
    for worker in [Part::Worker, Part::DockerWorker] {
        faults.push(Fault::Freeze(one_of(dice, worker)));
        let cut = dice.one_of(&[Cut::Stall, Cut::Refuse]);
        faults.push(Fault::Partition(cut, one_of(dice, worker)));
    }
    for cut in CUTS {
        faults.push(Fault::Cut(cut, Server::Engine, one_of(dice, Part::DockerWorker)));
        // Six cuts and five parts: each part is cut off from one of the two at least every other run.
        for server in [Server::Postgres, Server::RabbitMq] {
            let part = dice.one_of(&PARTS);
            faults.push(Fault::Cut(cut, server, one_of(dice, part)));
        }
    }
    for _ in 0..8 {
        let (cut, part) = (dice.one_of(&CUTS), dice.one_of(&PARTS));
        let server = dice.one_of(&[Server::Postgres, Server::RabbitMq]);
        faults.push(Fault::Cut(cut, server, one_of(dice, part)));
    }
    faults.extend(OUTAGES.map(|outage| {
        let part = dice.one_of(&PARTS);
        Fault::Outage(outage, one_of(dice, part))
    }));
    faults
}

fn short(dice: &mut Dice) -> Vec<Fault> {
    let part = dice.one_of(&[Part::Dispatcher, Part::Recorder, Part::Api]);
    let mut any = |parts: &[Part]| {
        let part = dice.one_of(parts);
        one_of(dice, part)
    };
    let docker = any(&[Part::DockerWorker]);
    vec![
        Fault::Kill(any(&[part])),
        Fault::KillAll(Part::Worker),
        Fault::KillAll(Part::DockerWorker),
        Fault::Stop(any(&[Part::Worker, Part::DockerWorker])),
        Fault::Freeze(any(&[Part::Worker])),
        Fault::Partition(Cut::Stall, any(&[Part::DockerWorker])),
        Fault::Cut(Cut::Reset, Server::Postgres, any(&PARTS)),
        Fault::Cut(Cut::DropResponses, Server::RabbitMq, any(&PARTS)),
        Fault::Cut(Cut::DropResponses, Server::Engine, docker),
        Fault::Purge,
        Fault::Outage(Outage::RabbitMqKilled, any(&PARTS)),
        Fault::Outage(Outage::PostgresImmediate, any(&PARTS)),
        Fault::Outage(Outage::EngineKilled, docker),
    ]
}

fn one_of(dice: &mut Dice, part: Part) -> Member {
    Member { part, number: if copies(part) == 1 || dice.between(1, 2) == 1 { 1 } else { 2 } }
}

impl Fault {
    /// What happens, without to whom.
    pub(crate) fn kind(self) -> String {
        match self {
            Self::Kill(_) => "SIGKILL".to_owned(),
            Self::KillAll(_) => "SIGKILL of all".to_owned(),
            Self::Stop(_) => "SIGTERM".to_owned(),
            Self::Freeze(_) => "SIGSTOP for longer than the lease".to_owned(),
            Self::Cut(cut, server, _) => format!("{server}: {cut}"),
            Self::Partition(cut, _) => format!("partition from Postgres, {cut}"),
            Self::Purge => "every queue purged".to_owned(),
            Self::Outage(outage, member) => {
                let how = match outage {
                    Outage::RabbitMqStopped | Outage::EngineStopped => "stopped",
                    Outage::RabbitMqKilled | Outage::EngineKilled => "killed",
                    Outage::PostgresImmediate => "immediate stop",
                };
                format!("{how}, {member} too")
            }
        }
    }

    /// To whom.
    pub(crate) fn target(self) -> String {
        match self {
            Self::Kill(member)
            | Self::Stop(member)
            | Self::Freeze(member)
            | Self::Cut(_, _, member)
            | Self::Partition(_, member) => member.to_string(),
            Self::KillAll(part) => format!("{}s", part.name()),
            Self::Purge => Server::RabbitMq.to_string(),
            Self::Outage(outage, _) => outage.server().to_string(),
        }
    }
}

impl Outage {
    pub(crate) fn server(self) -> Server {
        match self {
            Self::RabbitMqStopped | Self::RabbitMqKilled => Server::RabbitMq,
            Self::PostgresImmediate => Server::Postgres,
            Self::EngineStopped | Self::EngineKilled => Server::Engine,
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.part.name(), self.number)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "Postgres",
            Self::RabbitMq => "RabbitMQ",
            Self::Engine => "engine",
        })
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reset => "reset",
            Self::Stall => "stalled",
            Self::DropResponses => "responses dropped",
            Self::Refuse => "refused",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_is_a_schedule() {
        for size in [Size::Full, Size::Short] {
            assert_eq!(schedule(7, size), schedule(7, size));
            assert_ne!(schedule(7, size), schedule(8, size));
        }
        // A seed in an old note means what it meant for as long as the faults are the same.
        let first: Vec<String> = schedule(1, Size::Full)
            .iter()
            .take(3)
            .map(|step| format!("{} {}", step.fault.kind(), step.fault.target()))
            .collect();
        assert_eq!(first, FIRST_OF_SEED_1);
    }

    const FIRST_OF_SEED_1: [&str; 3] =
        ["stopped, docker-worker-1 too engine", "RabbitMQ: reset dispatcher-2", "SIGTERM recorder-2"];

    #[test]
    fn every_kind_occurs_whatever_the_seed() {
        for seed in 0..200 {
            let steps = schedule(seed, Size::Full);
            assert_eq!(steps.len(), 41);
            let kinds: BTreeSet<String> = steps.iter().map(|step| step.fault.kind()).collect();
            for cut in CUTS {
                for server in [Server::Postgres, Server::RabbitMq, Server::Engine] {
                    assert!(kinds.contains(&format!("{server}: {cut}")), "{seed}: {server}: {cut}");
                }
            }
            let occurs = |wanted: fn(Fault) -> bool| steps.iter().any(|step| wanted(step.fault));
            for part in PARTS {
                for (kind, wanted) in [("SIGKILL", true), ("SIGTERM", false)] {
                    let found = steps.iter().any(|step| match step.fault {
                        Fault::Kill(member) => wanted && member.part == part,
                        Fault::Stop(member) => !wanted && member.part == part,
                        _ => false,
                    });
                    assert!(found, "{seed}: {kind} of {}", part.name());
                }
            }
            assert!(occurs(|fault| matches!(fault, Fault::Freeze(member) if member.part == Part::DockerWorker)));
            assert!(occurs(|fault| matches!(fault, Fault::Partition(_, member) if member.part == Part::DockerWorker)));
            assert!(occurs(|fault| fault == Fault::Purge));
            for outage in OUTAGES {
                let found = steps.iter().any(|step| matches!(step.fault, Fault::Outage(other, _) if other == outage));
                assert!(found, "{seed}: {outage:?}");
            }
        }
    }

    #[test]
    fn every_part_is_cut_off_from_every_server_by_some_seed() {
        let found: BTreeSet<Fault> =
            (0..200).flat_map(|seed| schedule(seed, Size::Full)).map(|step| step.fault).collect();
        for cut in CUTS {
            for member in members() {
                for server in [Server::Postgres, Server::RabbitMq] {
                    assert!(found.contains(&Fault::Cut(cut, server, member)), "{member}, {server}: {cut}");
                }
                if member.part == Part::DockerWorker {
                    assert!(found.contains(&Fault::Cut(cut, Server::Engine, member)), "{member}, engine: {cut}");
                }
            }
        }
    }
}
