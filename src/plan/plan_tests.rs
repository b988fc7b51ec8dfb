//! Tests of the plan at every boundary, and of each condition when it alone is violated.

use super::choice::{Survivor, SurvivorAnswer};
use super::facts::*;
use super::outcome::{Outcome, Reason};
use super::sample::{node, table};
use super::*;
use std::collections::HashSet;

type Change = fn(&mut NodeFacts, &mut NodeFacts, &mut Wishes);

fn plan_of(change: Change) -> Plan {
    let (mut target, mut source) = (node("n2", 20), node("n3", 90));
    let mut wishes = Wishes { asked_by_target: true, ..Wishes::default() };
    change(&mut target, &mut source, &mut wishes);
    from_source("n1", &target, &source, &wishes).expect("bounds that make sense")
}

/// Each change violates the named condition and gives the plan the stated reason. Conditions that cannot be judged
/// without the violated one may fail as well, but come later.
const VIOLATIONS: &[(Reason, &str, Change)] = &[
    (Reason::RecoveryRunning, "no_other_recovery_runs_on_target", |target, _, _| {
        target.recoveries.push(recovery("n4"))
    }),
    (Reason::VersionDiffers, "versions_understand_each_other", |_, source, _| source.protocol += 2),
    (Reason::VersionDiffers, "versions_understand_each_other", |target, _, _| target.protocol += 2),
    (Reason::TargetOriginUnknown, "target_knows_its_origins", |target, _, _| {
        target.unknown_origins.push("sub".to_owned());
    }),
    (Reason::TargetNotSubscribed, "target_subscribes", |target, _, _| target.subscriptions.clear()),
    (Reason::TargetSubscribesTwice, "target_subscribes_once", |target, _, _| twice(target)),
    (Reason::TargetProgressUnknown, "target_progress_is_known", |target, _, _| own(target).applied = None),
    (Reason::TargetProgressUnknown, "target_progress_is_known", |target, _, _| own(target).origin_id = 0),
    (Reason::SourceOriginUnknown, "source_knows_its_origins", |_, source, _| {
        source.unknown_origins.push("sub".to_owned());
    }),
    (Reason::SourceNotSubscribed, "source_subscribes", |_, source, _| source.subscriptions.clear()),
    (Reason::SourceSubscribesTwice, "source_subscribes_once", |_, source, _| twice(source)),
    (Reason::SourceProgressUnknown, "source_progress_is_known", |_, source, _| own(source).applied = None),
    (Reason::SourceBehindTarget, "source_is_not_behind", |target, _, _| {
        own(target).applied = Some(OriginLsn(91));
    }),
    (Reason::FailedStreamsToTarget, "failed_node_does_not_stream_to_target", |target, _, wishes| {
        own(target).is_attached = true;
        wishes.failed_answers = true;
    }),
    (Reason::FailedStreamsToSource, "failed_node_does_not_stream_to_source", |_, source, _| {
        own(source).is_attached = true;
        source.failed_answers = true;
    }),
    (Reason::SourceInRecovery, "source_is_not_in_recovery", |_, source, _| source.recoveries.push(recovery("n1"))),
    (Reason::SourceStillApplying, "source_has_applied_all", |_, source, _| own(source).is_applying = true),
    (Reason::SlotsDisabled, "recovery_slots_are_enabled", |_, source, _| source.slot.is_enabled = false),
    (Reason::SlotMissing, "recovery_slot_exists", |_, source, _| source.slot.state = SlotState::Missing),
    (Reason::SlotMissing, "recovery_slot_exists", |_, source, _| source.slot.state = SlotState::BeingCreated),
    (Reason::SlotInvalid, "recovery_slot_is_valid", |_, source, _| source.slot.state = SlotState::Invalid),
    (Reason::SlotNotInUse, "recovery_slot_is_in_use", |_, source, _| source.slot.state = SlotState::NotInUse),
    (Reason::SlotMoved, "recovery_slot_is_within_its_record", |_, source, _| source.slot.is_covered = false),
    (Reason::SourceSubscriptionChanged, "released_is_of_this_subscription", |_, source, _| {
        own(source).subscription = 101;
    }),
    (Reason::SourceSubscriptionChanged, "released_is_of_this_subscription", |_, source, _| own(source).origin_id = 8),
    (Reason::SourceSubscriptionChanged, "released_is_of_this_subscription", |_, source, _| {
        own(source).tables_digest = 6;
    }),
    (Reason::SourceSubscriptionChanged, "released_is_of_this_subscription", |_, source, _| {
        source.slot.released.clear();
    }),
    (Reason::ReleasedUnknown, "released_is_known", |_, source, _| {
        source.slot.released[0].released = OriginLsn::INFINITY;
    }),
    (Reason::ReleasedBeyondTarget, "released_is_passed_by_target", |_, source, _| {
        source.slot.released[0].released = OriginLsn(21);
    }),
    (Reason::TargetTableNotReady, "target_tables_are_ready", |target, _, _| {
        own(target).tables[1].state = "d".to_owned();
    }),
    (Reason::SourceLacksTable, "source_has_the_tables", |_, source, _| {
        own(source).tables.remove(0);
    }),
    (Reason::SourceTableNotReady, "source_tables_are_ready", |_, source, _| {
        own(source).tables[0].state = "d".to_owned();
    }),
    (Reason::SourceTableCopiedLater, "source_tables_were_copied_before", |_, source, _| {
        own(source).tables[0].copied = Some(OriginLsn(21));
    }),
    (Reason::PublicationsDiffer, "same_publications", |target, _, _| {
        own(target).publications.pop();
    }),
    (Reason::SourceSkippedTransaction, "source_skipped_nothing", |_, source, _| {
        own(source).pending_skip = Some(OriginLsn(30));
    }),
    (Reason::SourceSkippedTransaction, "source_skipped_nothing", |_, source, _| own(source).has_skipped = true),
    (Reason::TargetPreparedTransaction, "nothing_is_prepared_on_target", |target, _, _| {
        own(target).prepared.push("pg_gid_100_9".to_owned());
    }),
    (Reason::SourcePreparedTransaction, "nothing_is_prepared_on_source", |_, source, _| {
        own(source).prepared.push("pg_gid_100_9".to_owned());
    }),
    (Reason::SourceReplicaTrigger, "no_replica_trigger_on_source", |_, source, _| {
        own(source).tables[0].triggers.push("audit".to_owned());
    }),
    (Reason::WalLevel, "wal_level_is_logical", |_, source, _| source.settings.wal_level = "replica".to_owned()),
    (Reason::PluginNotListed, "plugin_is_listed", |_, source, _| {
        source.settings.output_plugin_libraries = Some("pgoutput".to_owned());
    }),
    (Reason::SourceUnreachableFromTarget, "target_reaches_source", |target, _, _| target.peers.clear()),
    (Reason::SourceUnreachableFromTarget, "target_reaches_source", |target, _, _| {
        target.peers.iter_mut().for_each(|peer| peer.is_unreachable = true);
    }),
    (Reason::SourceRoleLacksRights, "source_role_may_replicate", |_, source, _| source.asked_by.may_replicate = false),
    (Reason::SourceRoleLacksRights, "source_role_may_read", |_, source, _| {
        own(source).tables[1].is_readable = false;
    }),
];

