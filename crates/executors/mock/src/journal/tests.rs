use std::fs::OpenOptions;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use gantry_core::{FleetId, JobId};
use gantry_worker::executor::{ExecutionId, Launch};
use tempfile::TempDir;

use super::*;
use crate::behaviour::Behaviour;
use crate::container::Container;
use crate::ledger;

/// One of the processes of a directory.
fn journal(dir: &TempDir) -> Journal {
    let folder = Arc::new(Folder::open(dir.path()).expect("a folder"));
    Journal::open(folder).expect("a ledger")
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn container(name: &str, now: u64) -> Container {
    let spec = serde_json::from_value(serde_json::json!({"image": "any"})).expect("a spec");
    let launch = Launch { name: name.into(), fleet: FleetId::new(), job: JobId::new(), attempt: 1, spec };
    Container::new(&launch, Behaviour { duration: Duration::from_secs(1), ..Behaviour::default() }, None, now)
}

fn launch(journal: &mut Journal, name: &str, now: u64) -> bool {
    journal.append(Line::Launched(container(name, now))).expect("written")
}

fn remove(journal: &mut Journal, name: &str) -> bool {
    let seen = journal.current().expect("readable").named(name).expect("there");
    journal.append(Line::Removed { id: seen.container.run.id.clone(), removed_ns: 1 }).expect("written")
}

fn names(journal: &mut Journal) -> Vec<String> {
    let mut names: Vec<_> =
        journal.current().expect("readable").containers().iter().map(|seen| seen.container.run.name.clone()).collect();
    names.sort_unstable();
    names
}

fn left(dir: &TempDir) -> Vec<String> {
    ledger::read(dir.path()).expect("readable").left().map(str::to_owned).collect()
}

/// As a process leaves it that is killed in the middle of a write, or right behind it.
fn tear(dir: &TempDir, line: &Line, bytes: usize) {
    let part = crate::folder::parts(dir.path()).expect("readable").pop().expect("one");
    let line = bytes_of(line).expect("JSON");
    let mut file = OpenOptions::new().append(true).open(part).expect("there");
    file.write_all(line.get(..bytes).unwrap_or(&line)).expect("written");
}

#[test]
fn who_launches_a_taken_name_learns_it() {
    let dir = directory();
    let (mut one, mut two) = (journal(&dir), journal(&dir));
    assert!(launch(&mut one, "a", 1));
    assert!(!launch(&mut two, "a", 2), "it was not read before");
    assert_eq!(two.memory().named("a").expect("there").container.run.id, "a.1");
    assert_eq!(ledger::read(dir.path()).expect("readable").runs().count(), 1);
    assert!(remove(&mut two, "a"));
    let removed = Line::Removed { id: "a.1".into(), removed_ns: 1 };
    assert!(!one.append(removed).expect("written"), "somebody did");
    assert!(launch(&mut one, "a", 3));
    assert!(two.current().expect("readable").container(&ExecutionId("a.3".into())).is_some());
}

#[test]
fn a_piece_counts_for_nobody_wherever_it_was_cut() {
    let line = Line::Launched(container("torn", 7));
    for cut in 1..length(&bytes_of(&line).expect("JSON")) {
        let dir = directory();
        let (mut one, mut two) = (journal(&dir), journal(&dir));
        assert!(launch(&mut one, "a", 1));
        tear(&dir, &line, usize::try_from(cut).expect("small"));
        assert_eq!(names(&mut one), ["a"], "cut at {cut}");
        assert!(launch(&mut two, "b", 2));
        assert!(launch(&mut one, "c", 3));
        for all in [names(&mut one), names(&mut two), names(&mut journal(&dir)), left(&dir)] {
            assert_eq!(all, ["a", "b", "c"], "cut at {cut}");
        }
    }
}

#[test]
fn what_is_there_is_carried_over() {
    let dir = directory();
    let (mut one, mut two) = (journal(&dir), journal(&dir));
    one.part_bytes = 2_000;
    assert!(launch(&mut one, "stays", 1));
    let stop = container("stays", 1).stopped(None, 5, Duration::ZERO).expect("running");
    assert!(one.append(Line::Stopped { id: "stays.1".into(), stop }).expect("written"));
    for now in 2..200 {
        let name = format!("goes-{now}");
        assert!(launch(&mut one, &name, now) && remove(&mut one, &name));
    }
    assert!(one.number > 10, "{}", one.number);
    for journal in [&mut one, &mut two, &mut journal(&dir)] {
        assert_eq!(names(journal), ["stays"]);
        assert_eq!(journal.memory().named("stays").expect("there").stop, Some(stop));
    }
    assert_eq!(two.number, one.number);
    assert!(one.read < 10_000, "{}", one.read);
    assert_eq!(left(&dir), ["stays"]);
    assert_eq!(ledger::read(dir.path()).expect("readable").runs().count(), 199, "and the others are not forgotten");
}

#[test]
fn many_that_stay_are_not_carried_over_again_and_again() {
    let dir = directory();
    let mut one = journal(&dir);
    one.part_bytes = 2_000;
    for now in 0..1_000 {
        assert!(launch(&mut one, &format!("stays-{now}"), now));
    }
    assert!((2..10).contains(&one.number), "{}", one.number);
    assert_eq!(names(&mut journal(&dir)).len(), 1_000);
}

#[test]
fn nothing_counts_below_the_line_that_closes_a_part() {
    let dir = directory();
    let (mut one, mut two) = (journal(&dir), journal(&dir));
    assert!(launch(&mut one, "a", 1));
    // Killed before it made the next part.
    one.write(&bytes_of(&Line::Closed).expect("JSON")).expect("written");
    // By somebody who has not read the line, and by one killed before it wrote it again.
    tear(&dir, &Line::Launched(container("below", 2)), usize::MAX);
    assert_eq!(left(&dir), ["a"]);
    assert!(launch(&mut two, "b", 3), "it is written again above");
    assert_eq!((two.number, names(&mut two)), (2, vec!["a".to_owned(), "b".to_owned()]));
    // Who closes it a second time, closes nothing.
    one.write(&bytes_of(&Line::Closed).expect("JSON")).expect("written");
    assert_eq!((names(&mut one), one.number), (names(&mut two), 2));
    assert_eq!(left(&dir), ["a", "b"]);
}

#[test]
fn what_was_deleted_or_cut_is_an_error() {
    let dir = directory();
    let mut one = journal(&dir);
    assert!(launch(&mut one, "a", 1));
    let part = crate::folder::parts(dir.path()).expect("readable").pop().expect("one");
    std::fs::write(&part, "").expect("written");
    assert!(one.current().is_err());
    assert!(one.append(Line::Launched(container("b", 2))).is_err());
    std::fs::remove_file(part).expect("removed");
    assert!(one.current().is_err());
}

/// Many processes, parts that are closed all the time, every name launched by all at once, and removed by all.
#[test]
fn of_many_at_once_one_has_each_name() {
    const WRITERS: usize = 4;
    const NAMES: u64 = 300;
    let dir = directory();
    let barrier = Barrier::new(WRITERS);
    let run = |writer: u64| {
        let mut journal = journal(&dir);
        journal.part_bytes = 3_000;
        let (mut launched, mut removed) = (Vec::new(), Vec::new());
        for number in 0..NAMES {
            barrier.wait();
            let name = format!("n{number}");
            let is_mine = launch(&mut journal, &name, 10 * number + writer);
            let id = journal.memory().named(&name).map(|seen| seen.container.run.id.clone());
            launched.push((is_mine, id.clone().expect("there")));
            barrier.wait();
            let line = Line::Removed { id: id.expect("there"), removed_ns: 1 };
            removed.push(journal.append(line).expect("written"));
        }
        (launched, removed, names(&mut journal), journal.number)
    };
    let run = &run;
    let all: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS as u64).map(|writer| scope.spawn(move || run(writer))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for number in 0..NAMES as usize {
        let launched: Vec<_> = all.iter().map(|(launched, ..)| &launched[number]).collect();
        let mine: Vec<_> = launched.iter().filter(|(is_mine, _)| *is_mine).collect();
        assert_eq!(mine.len(), 1, "one has the name: {launched:?}");
        assert!(launched.iter().all(|(_, id)| *id == mine[0].1), "and all know which: {launched:?}");
        assert_eq!(all.iter().filter(|(_, removed, ..)| removed[number]).count(), 1, "one removed it");
    }
    assert!(all.iter().all(|(_, _, names, number)| names.is_empty() && *number > 10), "{all:?}");
    let ledger = ledger::read(dir.path()).expect("readable");
    assert_eq!((ledger.runs().count(), ledger.left().count()), (NAMES as usize, 0));
}
