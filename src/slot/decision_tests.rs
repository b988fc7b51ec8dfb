//! Tests of each rule by which the manager concludes something from a round.

use super::super::horizon::Sample;
use super::*;
use crate::identity::DatabaseIdentity;

const SERVER: (u64, u32) = (8, 1);

fn own(subscription: u32, remote: u64) -> Own {
    Own {
        node: "n1".to_owned(),
        subscription,
        origin_id: 1,
        tables: 7,
        newest_table: 50,
        settled_below: 100,
        remote: OriginLsn(remote),
        applied: OriginLsn(remote).known(),
    }
}

fn origin(released: u64) -> OriginRecord {
    OriginRecord {
        node: "n1".to_owned(),
        subscription: 11,
        origin_id: 1,
        tables: 7,
        tables_before: Some(60),
        newest_table: None,
        released: OriginLsn(released),
        waits_beyond: None,
        waits_since: None,
        begins: None,
        passed: None,
        gone: Vec::new(),
    }
}

fn position(subscription: u32, origin_id: u16, passed: u64) -> PassedRecord {
    PassedRecord { origin: "n1".to_owned(), subscription, origin_id, passed: OriginLsn(passed) }
}

fn reporting(positions: Vec<PassedRecord>) -> PeerInput {
    let report = Report { system_identifier: SERVER.0, timeline: SERVER.1, has_unknown_origin: false, positions };
    PeerInput { name: "n2".to_owned(), contact: Contact::Answers, report: Some(report) }
}

fn silent() -> PeerInput {
    PeerInput { name: "n2".to_owned(), contact: Contact::Silent, report: None }
}

/// A record in which n2 had passed n1 up to 100.
fn record() -> RetentionRecord {
    let here = DatabaseIdentity { system_identifier: 1, database: 1 };
    let mut record = RetentionRecord::before_creation(here, 1, "slot".to_owned());
    record.peers = next_peer(&reporting(vec![position(5, 2, 100)]), &record).into_iter().collect();
    record
}

fn empty() -> RetentionRecord {
    let mut record = record();
    record.peers.clear();
    record
}

fn next(own: &Own, before: Option<&OriginRecord>, covered: bool) -> (OriginRecord, bool) {
    next_origin(own, before, covered, None, Timestamp(1000))
}

#[test]
fn what_nothing_has_changed_in_stays_as_it_was() {
    assert_eq!(next(&own(11, 500), Some(&origin(40)), true), (origin(40), false));
}

#[test]
fn a_new_slot_may_have_let_go_all_that_was_applied() {
    assert_eq!(next(&own(11, 500), None, false).0.released, OriginLsn(500));
    assert_eq!(next(&own(11, 500), Some(&origin(40)), false).0.released, OriginLsn(500));
}

#[test]
fn a_new_slot_beside_an_origin_that_has_not_moved_waits_for_it() {
    let (record, _) = next(&own(11, 0), None, false);
    assert_eq!((record.released, record.waits_beyond), (OriginLsn::INFINITY, Some(OriginLsn(0))));
    let (record, _) = next(&own(11, 0), Some(&origin(40)), false);
    assert_eq!((record.released, record.waits_beyond), (OriginLsn::INFINITY, Some(OriginLsn(0))));
}

#[test]
fn another_subscription_origin_or_added_table_makes_everything_unsafe_until_the_stream_is_known_to_be_unbroken() {
    let mut other_id = own(11, 500);
    other_id.origin_id = 2;
    let mut more_tables = own(11, 500);
    (more_tables.tables, more_tables.newest_table) = (8, 60);
    for changed in [own(12, 500), other_id, more_tables] {
        let (waiting, starts_anew) = next(&changed, Some(&origin(40)), true);
        assert!(starts_anew);
        assert_eq!((waiting.released, waiting.waits_beyond), (OriginLsn::INFINITY, Some(OriginLsn(500))));
        assert_eq!(waiting.waits_since, Some(Timestamp(1000)));
        let (still, starts_anew) = next_origin(&changed, Some(&waiting), true, None, Timestamp(2000));
        assert_eq!((still, starts_anew), (waiting.clone(), false));
        let (known, starts_anew) = next_origin(&changed, Some(&waiting), true, Some(OriginLsn(510)), Timestamp(3000));
        assert_eq!((known.released, known.waits_beyond, known.waits_since), (OriginLsn(510), None, None));
        assert!(!starts_anew);
        // Another change of tables comes while the origin waits.
        let more = Own { newest_table: 100, tables: 9, settled_below: 120, ..changed };
        let (anew, starts_anew) = next_origin(&more, Some(&waiting), true, Some(OriginLsn(510)), Timestamp(3000));
        assert_eq!((anew.released, anew.waits_since, starts_anew), (OriginLsn::INFINITY, Some(Timestamp(3000)), true));
    }
}

