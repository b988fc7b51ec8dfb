//! The ways to rebuild a target that cannot be recovered out of WAL, each with an estimate (pure).

use super::Plan;
use super::facts::NodeFacts;
use super::outcome::Outcome;
use serde::Serialize;

/// Bytes of a table per second, on two cores and local disks (docs/performance.md): a table on both nodes is hashed at
/// once; rows are copied in one stream; files are copied.
const COMPARED_PER_S: u64 = 120 << 20;
const COPIED_PER_S: u64 = 40 << 20;
const FILES_PER_S: u64 = 200 << 20;

/// One way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Way {
    pub method: &'static str,
    /// None: the nodes do not tell how large their tables are.
    pub seconds: Option<u64>,
    /// What is read on the source.
    pub bytes: Option<u64>,
    /// Why it cannot be done; None: it can.
    pub why_not: Option<String>,
}

/// The ways for a target. None: nothing has to be rebuilt, or nothing is known of the target.
pub fn ways(plan: &Plan, target: &NodeFacts, source: Option<&NodeFacts>) -> Option<Vec<Way>> {
    if plan.outcome != Some(Outcome::NeedsRebuild) {
        return None;
    }
    let bytes = source.and_then(|source| source.table_bytes);
    let held = target.table_bytes;
    let no_source = || source.is_none().then(|| "no survivor is known that could be the source".to_owned());
    let is_running = || {
        let running = target.recoveries.first()?;
        Some(format!("a recovery of node \"{}\" is running on node \"{}\"", running.failed, target.node))
    };
    let is_empty = || (held == Some(0)).then(|| format!("the tables of node \"{}\" are empty", target.node));
    let seconds = |per_s: u64, bytes: Option<u64>| bytes.map(|bytes| 1 + bytes / per_s);
    let larger = bytes.map(|bytes| bytes.max(held.unwrap_or(0)));
    Some(vec![
        Way {
            method: "compare",
            seconds: seconds(COMPARED_PER_S, larger),
            bytes,
            why_not: no_source().or_else(is_running).or_else(is_empty),
        },
        Way { method: "copy", seconds: seconds(COPIED_PER_S, bytes), bytes, why_not: no_source().or_else(is_running) },
        Way { method: "base", seconds: seconds(FILES_PER_S, bytes), bytes, why_not: no_source() },
    ])
}

#[cfg(test)]
mod tests {
    use super::super::outcome::Reason;
    use super::super::sample::node;
    use super::*;

    #[test]
    fn each_way_has_its_estimate_or_says_why_not() {
        let plan = Plan::without_source("n1", "n2", Some(Outcome::NeedsRebuild), Reason::ReleasedBeyondTarget);
        let (mut ours, mut theirs) = (node("n2", 20), node("n3", 90));
        ours.table_bytes = Some(0);
        theirs.table_bytes = Some(400 << 20);
        let found = ways(&plan, &ours, Some(&theirs)).unwrap_or_default();
        let seen: Vec<_> = found.iter().map(|way| (way.method, way.seconds, way.why_not.is_none())).collect();
        assert_eq!(seen, [("compare", Some(4), false), ("copy", Some(11), true), ("base", Some(3), true)]);
        let without = ways(&plan, &ours, None).unwrap_or_default();
        assert!(without.iter().all(|way| way.why_not.is_some() && way.seconds.is_none()));
        let level = Plan::without_source("n1", "n2", Some(Outcome::ZeroGap), Reason::NothingMissing);
        assert_eq!(ways(&level, &ours, Some(&theirs)), None);
    }
}
