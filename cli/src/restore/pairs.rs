//! Whether restored nodes fit together, and whether their slots begin early enough (pure).

use std::collections::BTreeMap;

use super::journal::{Seen, Subscription};
use crate::lsn::Lsn;

/// What is wrong, a line for each, and how much of each pair is in flight.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub findings: Vec<String>,
    /// Node, provider, and the bytes of the provider's WAL that the node has not applied.
    pub behind: Vec<(String, String, u64)>,
    /// Of nothing applied yet: node, provider.
    pub fresh: Vec<(String, String)>,
}

/// `cut`: where each node stops. For every subscription to a node of the restore: what was applied must not be beyond that node's
/// end, and its saved slot must not begin behind what was applied.
pub fn judge(nodes: &BTreeMap<String, Seen>, cut: &BTreeMap<String, Lsn>, drained: bool, with_slots: bool) -> Verdict {
    let mut verdict = Verdict::default();
    for (node, seen) in nodes {
        for subscription in &seen.subscriptions {
            one(node, subscription, nodes, cut, (drained, with_slots), &mut verdict);
        }
    }
    verdict
}

fn one(
    node: &str,
    subscription: &Subscription,
    nodes: &BTreeMap<String, Seen>,
    cut: &BTreeMap<String, Lsn>,
    (drained, with_slots): (bool, bool),
    verdict: &mut Verdict,
) {
    let Some(provider) = &subscription.provider else {
        verdict.findings.push(format!(
            "nobody knows which node subscription \"{}\" of node \"{node}\" receives from: drop it after the restore, or tell it with spock.sub_set_origin()",
            subscription.name
        ));
        return;
    };
    let Some(&end) = cut.get(provider) else { return };
    let applied = subscription.applied;
    if applied > end {
        verdict.findings.push(format!(
            "node \"{node}\" has applied node \"{provider}\" up to {applied}, and that node itself is restored to {end} only: the moment is no cut"
        ));
        return;
    }
    if applied == Lsn(0) {
        verdict.fresh.push((node.into(), provider.clone()));
        if !drained && subscription.slot.is_some() {
            verdict.findings.push(format!(
                "node \"{node}\" has not applied anything of node \"{provider}\" yet, so that nobody knows where subscription \"{}\" is to begin: choose a \
                 restore point of quality drained",
                subscription.name
            ));
        }
        return;
    }
    verdict.behind.push((node.into(), provider.clone(), end.0 - applied.0));
    if !with_slots || subscription.slot.is_none() {
        return;
    }
    match nodes.get(provider).and_then(|provider| provider.slot.as_ref()) {
        Some(slot) if slot.confirmed > applied => verdict.findings.push(format!(
            "the saved recovery slot of node \"{provider}\" begins at {}, and node \"{node}\" has applied that node up to {applied} only: what lies between \
             would be lost; choose an earlier moment",
            slot.confirmed
        )),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::journal::SavedSlot;

    fn subscription(provider: &str, applied: u64) -> Subscription {
        Subscription {
            name: format!("from_{provider}"),
            origin: "pg_1".into(),
            provider: Some(provider.into()),
            slot: Some("s".into()),
            enabled: true,
            two_phase: false,
            failover: false,
            applied: Lsn(applied),
        }
    }

    fn seen(confirmed: u64, subscriptions: Vec<Subscription>) -> Seen {
        let slot = SavedSlot { name: "spk".into(), restart: Lsn(1), confirmed: Lsn(confirmed), snap: None };
        Seen { subscriptions, slot: Some(slot), prepared: Vec::new() }
    }

    fn mesh(one_of_two: u64, confirmed_of_two: u64) -> BTreeMap<String, Seen> {
        BTreeMap::from([
            ("n1".to_owned(), seen(50, vec![subscription("n2", one_of_two)])),
            ("n2".to_owned(), seen(confirmed_of_two, vec![subscription("n1", 100)])),
        ])
    }

    fn cut() -> BTreeMap<String, Lsn> {
        BTreeMap::from([("n1".to_owned(), Lsn(100)), ("n2".to_owned(), Lsn(200))])
    }

    #[test]
    fn who_is_behind_is_told_and_nothing_is_wrong() {
        let verdict = judge(&mesh(150, 150), &cut(), false, true);
        assert_eq!(verdict.findings, Vec::<String>::new());
        assert_eq!(verdict.behind, [("n1".into(), "n2".into(), 50), ("n2".into(), "n1".into(), 0)]);
    }

    #[test]
    fn a_node_that_has_more_than_the_other_one_will_have_is_found() {
        let verdict = judge(&mesh(201, 150), &cut(), true, true);
        assert!(verdict.findings.len() == 1 && verdict.findings[0].contains("no cut"), "{verdict:?}");
    }

    #[test]
    fn a_slot_that_begins_too_late_is_found_where_slots_count() {
        assert!(judge(&mesh(150, 151), &cut(), false, true).findings[0].contains("would be lost"));
        assert_eq!(judge(&mesh(150, 151), &cut(), false, false).findings.len(), 0);
    }

    #[test]
    fn a_subscription_that_has_applied_nothing_needs_a_drained_point() {
        assert_eq!(judge(&mesh(0, 150), &cut(), false, true).findings.len(), 1);
        let drained = judge(&mesh(0, 150), &cut(), true, true);
        assert_eq!((drained.findings.len(), drained.fresh), (0, vec![("n1".into(), "n2".into())]));
    }

    #[test]
    fn what_comes_from_outside_is_left_alone() {
        let nodes = BTreeMap::from([("n1".to_owned(), seen(1, vec![subscription("n9", 5)]))]);
        assert_eq!(judge(&nodes, &cut(), false, true), Verdict::default());
        let mut unknown = subscription("n2", 5);
        unknown.provider = None;
        let nodes = BTreeMap::from([("n1".to_owned(), seen(1, vec![unknown]))]);
        assert_eq!(judge(&nodes, &cut(), false, true).findings.len(), 1);
    }
}