/// Changes that make a resource unavailable, with the reason that the plan then has.
const FULL: &[(Reason, Change)] = &[
    (Reason::NoFreeSlot, |_, source, _| source.capacity.slots.used = 10),
    (Reason::NoFreeWalsender, |_, source, _| source.capacity.walsenders.used = 10),
    (Reason::NoFreeWorker, |target, _, _| target.capacity.workers.used = 10),
    (Reason::NoFreeOrigin, |target, _, _| {
        own(target).origin_is_active = false;
        target.capacity.origins.used = 10;
    }),
];

fn own(node: &mut NodeFacts) -> &mut SubscriptionFacts {
    &mut node.subscriptions[0]
}

fn twice(node: &mut NodeFacts) {
    let second = SubscriptionFacts { subscription: 101, ..node.subscriptions[0].clone() };
    node.subscriptions.push(second);
}

fn recovery(failed: &str) -> RecoveryFacts {
    RecoveryFacts {
        intent: "i".to_owned(),
        failed: failed.to_owned(),
        source: "n4".to_owned(),
        phase: "replaying".to_owned(),
    }
}

#[test]
fn where_everything_holds_the_target_catches_up_from_what_it_has_to_what_the_source_has() {
    let plan = plan_of(|_, _, _| ());
    assert_eq!((plan.outcome, plan.reason), (Some(Outcome::CatchUp), Reason::GapCovered), "{plan:#?}");
    assert_eq!(plan.range, Some(Range { skip: OriginLsn(20), stop: OriginLsn(90) }));
    assert_eq!((plan.gap_bytes, plan.released_lsn), (Some(70), Some(OriginLsn(10))));
    assert!(plan.proof.iter().all(|condition| condition.holds && !condition.finding.is_empty()), "{plan:#?}");
    assert_eq!(plan.pins.len(), 4);
    assert!(plan.advice.starts_with("CALL spock.recover_run(failed_node_name := 'n1'"), "{}", plan.advice);
}

