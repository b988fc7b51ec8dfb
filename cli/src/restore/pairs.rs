//! Whether restored nodes fit together, and whether their slots begin early enough (pure).

use std::collections::{BTreeMap, HashSet};

use super::journal::{Seen, Subscription};
use super::waldump::Record;
use crate::lsn::Lsn;

/// What is wrong, a line for each, and how much of each pair is in flight.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub findings: Vec<String>,
    /// Node, provider, and the bytes of the provider's WAL that the node has not applied.
    pub behind: Vec<(String, String, u64)>,
    /// Of nothing applied yet: node, provider.
    pub fresh: Vec<(String, String)>,
    pub windows: Vec<Window>,
}

/// Where a provider's saved slot begins behind what a node has applied. As a rule nothing lies between that the node wants: it has
/// passed that WAL, and nothing there moved its origin. That must be seen in the WAL itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub node: String,
    pub provider: String,
    pub own_only: bool,
    pub applied: Lsn,
    pub begins: Lsn,
}

impl Window {
    pub fn finding(&self) -> String {
        format!(
            "the saved recovery slot of node \"{}\" begins at {}, and node \"{}\" has applied that node up to {} only: what was committed between \
             would be lost; choose an earlier moment",
            self.provider, self.begins, self.node, self.applied
        )
    }
}

/// Finds, in a provider's WAL, a transaction that a window would lose.
#[derive(Debug, Default)]
pub struct Seeker {
    /// Transactions under way that have changed rows of users' tables.
    writing: HashSet<u32>,
}

impl Seeker {
    /// Takes the next record, of `Heap`, `Heap2` or `Transaction`; whether it commits such a transaction within the window.
    pub fn is_lost(&mut self, record: &Record, end: Lsn, window: &Window) -> bool {
        if record.writes {
            self.writing.insert(record.xid);
        }
        if record.commit.is_none() {
            return false;
        }
        let ids = record.subxacts.iter().chain([&record.xid]);
        // All of them end, not only the first that wrote.
        let wrote = ids.filter(|xid| self.writing.remove(xid)).count() > 0;
        let is_wanted = !(window.own_only && record.origin.is_some());
        wrote && is_wanted && end > window.applied && end <= window.begins
    }
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
        Some(slot) if slot.confirmed > applied => verdict.windows.push(Window {
            node: node.into(),
            provider: provider.clone(),
            own_only: subscription.own_only,
            applied,
            begins: slot.confirmed,
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::instant::Instant;
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
            own_only: true,
            applied: Lsn(applied),
        }
    }

    fn seen(confirmed: u64, subscriptions: Vec<Subscription>) -> Seen {
        let slot = SavedSlot { name: "spk".into(), restart: Lsn(1), confirmed: Lsn(confirmed), snap: None };
        Seen { subscriptions, slot: Some(slot), ..Seen::default() }
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
    fn a_slot_that_begins_late_is_to_be_looked_into_where_slots_count() {
        let verdict = judge(&mesh(150, 151), &cut(), false, true);
        assert_eq!((verdict.findings.len(), verdict.windows.len()), (0, 1));
        assert_eq!((verdict.windows[0].applied, verdict.windows[0].begins), (Lsn(150), Lsn(151)));
        assert_eq!(judge(&mesh(150, 151), &cut(), false, false).windows, []);
    }

    #[test]
    fn what_a_window_would_lose_is_found_and_nothing_else() {
        let window =
            Window { node: "n1".into(), provider: "n2".into(), own_only: true, applied: Lsn(100), begins: Lsn(200) };
        let change = |xid| Record { xid, writes: true, ..commit(xid, &[], None, false) };
        let lost = |records: &[(Record, u64)]| {
            let mut seeker = Seeker::default();
            records.iter().any(|(record, end)| seeker.is_lost(record, Lsn(*end), &window))
        };
        // Begun long before, committed within.
        assert!(lost(&[(change(7), 50), (commit(7, &[], None, true), 150)]));
        assert!(lost(&[(change(8), 50), (commit(7, &[8], None, true), 200)]));
        // Applied already, or sent by the slot.
        assert!(!lost(&[(change(7), 50), (commit(7, &[], None, true), 100)]));
        assert!(!lost(&[(change(7), 150), (commit(7, &[], None, true), 201)]));
        // Catalogs only; another node's; an id that is used again.
        assert!(!lost(&[(commit(7, &[], None, true), 150)]));
        assert!(!lost(&[(change(7), 50), (commit(7, &[], Some((1, Lsn(9))), true), 150)]));
        assert!(!lost(&[(change(7), 50), (commit(7, &[], None, true), 60), (commit(7, &[], None, true), 150)]));
    }

    fn commit(xid: u32, subxacts: &[u32], origin: Option<(u32, Lsn)>, commits: bool) -> Record {
        Record {
            lsn: Lsn(0),
            xid,
            subxacts: subxacts.to_vec(),
            writes: false,
            length: 1,
            commit: commits.then_some(Instant(0)),
            origin,
            restore_point: None,
        }
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