#[test]
fn a_table_that_is_dropped_or_has_been_copied_takes_nothing_from_the_others() {
    // The digest differs, but no table is newer than those that were known.
    let fewer = Own { tables: 8, newest_table: 0, ..own(11, 500) };
    let (kept, starts_anew) = next(&fewer, Some(&origin(40)), true);
    assert_eq!((kept.released, kept.tables, kept.tables_before), (OriginLsn(40), 8, Some(100)));
    assert!(!starts_anew && kept.waits_beyond.is_none());
    // A table that was added without copying by the oldest transaction that had not ended when the record was written.
    let at_the_edge = Own { tables: 8, newest_table: 60, ..own(11, 500) };
    assert_eq!(next(&at_the_edge, Some(&origin(40)), true).0.released, OriginLsn::INFINITY);
    let just_before = Own { tables: 8, newest_table: 59, ..own(11, 500) };
    assert_eq!(next(&just_before, Some(&origin(40)), true).0.released, OriginLsn(40));
}

#[test]
fn tables_that_have_gone_are_kept_in_mind_with_the_pair() {
    let table = |oid, is_ready| SubscribedTable {
        oid,
        schema: "s".to_owned(),
        name: format!("t{oid}"),
        is_ready,
        copied: Some(OriginLsn(7)),
    };
    let mut record = origin(40);
    note_gone(&mut record, &[], &[table(1, true)], LocalLsn(10));
    note_gone(
        &mut record,
        &[table(1, true), table(2, true), table(3, false)],
        &[table(1, true), table(4, true)],
        LocalLsn(20),
    );
    let gone = GoneTable {
        oid: 2,
        schema: "s".to_owned(),
        name: "t2".to_owned(),
        copied: Some(OriginLsn(7)),
        until: LocalLsn(20),
    };
    assert_eq!(record.gone, std::slice::from_ref(&gone));
    let fewer = Own { tables: 8, newest_table: 0, ..own(11, 500) };
    assert_eq!(next(&fewer, Some(&record), true).0.gone, [gone]);
    assert_eq!(next(&own(12, 500), Some(&record), true).0.gone, []);
    let many: Vec<SubscribedTable> = (1..2000).map(|oid| table(oid, true)).collect();
    note_gone(&mut record, &many, &[], LocalLsn(30));
    assert_eq!(record.gone.len(), GONE_TABLES);
}

#[test]
fn a_transaction_that_has_long_been_open_does_not_make_the_newest_table_new_again_and_again() {
    // The newest table was added by transaction 90 while transaction 70 is open.
    let held = Own { newest_table: 90, tables: 8, settled_below: 70, ..own(11, 500) };
    let (waiting, starts_anew) = next(&held, Some(&origin(40)), true);
    assert!(starts_anew);
    let (still, starts_anew) = next_origin(&held, Some(&waiting), true, None, Timestamp(2000));
    assert_eq!((still, starts_anew), (waiting.clone(), false));
    let (known, _) = next_origin(&held, Some(&waiting), true, Some(OriginLsn(510)), Timestamp(2000));
    assert_eq!(next(&held, Some(&known), true), (known.clone(), false));
    // The table was taken out and added again, or an older transaction has added another one.
    for other in [Own { newest_table: 95, ..held.clone() }, Own { tables: 9, ..held }] {
        assert!(next(&other, Some(&known), true).1, "{other:?}");
    }
}