#[test]
fn each_condition_that_fails_alone_fails_the_plan_with_its_own_reason() {
    for (reason, name, change) in VIOLATIONS {
        let plan = plan_of(*change);
        assert_eq!((plan.outcome, plan.reason), (Some(Outcome::NeedsRebuild), *reason), "{name}: {plan:#?}");
        let first = plan.proof.iter().find(|condition| !condition.holds).expect("a condition that fails");
        assert_eq!(first.name, *name, "{plan:#?}");
        assert_eq!(plan.finding(), Some(first.finding.as_str()));
        assert_eq!(plan.range, None, "{name}");
        // Other conditions fail only if they cannot be judged without the violated one.
        for condition in plan.proof.iter().filter(|condition| !condition.holds && condition.name != *name) {
            let follows = condition.finding.contains("cannot be judged") || condition.finding.contains("cannot prove");
            let counted = condition.name.ends_with("subscribes_once");
            assert!(follows || counted, "{name}: {condition:?}");
        }
    }
}

#[test]
fn every_condition_is_looked_at_whatever_fails_and_each_has_its_violation() {
    let names: Vec<&str> = plan_of(|_, _, _| ()).proof.iter().map(|condition| condition.name).collect();
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len(), "names are unique");
    for name in &names {
        assert!(VIOLATIONS.iter().any(|(_, violated, _)| violated == name), "{name} is violated by no test");
    }
    for (_, _, change) in VIOLATIONS {
        let seen: Vec<&str> = plan_of(*change).proof.iter().map(|condition| condition.name).collect();
        assert_eq!(seen, names);
    }
}

#[test]
fn a_pin_that_cannot_be_had_fails_the_plan() {
    for (reason, change) in FULL {
        let plan = plan_of(*change);
        assert_eq!((plan.outcome, plan.reason), (Some(Outcome::NeedsRebuild), *reason), "{plan:#?}");
        assert!(plan.proof.iter().all(|condition| condition.holds), "{plan:#?}");
        assert!(plan.finding().is_some_and(|finding| finding.contains("0 of max_")), "{plan:#?}");
    }
    // One free place is enough. A resource that is held already is not needed again.
    let plan = plan_of(|target, source, _| {
        source.capacity.slots.used = 9;
        source.capacity.walsenders.used = 9;
        target.capacity.workers.used = 9;
        target.capacity.origins.used = 10;
    });
    assert_eq!(plan.outcome, Some(Outcome::CatchUp), "{plan:#?}");
    let plan = plan_of(|target, source, wishes| {
        source.capacity.slots.used = 10;
        target.capacity.workers.used = 10;
        wishes.has_clone = true;
        target.recoveries.push(recovery("n1"));
    });
    assert_eq!(plan.outcome, Some(Outcome::CatchUp), "{plan:#?}");
}

#[test]
fn a_recovery_of_the_same_failed_node_is_joined() {
    let plan = plan_of(|target, _, _| target.recoveries.push(recovery("n1")));
    assert_eq!(plan.outcome, Some(Outcome::CatchUp), "{plan:#?}");
    assert!(plan.notes.iter().any(|note| note.contains("joins")), "{plan:#?}");
}

