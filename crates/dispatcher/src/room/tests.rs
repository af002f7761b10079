use tokio::time::{advance, sleep};

use super::*;

impl Room {
    fn comes(&self, executor: ExecutorType, jobs: usize) -> Comes {
        self.lock().get(&executor).map_or(Comes::Late, |places| places.comes(jobs))
    }
}

const MOCK: ExecutorType = ExecutorType::Mock;
const FOR_ALL: Duration = Duration::from_millis(50);
const FOR_ANY: Duration = Duration::from_secs(1);

fn patience() -> Patience {
    Patience { for_all: FOR_ALL, until: Instant::now() + FOR_ANY }
}

fn found(free: &[(ExecutorType, usize)]) -> HashMap<ExecutorType, Found> {
    free.iter().map(|(executor, free)| (*executor, Found { moved: 0, free: *free })).collect()
}

fn free_places(free: usize) -> HashMap<ExecutorType, Found> {
    found(&[(MOCK, free)])
}

/// A look that finds so many free places.
fn look(room: &Room, free: usize) {
    room.look();
    room.found(&free_places(free), 1);
}

#[test]
fn a_place_is_taken_once() {
    let room = Room::default();
    assert!(room.take(MOCK, 1).is_none(), "nobody has looked yet");
    look(&room, 3);
    assert!(room.take(MOCK, 4).is_none(), "all or none");
    assert!(room.take(MOCK, 2).is_some() && room.take(ExecutorType::Docker, 1).is_none());
    assert!(room.take(MOCK, 1).is_some() && room.take(MOCK, 1).is_none());
    room.look();
    room.found(&HashMap::new(), 1);
    assert!(room.take(MOCK, 1).is_none(), "nobody serves it any more, or somebody stands in line");
}

#[test]
fn a_look_does_not_give_back_what_is_in_flight() {
    let room = Room::default();
    look(&room, 4);
    let three = room.take(MOCK, 3).expect("there are four");
    look(&room, 4);
    assert!(room.take(MOCK, 2).is_none(), "it may not have seen the three");
    assert!(room.take(MOCK, 1).is_some());
    drop(three);
    look(&room, 4);
    assert!(room.take(MOCK, 4).is_some(), "it saw what became of them, and slots are free again");
}

#[test]
fn the_end_of_a_transaction_is_not_that_of_another() {
    let room = Room::default();
    look(&room, 6);
    let (two, three) = (room.take(MOCK, 2).expect("there are six"), room.take(MOCK, 3).expect("there are four"));
    let other = ExecutorType::Docker;
    room.look();
    room.found(&found(&[(MOCK, 6), (other, 1)]), 1);
    let one = room.take(other, 1).expect("there is one");
    drop(two);
    room.look();
    room.found(&found(&[(MOCK, 6), (other, 1)]), 1);
    assert!(room.take(MOCK, 4).is_none() && room.take(other, 1).is_none(), "it may not have seen three, and one");
    assert!(room.take(MOCK, 3).is_some());
    drop((one, three));
    look(&room, 6);
    assert!(room.take(MOCK, 6).is_some());
}

#[test]
fn a_look_may_miss_what_ends_while_it_is_under_way() {
    let room = Room::default();
    look(&room, 4);
    let one = room.take(MOCK, 1).expect("there are four");
    room.look();
    drop(one);
    assert!(room.take(MOCK, 2).is_some());
    room.found(&free_places(4), 1);
    assert!(room.take(MOCK, 2).is_none(), "of the four it may have missed three");
    assert!(room.take(MOCK, 1).is_some());
}

#[test]
fn there_is_room_left_until_it_is_taken_or_somebody_waits_for_it() {
    let room = Room::default();
    assert!(!room.is_left(&[MOCK]), "nobody has looked yet");
    look(&room, 1);
    assert!(room.is_left(&[MOCK]) && !room.is_left(&[MOCK, ExecutorType::Docker]));
    room.look();
    assert!(!room.is_left(&[MOCK]), "who knows what the look finds");
    room.found(&free_places(2), 1);
    room.stands_in_line(MOCK);
    assert!(!room.is_left(&[MOCK]));
    look(&room, 3);
    assert!(room.take(MOCK, 1).is_some() && room.is_left(&[MOCK]));
    assert!(room.take(MOCK, 1).is_some() && !room.is_left(&[MOCK]), "another dispatcher may have taken the third");
}

#[test]
fn nobody_passes_who_stands_in_line() {
    let room = Room::default();
    look(&room, 2);
    room.stands_in_line(MOCK);
    assert!(room.take(MOCK, 1).is_none());
    room.look();
    room.stands_in_line(MOCK);
    room.found(&free_places(2), 1);
    assert!(room.take(MOCK, 1).is_none(), "the look may not have seen the second");
    look(&room, 2);
    assert!(room.take(MOCK, 1).is_some());
}

#[tokio::test]
async fn whoever_waits_for_the_look_that_finds_all_in_line_need_not_stand_there() {
    let room = Room::default();
    look(&room, 3);
    room.look();
    room.stands_in_line(MOCK);
    room.found(&free_places(3), 1);
    assert!(room.comes(MOCK, 13) == Comes::Next && room.take(MOCK, 1).is_none());
    let waits = async {
        assert_eq!(room.wait_for(MOCK, 3, patience()).await, 3);
        room.take(MOCK, 3).is_some()
    };
    let (enters, ()) = tokio::join!(waits, async { look(&room, 3) });
    assert!(enters);
}