#[test]
fn what_an_earlier_version_wrote_down_is_compared_by_its_digest() {
    let old = OriginRecord { tables_before: None, ..origin(40) };
    let (kept, starts_anew) = next(&own(11, 500), Some(&old), true);
    assert_eq!((kept.released, kept.tables_before, starts_anew), (OriginLsn(40), Some(100), false));
    let other = Own { tables: 8, ..own(11, 500) };
    assert_eq!(next(&other, Some(&old), true).0.released, OriginLsn::INFINITY);
}

#[test]
fn an_origin_that_the_record_does_not_know_waits() {
    let (record, starts_anew) = next(&own(11, 500), None, true);
    assert_eq!((record.released, starts_anew), (OriginLsn::INFINITY, true));
}

#[test]
fn an_origin_that_waits_goes_on_waiting_when_the_slot_was_moved() {
    let waiting = OriginRecord { waits_beyond: Some(OriginLsn(500)), ..origin(u64::MAX) };
    assert_eq!(next(&own(11, 500), Some(&waiting), false).0, waiting);
}

#[test]
fn the_beginning_stays_where_it_was_first_read_and_goes_with_the_pair() {
    let reading = |confirmed| Some(Reading { confirmed: OriginLsn(confirmed), ..Reading::default() });
    let mut record = origin(40);
    note_beginning(&mut record, &own(11, 0), None);
    note_beginning(&mut record, &own(11, 0), reading(0));
    note_beginning(&mut record, &own(11, 500), reading(70));
    assert_eq!((record.begins, record.passed), (None, None));
    for confirmed in [80, 90, 85] {
        note_beginning(&mut record, &own(11, 0), reading(confirmed));
    }
    assert_eq!((record.begins, record.passed), (Some(OriginLsn(80)), Some(OriginLsn(90))));
    let more = Own { newest_table: 60, ..own(11, 0) };
    assert_eq!(next(&more, Some(&record), true).0.begins, Some(OriginLsn(80)));
    assert_eq!(next(&own(12, 0), Some(&record), true).0.begins, None);
}

#[test]
fn what_is_past_a_source_is_recorded_once() {
    let reading = |confirmed| Some(Reading { confirmed: OriginLsn(confirmed), ..Reading::default() });
    let begun = OriginRecord { begins: Some(OriginLsn(50)), passed: Some(OriginLsn(60)), ..origin(40) };
    let nothing_applied = own(11, 0);
    for (released, confirmed, expected) in [
        (vec![], 90, false),
        (vec![0], 90, false),
        (vec![60], 90, false),
        (vec![61], 60, false),
        (vec![61], 61, true),
        (vec![90], 89, false),
        (vec![95, 61], 90, true),
        (vec![u64::MAX], 90, false),
    ] {
        let released: Vec<OriginLsn> = released.into_iter().map(OriginLsn).collect();
        assert_eq!(
            is_past_a_source(&begun, &nothing_applied, reading(confirmed), &released),
            expected,
            "{released:?}, {confirmed}"
        );
    }
    let all = [OriginLsn(61)];
    assert!(!is_past_a_source(&begun, &nothing_applied, None, &all), "nothing was read");
    assert!(!is_past_a_source(&begun, &own(11, 500), reading(90), &all), "its origin proves it");
    let mut recorded = begun;
    note_beginning(&mut recorded, &nothing_applied, reading(90));
    assert!(!is_past_a_source(&recorded, &nothing_applied, reading(95), &all), "once");
}

#[test]
fn a_provider_that_was_restored_or_promoted_has_another_history() {
    let reports = |system_identifier, timeline| {
        let mut peer = reporting(Vec::new());
        peer.report = peer.report.map(|report| Report { system_identifier, timeline, ..report });
        peer
    };
    assert!(!has_another_history(&reports(SERVER.0, SERVER.1), &record()));
    assert!(has_another_history(&reports(SERVER.0, SERVER.1 + 1), &record()), "promoted");
    assert!(has_another_history(&reports(SERVER.0 + 1, SERVER.1), &record()), "another server");
    assert!(!has_another_history(&silent(), &record()), "nothing was heard");
    assert!(!has_another_history(&reports(SERVER.0, 5), &empty()), "nothing was known");
}