#[test]
fn what_the_source_let_go_must_be_passed_by_the_target() {
    for (released, confirmed, expected) in [
        (19, None, true),
        (20, None, true),
        (21, None, false),
        (21, Some(21), true),
        (22, Some(21), false),
        // An earlier confirmation does not lower the position that the target has passed.
        (20, Some(5), true),
    ] {
        let (mut target, mut source) = (node("n2", 20), node("n3", 90));
        source.slot.released[0].released = OriginLsn(released);
        own(&mut target).confirmed = confirmed.map(OriginLsn);
        let plan = from_source("n1", &target, &source, &Wishes::default()).expect("no bounds");
        let reason = if expected { Reason::GapCovered } else { Reason::ReleasedBeyondTarget };
        assert_eq!(plan.reason, reason, "{released} {confirmed:?}");
        // WAL that only keepalives have passed is no part of the gap, which is counted from what was applied.
        assert_eq!(plan.gap_bytes, Some(70));
    }
}

#[test]
fn a_target_that_has_applied_nothing_lacks_what_came_after_its_beginning() {
    let quiet = |name: &str, begins: u64, confirmed: Option<u64>| {
        let mut facts = node(name, 1);
        own(&mut facts).applied = None;
        own(&mut facts).begins = Some(OriginLsn(begins));
        own(&mut facts).confirmed = confirmed.map(OriginLsn);
        facts
    };
    let plan_for = |target: &NodeFacts, source: &NodeFacts| {
        let plan = from_source("n1", target, source, &Wishes::default()).expect("no bounds");
        (plan.reason, plan.range.map(|range| (range.skip.0, range.stop.0)))
    };
    let mut source = node("n3", 90);
    assert_eq!(plan_for(&quiet("n2", 20, None), &source), (Reason::GapCovered, Some((20, 90))));
    // A later confirmation raises the position that the target has passed, but the gap still begins where the target
    // began.
    source.slot.released[0].released = OriginLsn(30);
    assert_eq!(plan_for(&quiet("n2", 20, None), &source), (Reason::ReleasedBeyondTarget, None));
    assert_eq!(plan_for(&quiet("n2", 20, Some(30)), &source), (Reason::GapCovered, Some((20, 90))));
    // The target began after everything that the source has, or the source has nothing either.
    for begins in [90, 95] {
        assert_eq!(plan_for(&quiet("n2", begins, None), &source).0, Reason::NothingMissing);
    }
    assert_eq!(plan_for(&quiet("n2", 20, None), &quiet("n3", 40, None)).0, Reason::NothingMissing);
    // A source that has applied nothing has less than a target that has.
    assert_eq!(plan_for(&node("n2", 20), &quiet("n3", 40, None)).0, Reason::SourceBehindTarget);
    // It is unknown where the target began.
    let mut unknown = quiet("n2", 20, None);
    own(&mut unknown).begins = None;
    assert_eq!(plan_for(&unknown, &source), (Reason::TargetProgressUnknown, None));
    let best = super::choice::best_source("n1", &survivors(vec![quiet("n2", 20, None), node("n3", 90)]), &|_, _| {
        Wishes::default()
    });
    assert_eq!(best.map(|best| (best.node, best.applied.0)), Some(("n3".to_owned(), 90)));
    // No survivor has anything of the failed node, so none lags.
    let best =
        super::choice::best_source("n1", &survivors(vec![quiet("n2", 20, None), quiet("n3", 40, None)]), &|_, _| {
            Wishes::default()
        });
    assert_eq!(best.map(|best| best.applied.0), Some(0));
}

fn survivors(facts: Vec<NodeFacts>) -> Vec<Survivor> {
    let survivor =
        |facts: NodeFacts| Survivor { node: facts.node.clone(), answer: SurvivorAnswer::Facts(Box::new(facts)) };
    facts.into_iter().map(survivor).collect()
}

