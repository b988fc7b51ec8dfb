//! From which position a stream is unbroken, in every order of events.

use super::*;
use crate::identity::DatabaseIdentity;
use pgrx::pg_sys::Oid;
use proptest::prelude::*;

fn own(remote: u64) -> Own {
    Own {
        node: "n1".to_owned(),
        subscription: 11,
        origin_id: 1,
        tables: 7,
        newest_table: 0,
        settled_below: 900,
        remote: OriginLsn(remote),
        applied: OriginLsn(remote).known(),
    }
}

fn reading(asked_at: u64, wal_end: u64, confirmed: u64) -> Option<Reading> {
    Some(Reading { asked_at: Monotonic(asked_at), wal_end: OriginLsn(wal_end), confirmed: OriginLsn(confirmed) })
}

fn at(now: u64) -> Monotonic {
    Monotonic(now)
}

#[test]
fn a_quiet_stream_is_unbroken_from_where_its_slot_is_confirmed() {
    let mut watch = Watch::begin(at(10), Vec::new());
    assert_eq!(watch.look(at(20), &[], &own(0), reading(15, 300, 300)), Some(OriginLsn(300)));
    // A position to which the origin was set by hand counts if it is further.
    let mut watch = Watch::begin(at(10), Vec::new());
    assert_eq!(watch.look(at(20), &[], &own(400), reading(15, 300, 300)), Some(OriginLsn(400)));
}

#[test]
fn what_was_read_before_or_was_never_confirmed_says_nothing() {
    let mut watch = Watch::begin(at(10), Vec::new());
    assert_eq!(watch.look(at(20), &[], &own(0), None), None);
    assert_eq!(watch.look(at(20), &[], &own(0), reading(9, 300, 300)), None);
    assert_eq!(watch.look(at(20), &[], &own(0), reading(10, 300, 300)), None);
    assert_eq!(watch.look(at(20), &[], &own(0), reading(11, 300, 0)), None);
    assert_eq!(watch.look(at(20), &[], &own(0), reading(11, 300, 300)), Some(OriginLsn(300)));
}

#[test]
fn what_was_received_before_must_be_confirmed() {
    let mut watch = Watch::begin(at(10), Vec::new());
    assert_eq!(watch.look(at(20), &[], &own(0), reading(15, 300, 200)), None);
    // The end of WAL that was reported first counts: on a busy node later ones would always be ahead.
    assert_eq!(watch.look(at(30), &[], &own(0), reading(25, 400, 299)), None);
    assert_eq!(watch.look(at(40), &[], &own(0), reading(35, 500, 301)), Some(OriginLsn(301)));
}

#[test]
fn transactions_that_were_being_applied_must_have_ended_before_anything_counts() {
    let running = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let mut watch = Watch::begin(at(10), running(&["3/5", "4/1"]));
    assert!(watch.waits_for_transactions());
    // Another transaction of the same worker is not the one that was open at the beginning.
    assert_eq!(watch.look(at(20), &running(&["4/1", "3/6"]), &own(100), reading(15, 300, 300)), None);
    assert!(watch.waits_for_transactions());
    assert_eq!(watch.look(at(30), &running(&["3/6"]), &own(150), reading(25, 300, 300)), None);
    assert!(!watch.waits_for_transactions());
    // Progress that was read before the end of those transactions was seen is only what later progress is compared
    // with.
    assert_eq!(watch.look(at(40), &[], &own(200), None), None);
    assert_eq!(watch.look(at(50), &[], &own(200), reading(25, 300, 300)), None);
    assert_eq!(watch.look(at(60), &[], &own(201), None), Some(OriginLsn(201)));
}

#[test]
fn what_was_prepared_meanwhile_must_have_ended_as_well() {
    let running = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let mut watch = Watch::begin(at(10), running(&["3/5", "pg_gid_11_700"]));
    // 3/5 was prepared. Transactions that are prepared in later rounds are not waited for.
    assert_eq!(watch.look(at(20), &running(&["pg_gid_11_700", "pg_gid_11_701"]), &own(100), None), None);
    assert_eq!(watch.look(at(30), &running(&["3/6", "pg_gid_11_701", "pg_gid_11_702"]), &own(110), None), None);
    assert!(watch.waits_for_transactions());
    assert_eq!(watch.look(at(40), &running(&["pg_gid_11_702", "pg_gid_11_703"]), &own(120), None), None);
    assert!(!watch.waits_for_transactions());
    assert_eq!(watch.look(at(50), &[], &own(120), None), None);
    assert_eq!(watch.look(at(60), &[], &own(121), None), Some(OriginLsn(121)));
}

#[test]
fn one_that_moves_is_unbroken_from_there_whatever_was_read() {
    let mut watch = Watch::begin(at(10), Vec::new());
    assert_eq!(watch.look(at(20), &[], &own(500), None), None);
    assert_eq!(watch.look(at(30), &[], &own(501), reading(25, 900, 600)), Some(OriginLsn(501)));
}

fn position(applied: u64) -> OwnPosition {
    OwnPosition {
        subscription: Oid::from_u32(11),
        origin: None,
        origin_id: 1,
        slot: None,
        remote: OriginLsn(applied),
        copied: OriginLsn::ZERO,
        is_ready: true,
        tables: 7,
        newest_table: 0,
        settled_below: 0,
    }
}