#[test]
fn a_peer_counts_by_what_it_reports_or_once_reported() {
    assert_eq!(progress(&silent(), "n1", &record()), Progress::Passed(OriginLsn(100)));
    assert_eq!(progress(&silent(), "n1", &empty()), Progress::Unknown);
    let now = |passed| reporting(vec![position(5, 2, passed)]);
    assert_eq!(progress(&now(200), "n1", &record()), Progress::Passed(OriginLsn(200)));
    assert_eq!(progress(&now(50), "n1", &record()), Progress::Passed(OriginLsn(100)));
    assert_eq!(progress(&now(0), "n1", &record()), Progress::Passed(OriginLsn(100)));
    assert_eq!(progress(&now(0), "n1", &empty()), Progress::Unknown);
}

#[test]
fn what_was_reported_ends_with_the_server_timeline_subscription_and_origin() {
    assert_eq!(progress(&reporting(vec![position(6, 2, 0)]), "n1", &record()), Progress::Unknown);
    assert_eq!(progress(&reporting(vec![position(5, 3, 0)]), "n1", &record()), Progress::Unknown);
    for (system_identifier, timeline) in [(9, 1), (8, 2)] {
        let mut peer = reporting(vec![position(5, 2, 0)]);
        peer.report = peer.report.map(|report| Report { system_identifier, timeline, ..report });
        assert_eq!(progress(&peer, "n1", &record()), Progress::Unknown);
    }
}

#[test]
fn a_peer_without_a_subscription_needs_nothing_and_the_origin_itself_neither() {
    assert_eq!(progress(&reporting(vec![]), "n1", &record()), Progress::NotSubscribed);
    let origin_itself = PeerInput { name: "n1".to_owned(), ..silent() };
    assert_eq!(progress(&origin_itself, "n1", &empty()), Progress::NotSubscribed);
}

#[test]
fn a_subscription_of_unknown_origin_may_need_anything_also_while_the_peer_is_silent() {
    let mut peer = reporting(vec![position(5, 2, 200)]);
    peer.report = peer.report.map(|report| Report { has_unknown_origin: true, ..report });
    assert_eq!(progress(&peer, "n1", &record()), Progress::Unknown);
    let mut later = empty();
    later.peers = next_peer(&peer, &later).into_iter().collect();
    assert_eq!(progress(&silent(), "n1", &later), Progress::Unknown);
}

#[test]
fn what_is_written_down_of_a_peer_never_goes_back() {
    let forgetful = reporting(vec![position(5, 2, 0)]);
    let next = next_peer(&forgetful, &record()).expect("heard");
    assert_eq!(next.passed, vec![position(5, 2, 100)]);
    assert_eq!(next_peer(&silent(), &record()), record().peers.first().cloned());
    assert_eq!(next_peer(&silent(), &empty()), None);
}

fn samples() -> Samples {
    let mut samples = Samples::default();
    for index in 1..=5u64 {
        samples.push(Sample {
            origin: OriginLsn(index * 100),
            local: LocalLsn(index * 10),
            taken_at: Timestamp(index as i64),
        });
    }
    samples
}

#[test]
fn the_reason_names_the_peer_and_how_it_fares() {
    let samples = samples();
    let own = own(11, 500);
    let origins = [(&own, &samples)];
    let reason =
        |peer: PeerInput, record: &RetentionRecord| decide(&origins, &[peer], record, LocalLsn(50), None).block;
    assert_eq!(reason(reporting(vec![position(5, 2, 300)]), &empty()), Some(Block::PeerLagging(0)));
    assert_eq!(reason(reporting(vec![position(5, 2, 500)]), &empty()), None);
    assert_eq!(reason(silent(), &record()), Some(Block::PeerUnreachable(0)));
    assert_eq!(reason(silent(), &empty()), Some(Block::PeerUnreachable(0)));
    assert_eq!(reason(reporting(vec![position(5, 2, 0)]), &empty()), Some(Block::PeerUnknown(0)));
    let useless = PeerInput { contact: Contact::Useless, ..silent() };
    assert_eq!(reason(useless, &record()), Some(Block::PeerUnknown(0)));
    let nothing = Samples::default();
    let outcome = decide(&[(&own, &nothing)], &[], &empty(), LocalLsn(50), None);
    assert_eq!((outcome.target, outcome.block), (None, Some(Block::NoSample)));
}