#[test]
fn a_table_that_the_source_copied_must_have_been_copied_before_what_the_target_passed() {
    for (copied, expected) in [(19, true), (20, true), (21, false)] {
        let (target, mut source) = (node("n2", 20), node("n3", 90));
        own(&mut source).tables[0].copied = Some(OriginLsn(copied));
        // A table that the target does not replicate does not matter.
        own(&mut source).tables.push(TableFacts { copied: Some(OriginLsn(80)), ..table("c") });
        let plan = from_source("n1", &target, &source, &Wishes::default()).expect("no bounds");
        assert_eq!(plan.outcome == Some(Outcome::CatchUp), expected, "{copied}");
    }
}

#[test]
fn a_table_that_has_gone_from_the_source_is_had_from_its_wal() {
    let (target, mut source) = (node("n2", 20), node("n3", 90));
    let plan_for =
        |source: &NodeFacts| from_source("n1", &target, source, &Wishes::default()).expect("no bounds").reason;
    own(&mut source).tables.retain(|table| table.name != "b");
    assert_eq!(plan_for(&source), Reason::SourceLacksTable);
    let gone = GoneFacts { oid: 9, schema: "public".to_owned(), name: "b".to_owned(), copied: None };
    own(&mut source).gone = vec![gone.clone()];
    assert_eq!(plan_for(&source), Reason::GapCovered);
    own(&mut source).gone = vec![GoneFacts { copied: Some(OriginLsn(20)), ..gone.clone() }];
    assert_eq!(plan_for(&source), Reason::GapCovered);
    own(&mut source).gone = vec![GoneFacts { copied: Some(OriginLsn(21)), ..gone.clone() }];
    assert_eq!(plan_for(&source), Reason::SourceTableCopiedLater);
    own(&mut source).gone = vec![GoneFacts { name: "c".to_owned(), ..gone }];
    assert_eq!(plan_for(&source), Reason::SourceLacksTable);
}

#[test]
fn with_equal_progress_nothing_is_missing_whatever_else_fails() {
    for (reason, name, change) in VIOLATIONS {
        let (mut target, mut source) = (node("n2", 90), node("n3", 90));
        let mut wishes = Wishes { asked_by_target: true, ..Wishes::default() };
        change(&mut target, &mut source, &mut wishes);
        let plan = from_source("n1", &target, &source, &wishes).expect("no bounds");
        if target.lacks_from().is_some() && target.lacks_from() == source.has_up_to() {
            assert_eq!((plan.outcome, plan.reason), (Some(Outcome::ZeroGap), Reason::NothingMissing), "{name}");
            assert_eq!((plan.gap_bytes, plan.finding()), (Some(0), None));
        } else {
            assert_eq!(plan.outcome, Some(Outcome::NeedsRebuild), "{reason:?}");
        }
    }
}

#[test]
fn a_table_whose_copy_was_aborted_is_missing_also_with_equal_progress_and_makes_no_source() {
    fn abort(of: &mut NodeFacts) {
        (own(of).tables[1].state, own(of).tables[1].copied) = ("s".to_owned(), Some(OriginLsn::INFINITY));
    }
    let plan = plan_of(|target, source, _| {
        *target = node("n2", 90);
        *source = node("n3", 90);
        abort(target);
    });
    assert_eq!((plan.outcome, plan.reason), (Some(Outcome::NeedsRebuild), Reason::TargetTableNotReady));
    let plan = plan_of(|_, source, _| abort(source));
    assert_eq!((plan.outcome, plan.reason), (Some(Outcome::NeedsRebuild), Reason::SourceTableNotReady));
    // One that was rebuilt up to a position is ready.
    let plan = plan_of(|target, _, _| own(target).tables[1].state = "s".to_owned());
    assert_eq!(plan.outcome, Some(Outcome::CatchUp), "{:?}", plan.reason);
}

#[test]
fn a_node_that_is_attached_or_answers_alone_is_taken_for_failed() {
    let hangs = plan_of(|target, source, _| {
        own(target).is_attached = true;
        own(source).is_attached = true;
    });
    assert_eq!((hangs.outcome, hangs.notes.len()), (Some(Outcome::CatchUp), 0), "{hangs:#?}");
    let answers = plan_of(|_, _, wishes| wishes.failed_answers = true);
    assert_eq!(answers.outcome, Some(Outcome::CatchUp));
    assert!(answers.notes.iter().any(|note| note.contains("answers")), "{answers:#?}");
}