#[tokio::test(start_paused = true)]
async fn a_batch_waits_for_places_that_come_as_fast_as_it_would_use_them() {
    let room = Room::default();
    assert_eq!(room.comes(MOCK, 1), Comes::Late, "nobody has looked yet");
    look(&room, 4);
    assert_eq!([4, 5, 8, 9].map(|jobs| room.comes(MOCK, jobs)), [Comes::Now, Comes::Soon, Comes::Soon, Comes::Late]);
    assert_eq!(room.comes(ExecutorType::Docker, 1), Comes::Late);
    drop(room.take(MOCK, 4).expect("there are four"));
    advance(OF_LATE / 2).await;
    look(&room, 2);
    assert_eq!([2, 12, 13].map(|jobs| room.comes(MOCK, jobs)), [Comes::Now, Comes::Soon, Comes::Late]);
    advance(OF_LATE / 2).await;
    look(&room, 2);
    assert_eq!(
        [2, 4, 5].map(|jobs| room.comes(MOCK, jobs)),
        [Comes::Now, Comes::Soon, Comes::Late],
        "two did not come again"
    );
    advance(OF_LATE).await;
    assert_eq!([2, 3].map(|jobs| room.comes(MOCK, jobs)), [Comes::Now, Comes::Late]);
}

#[tokio::test(start_paused = true)]
async fn where_others_find_places_too_those_that_came_count_for_longer() {
    for (sharers, enough) in [(1, 8), (3, 8), (SHARES, 8), (2 * SHARES, 16)] {
        let room = Room::default();
        room.look();
        room.found(&free_places(4), sharers);
        drop(room.take(MOCK, 4).expect("there are four"));
        advance(OF_LATE * shares(sharers) - Duration::from_millis(1)).await;
        assert_eq!([enough, enough + 1].map(|jobs| room.comes(MOCK, jobs)), [Comes::Soon, Comes::Late], "{sharers}");
        advance(Duration::from_millis(1)).await;
        assert_eq!(room.comes(MOCK, 1), Comes::Late, "{sharers}");
    }
}

#[tokio::test(start_paused = true)]
async fn places_that_go_to_those_in_line_come_too() {
    let room = Room::default();
    room.look();
    room.stands_in_line(MOCK);
    room.found(&HashMap::from([(MOCK, Found { moved: 5, free: 0 })]), 1);
    assert_eq!([10, 11].map(|jobs| room.comes(MOCK, jobs)), [Comes::Soon, Comes::Late]);
    assert!(room.take(MOCK, 1).is_none(), "somebody may be left in line");
}

#[tokio::test(start_paused = true)]
async fn a_batch_takes_what_there_is_after_a_while() {
    let room = Room::default();
    look(&room, 4);
    let begun = Instant::now();
    assert_eq!(room.wait_for(MOCK, 8, patience()).await, 4, "places for half of it");
    assert_eq!(begun.elapsed(), FOR_ALL);
    let taken = room.take(MOCK, 4).expect("there are four");
    let looks = async {
        loop {
            // The clock is a paused one: so far apart the looks are.
            sleep(OF_LATE / 4).await;
            room.look();
            room.found(&HashMap::from([(MOCK, Found { moved: 8, free: 0 })]), 1);
        }
    };
    let begun = Instant::now();
    let waited = tokio::select! {
        jobs = room.wait_for(MOCK, 8, patience()) => jobs,
        () = looks => unreachable!("it looks for ever"),
    };
    drop(taken);
    assert_eq!(waited, 8, "all stand in line");
    let late = begun.elapsed() - FOR_ANY;
    assert!(late < OF_LATE / 2, "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn where_all_places_are_free_a_small_part_is_taken() {
    let room = Room::default();
    for _ in 0..4 {
        room.look();
        room.found(&HashMap::from([(MOCK, Found { moved: 100, free: 0 })]), 1);
    }
    look(&room, 5);
    look(&room, 5);
    assert_eq!(room.comes(MOCK, 500), Comes::Soon);
    let begun = Instant::now();
    assert_eq!(room.wait_for(MOCK, 500, patience()).await, 5, "the second look found none beside them");
    assert_eq!(begun.elapsed(), FOR_ALL);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_does_not_end_is_not_waited_for_long() {
    let room = Room::default();
    look(&room, 3);
    room.look();
    room.stands_in_line(MOCK);
    room.found(&free_places(3), 1);
    advance(2 * OF_LATE).await;
    let begun = Instant::now();
    assert_eq!(room.wait_for(MOCK, 7, patience()).await, 7);
    assert_eq!(begun.elapsed(), FOR_ALL);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_places_that_do_not_come_any_more() {
    let room = Room::default();
    look(&room, 4);
    drop(room.take(MOCK, 4).expect("there are four"));
    let begun = Instant::now();
    assert_eq!(room.wait_for(MOCK, 5, patience()).await, 5);
    assert!(begun.elapsed() <= 2 * OF_LATE, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn while_more_are_waited_for_each_end_is_worth_a_look() {
    let room = Room::default();
    look(&room, 4);
    assert!(room.is_left(&[MOCK]));
    let waits = room.wait_for(MOCK, 6, patience());
    let (_, ()) = tokio::join!(waits, async {
        assert!(!room.is_left(&[MOCK]));
        look(&room, 6);
    });
    assert!(room.is_left(&[MOCK]));
}