#[test]
fn what_holds_the_slot_beside_the_peers_gives_way_to_the_budget_alone_and_no_further_than_it_must() {
    let samples = samples();
    let own = own(11, 500);
    let held = |floor: Option<LocalLsn>| {
        let mut outcome = decide(&[(&own, &samples)], &[], &empty(), LocalLsn(50), floor);
        outcome.hold(Block::OriginUnknown, floor);
        (outcome.target, outcome.block)
    };
    assert_eq!(held(None), (None, Some(Block::OriginUnknown)));
    assert_eq!(held(Some(LocalLsn(40))), (Some(LocalLsn(40)), Some(Block::OriginUnknown)));
}

#[test]
fn a_peer_that_is_given_up_is_unprotected_until_it_has_passed_what_was_let_go() {
    let samples = samples();
    let own = own(11, 500);
    let mut record = record();
    record.origins = vec![origin(400)];
    let lagging = [reporting(vec![position(5, 2, 150)])];
    let outcome = decide(&[(&own, &samples)], &lagging, &record, LocalLsn(50), Some(LocalLsn(40)));
    assert_eq!((outcome.target, outcome.is_over_budget), (Some(LocalLsn(50)), false));
    record.unprotected = unprotected(&record, &outcome, &lagging);
    assert_eq!(record.unprotected, ["n2"]);
    for (passed, expected) in [(399, vec!["n2"]), (400, vec![])] {
        let peers = [reporting(vec![position(5, 2, passed)])];
        let outcome = decide(&[(&own, &samples)], &peers, &record, LocalLsn(50), None);
        assert_eq!(unprotected(&record, &outcome, &peers), expected);
    }
}

#[test]
fn the_oldest_transaction_that_somebody_lacks_has_its_time() {
    let samples = samples();
    let own = own(11, 500);
    let since = |passed| {
        let peers = [reporting(vec![position(5, 2, passed)])];
        decide(&[(&own, &samples)], &peers, &empty(), LocalLsn(50), None).unacknowledged_since
    };
    assert_eq!(since(500), None);
    assert_eq!(since(499), Some(Timestamp(5)));
    assert_eq!(since(100), Some(Timestamp(2)));
}

#[test]
fn the_slot_stays_behind_the_slowest_outgoing_slot() {
    let outcome = |target: Option<u64>, block| Outcome {
        target: target.map(LocalLsn),
        block,
        allowances: Vec::new(),
        pairs: Vec::new(),
        given_up: Vec::new(),
        is_over_budget: false,
        unacknowledged_since: None,
    };
    const FOUND: u64 = 100;
    let (lagging, silent) = (Some(Block::PeerLagging(0)), Some(Block::PeerUnreachable(0)));
    let outgoing = Some(Block::OutgoingSlot);
    for (what, target, block, slowest, expected) in [
        ("it is ahead", Some(200), None, 300, (Some(200), None)),
        ("it is where the slot may advance to", Some(200), None, 200, (Some(200), None)),
        ("it is behind that", Some(200), None, 150, (Some(150), outgoing)),
        ("it is where the slot is", Some(200), None, FOUND, (Some(FOUND), outgoing)),
        ("it is behind the slot", Some(200), None, 50, (Some(50), outgoing)),
        ("it holds more than a lagging peer", Some(200), lagging, 150, (Some(150), outgoing)),
        ("a lagging peer alone holds the slot", Some(FOUND), lagging, 50, (Some(50), lagging)),
        ("a silent peer needs attention first", Some(200), silent, 150, (Some(150), silent)),
        ("nothing may move", None, lagging, 50, (None, lagging)),
    ] {
        let mut outcome = outcome(target, block);
        outcome.stay_behind(LocalLsn(slowest), LocalLsn(FOUND));
        assert_eq!((outcome.target, outcome.block), (expected.0.map(LocalLsn), expected.1), "{what}");
    }
}