#[test]
fn that_commit_timestamps_are_missing_is_noted() {
    let plan = plan_of(|target, _, _| target.settings.track_commit_timestamp = false);
    assert_eq!((plan.outcome, plan.notes.len()), (Some(Outcome::CatchUp), 1), "{plan:#?}");
}

#[test]
fn what_is_known_to_the_caller_holds() {
    let plan = plan_of(|target, source, wishes| {
        target.peers.clear();
        wishes.knows_the_way = true;
        source.asked_by.may_replicate = false;
        wishes.asked_by_target = false;
    });
    assert_eq!(plan.outcome, Some(Outcome::CatchUp), "{plan:#?}");
}

#[test]
fn bounds_by_hand_are_the_range_and_nonsense_is_an_error() {
    let ask = |skip: Option<u64>, stop: Option<u64>| {
        let (target, mut source) = (node("n2", 20), node("n3", 90));
        source.slot.released[0].released = OriginLsn(30);
        let wishes = Wishes { skip: skip.map(OriginLsn), stop: stop.map(OriginLsn), ..Wishes::default() };
        from_source("n1", &target, &source, &wishes).map(|plan| (plan.outcome, plan.reason, plan.range))
    };
    let range = |skip, stop| Some(Range { skip: OriginLsn(skip), stop: OriginLsn(stop) });
    let catch_up = |skip, stop| Ok((Some(Outcome::CatchUp), Reason::GapCovered, range(skip, stop)));
    assert_eq!(ask(Some(30), Some(80)), catch_up(30, 80));
    assert_eq!(ask(Some(50), Some(50)), catch_up(50, 50));
    assert_eq!(ask(Some(29), None), Ok((Some(Outcome::NeedsRebuild), Reason::ReleasedBeyondTarget, None)));
    assert!(matches!(ask(Some(19), None), Err(RangeError::SkipBelowApplied { .. })));
    assert!(matches!(ask(None, Some(91)), Err(RangeError::StopBeyondSource { .. })));
    assert!(matches!(ask(Some(50), Some(49)), Err(RangeError::StopBeforeSkip { .. })));
}

#[test]
fn every_reason_can_be_reached_and_says_what_to_do() {
    let mut reached: HashSet<Reason> = super::choice_tests::reasons();
    reached.insert(plan_of(|_, _, _| ()).reason);
    for (_, _, change) in VIOLATIONS {
        reached.insert(plan_of(*change).reason);
    }
    for (_, change) in FULL {
        reached.insert(plan_of(*change).reason);
    }
    for reason in Reason::ALL {
        assert!(reached.contains(reason), "{} is never given", reason.as_str());
        let word = reason.as_str();
        assert!(word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{word}");
        let advice = super::advice::of(&Plan::without_source("n1", "n2", None, *reason));
        assert!(advice.ends_with('.') || advice.ends_with(';'), "{word}: {advice}");
    }
    assert_eq!(Reason::ALL.iter().map(|reason| reason.as_str()).collect::<HashSet<_>>().len(), Reason::ALL.len());
}

#[test]
fn facts_travel_as_json_and_those_of_another_version_are_refused() {
    let facts = node("Zürich \"n\"", 20);
    let text = serde_json::to_string(&facts).expect("facts can be written");
    assert_eq!(NodeFacts::parse(&text), Ok(facts.clone()));
    assert!(NodeFacts::parse(&text.replace("\"version\":1,", "\"version\":2,")).is_err());
    assert!(NodeFacts::parse("{}").is_err());
    assert_eq!(NodeFacts::parse(&text.replace("\"version\":1,", "\"version\":1,\"more\":0,")), Ok(facts.clone()));
    // Version 0.1.0 reports fewer fields.
    let untold = text.replace(&format!("\"protocol\":{},", crate::protocol::OURS), "");
    assert_eq!(NodeFacts::parse(&untold).map(|facts| facts.protocol), Ok(crate::protocol::UNTOLD));
}