fn record(begins: Option<u64>, passed: Option<u64>) -> RetentionRecord {
    let here = DatabaseIdentity { system_identifier: 1, database: 1 };
    let mut record = RetentionRecord::before_creation(here, 1, "slot".to_owned());
    record.origins.push(OriginRecord {
        node: "n1".to_owned(),
        subscription: 11,
        origin_id: 1,
        tables: 7,
        tables_before: None,
        newest_table: None,
        released: OriginLsn::INFINITY,
        waits_beyond: None,
        waits_since: None,
        begins: begins.map(OriginLsn),
        passed: passed.map(OriginLsn),
        gone: Vec::new(),
    });
    record
}

#[test]
fn what_one_lacks_that_has_applied_nothing_begins_where_it_was_first_read() {
    let of = |record: Option<&RetentionRecord>, position: &OwnPosition, confirmed: u64| {
        let passed = written_passed(record, position).0.max(confirmed);
        beginning(record, position, OriginLsn(confirmed)).map(|begins| (begins.0, passed))
    };
    assert_eq!(of(Some(&record(Some(100), Some(150))), &position(0), 200), Some((100, 200)));
    // This node was restarted while the provider was gone.
    assert_eq!(of(Some(&record(Some(100), Some(150))), &position(0), 0), Some((100, 150)));
    assert_eq!(of(Some(&record(Some(100), None)), &position(0), 0), Some((100, 100)));
    assert_eq!(of(Some(&record(None, None)), &position(0), 200), Some((200, 200)));
    assert_eq!(of(None, &position(0), 200), Some((200, 200)));
    assert_eq!(of(None, &position(0), 0), None);
    // The subscription has applied something, the record is of another origin, or there is no origin.
    assert_eq!(of(Some(&record(Some(100), None)), &position(5), 200), None);
    let other = OwnPosition { origin_id: 2, ..position(0) };
    assert_eq!(of(Some(&record(Some(100), None)), &other, 0), None);
    let gone = OwnPosition { origin_id: 0, ..position(0) };
    assert_eq!(of(Some(&record(Some(100), None)), &gone, 200), None);
}

/// What happens to a provider's transactions. The node may leave a part of a transaction out, because it does not know
/// a table yet; a transaction of which it leaves out everything does not move the origin.
#[derive(Clone, Debug)]
enum Event {
    /// The provider commits a transaction; `moves`: applying it moves the origin.
    Commit { moves: bool },
    /// The node receives and applies the next transaction; `slowly`: it is still being applied at the next events.
    Apply { slowly: bool },
    /// The transaction that is applied slowly ends.
    End,
    /// The slot is confirmed up to the last transaction applied, or to the end of WAL if all were applied.
    Confirm,
    /// The poller asks the provider.
    Poll,
    /// The manager looks at the subscription.
    Look,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        any::<bool>().prop_map(|moves| Event::Commit { moves }),
        any::<bool>().prop_map(|slowly| Event::Apply { slowly }),
        Just(Event::End),
        Just(Event::Confirm),
        Just(Event::Poll),
        Just(Event::Look),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// The table is added after the events `before`. Whatever the order of events, the position from which the node is
    /// certain of the stream lies at or beyond the last transaction whose rows for the new table it has left out.
    #[test]
    fn nothing_is_vouched_for_that_was_left_out(
        before in prop::collection::vec(event(), 0..12),
        after in prop::collection::vec(event(), 0..40),
    ) {
        let (mut wal, mut received, mut confirmed, mut remote, mut clock) = (100_u64, 0_usize, 100_u64, 0_u64, 1_u64);
        let mut commits: Vec<(u64, bool)> = Vec::new();
        let mut last_left_out = 0;
        let mut slow: Option<(u64, bool, u64)> = None;
        let mut told = None;
        let mut watch: Option<Watch> = None;
        let events = before.into_iter().map(|event| (event, false)).chain(after.into_iter().map(|event| (event, true)));
        for (event, knows_table) in events {
            clock += 1;
            let running: Vec<String> = slow.iter().map(|(_, _, began)| format!("3/{began}")).collect();
            if knows_table && watch.is_none() {
                watch = Some(Watch::begin(Monotonic(clock), running.clone()));
                clock += 1;
            }
            match event {
                Event::Commit { moves } => {
                    wal += 10;
                    commits.push((wal, moves));
                    // Other WAL of the provider.
                    wal += 3;
                }
                Event::Apply { slowly } if slow.is_none() && received < commits.len() => {
                    let (lsn, moves) = commits[received];
                    received += 1;
                    if !knows_table {
                        last_left_out = lsn;
                    }
                    if slowly {
                        slow = Some((lsn, moves, clock));
                    } else if moves {
                        remote = lsn;
                    }
                }
                Event::End => {
                    if let Some((lsn, moves, _)) = slow.take()
                        && moves
                    {
                        remote = lsn;
                    }
                }
                Event::Confirm if slow.is_none() => {
                    confirmed = if received == commits.len() { wal } else { commits.get(received.wrapping_sub(1)).map_or(confirmed, |commit| commit.0.max(confirmed)) };
                }
                Event::Poll => told = reading(clock, wal, confirmed),
                Event::Look => {
                    if let Some(watch) = watch.as_mut()
                        && let Some(from) = watch.look(Monotonic(clock), &running, &own(remote), told)
                    {
                        prop_assert!(from.0 >= last_left_out, "{from} is vouched for, {last_left_out} was left out");
                        return Ok(());
                    }
                }
                Event::Apply { .. } | Event::Confirm => (),
            }
        }
    }
}
