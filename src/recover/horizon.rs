//! The horizon of a rebuild: a time before which nobody has committed anything that is still to be delivered to the
//! target. Rows of the source that are younger keep their author and commit time, so that a later change and an earlier
//! one are told apart when they arrive; for older rows it is enough that they are older than all that arrives.
//!
//! Each node's commits are bounded by its own clock, from which their times come; so clocks that differ do no harm. Two
//! things bound those that the source's snapshot does not have: what the node itself says of a moment whose WAL the
//! snapshot has, and the time of the node's last commit that the snapshot has.

use super::error::RecoverError;
use super::source::Source;
use crate::intent::rebuild::Pinned;
use crate::lsn::OriginLsn;
use crate::pg::clock::Timestamp;
use crate::remote::error::RemoteError;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// A transaction takes the time of its commit a moment before its record is written (RecordTransactionCommit in xact.c). The
/// moment is some microseconds, unless the process is stopped in between.
const MARGIN: Duration = Duration::from_secs(10);

/// How many of the source's transactions are looked through for the last one of each node: a quarter of a second.
const TRANSACTIONS: u32 = 200_000;

/// The time that the source has for that.
const LIMIT: Duration = Duration::from_secs(30);

/// A node's clock, and the end of its WAL a moment later: what it has committed before that time lies before that end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    pub at: Timestamp,
    pub end: OriginLsn,
}

/// Reads a node's clock.
///
/// # Errors
/// If the node cannot be asked, or gives an unexpected answer.
pub fn read_clock(node: &mut Source) -> Result<Clock, RecoverError> {
    let rows = node.rows(
        "SELECT (extract(epoch FROM pg_catalog.clock_timestamp() - '2000-01-01 00:00:00+00'::pg_catalog.timestamptz) * 1000000)::pg_catalog.int8,
                pg_catalog.pg_current_wal_insert_lsn()",
        2,
    )?;
    let Some(row) = rows.first() else { return Err(node.unexpected("no time")) };
    Ok(Clock { at: Timestamp(node.read(row.value(0))?), end: node.read(row.value(1))? })
}

/// The nodes by the ids of their replication origins on the source.
///
/// # Errors
/// As [`read_clock`].
pub fn origins_there(source: &mut Source) -> Result<HashMap<u16, String>, RecoverError> {
    let rows = source.rows(
        "SELECT origin_node, origin_id FROM spock.node_positions(false::pg_catalog.bool)
          WHERE origin_node IS NOT NULL AND origin_id > 0",
        2,
    )?;
    let read = |row: &crate::remote::row::PeerRow| Ok((source.read(row.value(1))?, source.read(row.value(0))?));
    rows.iter().map(read).collect()
}

/// When each node has committed the last of its transactions that the source's snapshot has, as far as they are among the
/// latest ones. The connection must read that snapshot. Empty if the source does not record commit times.
///
/// # Errors
/// If the source cannot be asked, or gives an unexpected answer.
pub fn last_commits(
    source: &mut Source,
    origins: &HashMap<u16, String>,
) -> Result<BTreeMap<String, Timestamp>, RecoverError> {
    // A transaction id is what the lower 32 bits of its full id say; those of special ids have no commit time.
    let question = format!(
        "SELECT x.roident, pg_catalog.max((extract(epoch FROM x.timestamp - '2000-01-01 00:00:00+00'::pg_catalog.timestamptz) * 1000000)::pg_catalog.int8)
           FROM (SELECT s, pg_catalog.pg_snapshot_xmax(s)::pg_catalog.text::pg_catalog.int8 AS next
                   FROM (SELECT pg_catalog.pg_current_snapshot() AS s OFFSET 0) c OFFSET 0) c,
                LATERAL pg_catalog.generate_series(greatest(c.next - {TRANSACTIONS}, 3), c.next - 1) i,
                LATERAL pg_catalog.pg_xact_commit_timestamp_origin(
                    nullif(i & 4294967295, 0)::pg_catalog.text::pg_catalog.xid) x
          WHERE x.roident > 0 AND pg_catalog.pg_visible_in_snapshot(i::pg_catalog.text::pg_catalog.xid8, c.s)
          GROUP BY x.roident"
    );
    let rows = match source.rows_within(LIMIT, &question, 2) {
        Ok(rows) => rows,
        Err(RecoverError::Remote { error: RemoteError::Peer { .. }, .. }) => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut last: BTreeMap<String, Timestamp> = BTreeMap::new();
    for row in &rows {
        let (origin, at): (u16, i64) = (source.read(row.value(0))?, source.read(row.value(1))?);
        if let Some(node) = origins.get(&origin) {
            let known = last.entry(node.clone()).or_insert(Timestamp(at));
            *known = Timestamp(at).max(*known);
        }
    }
    Ok(last)
}

/// The nodes of whose remaining commits the clocks say too little.
pub fn unbounded<'n>(
    nodes: &'n [String],
    source: &str,
    pinned: &Pinned,
    clocks: &BTreeMap<String, Clock>,
) -> Vec<&'n String> {
    nodes.iter().filter(|node| *node != source && by_clock(node, pinned, clocks).is_none()).collect()
}

fn by_clock(node: &str, pinned: &Pinned, clocks: &BTreeMap<String, Clock>) -> Option<Timestamp> {
    let (clock, has) = (clocks.get(node)?, pinned.vector.get(node)?);
    (clock.end <= *has).then_some(clock.at)
}

/// The horizon, for a target that receives from these nodes. None: of one of them nothing is known.
pub fn of(
    nodes: &[String],
    source: &str,
    pinned: &Pinned,
    clocks: &BTreeMap<String, Clock>,
    last: &BTreeMap<String, Timestamp>,
) -> Option<Timestamp> {
    let bound = |node: &String| match node == source {
        // Nothing was committed while the snapshot was taken.
        true => pinned.at,
        false => by_clock(node, pinned, clocks).max(last.get(node).copied()),
    };
    let bounds: Vec<Timestamp> = nodes.iter().map(bound).collect::<Option<_>>()?;
    let oldest = bounds.into_iter().min()?;
    Some(Timestamp(oldest.0.saturating_sub(MARGIN.as_micros() as i64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn pinned(vector: &[(&str, u64)]) -> Pinned {
        Pinned {
            snapshot: String::new(),
            vector: vector.iter().map(|(node, at)| ((*node).to_owned(), OriginLsn(*at))).collect(),
            pin: String::new(),
            at: Some(Timestamp(1_000 * SECOND)),
            horizon: None,
        }
    }

    fn names(nodes: &[&str]) -> Vec<String> {
        nodes.iter().map(|node| (*node).to_owned()).collect()
    }

    fn horizon(nodes: &[&str], clocks: &[(&str, i64, u64)], last: &[(&str, i64)]) -> Option<i64> {
        let pinned = pinned(&[("n1", 10), ("n3", 30), ("n4", 40)]);
        let clocks: BTreeMap<String, Clock> = clocks
            .iter()
            .map(|(node, at, end)| ((*node).to_owned(), Clock { at: Timestamp(at * SECOND), end: OriginLsn(*end) }))
            .collect();
        let last = last.iter().map(|(node, at)| ((*node).to_owned(), Timestamp(at * SECOND))).collect();
        of(&names(nodes), "n3", &pinned, &clocks, &last).map(|at| at.0 / SECOND)
    }

    #[test]
    fn the_horizon_lies_before_everything_that_may_still_come() {
        // The source itself commits after its snapshot.
        assert_eq!(horizon(&["n3"], &[], &[]), Some(990));
        // A clock counts if the snapshot has all that was committed before.
        assert_eq!(horizon(&["n1", "n3"], &[("n1", 900, 10)], &[]), Some(890));
        assert_eq!(horizon(&["n1", "n3"], &[("n1", 900, 11)], &[]), None);
        // Otherwise the last commit that it has.
        assert_eq!(horizon(&["n1", "n3"], &[("n1", 900, 11)], &[("n1", 700)]), Some(690));
        // The later of the two says more, and the oldest of all nodes decides.
        assert_eq!(horizon(&["n1", "n3"], &[("n1", 900, 10)], &[("n1", 950)]), Some(940));
        assert_eq!(horizon(&["n1", "n3", "n4"], &[("n1", 900, 10), ("n4", 800, 1)], &[]), Some(790));
        // A node whose clock is ahead does not raise it.
        assert_eq!(horizon(&["n1", "n3"], &[("n1", 5_000, 10)], &[]), Some(990));
        // A node that the source does not receive from, or of which nothing is known.
        assert_eq!(horizon(&["n3", "n5"], &[("n5", 900, 0)], &[]), None);
        assert_eq!(horizon(&[], &[], &[]), None);
    }

    #[test]
    fn who_is_not_bounded_by_a_clock_is_looked_for() {
        let clocks = BTreeMap::from([("n1".to_owned(), Clock { at: Timestamp(1), end: OriginLsn(11) })]);
        let nodes = names(&["n1", "n3", "n4"]);
        let found = unbounded(&nodes, "n3", &pinned(&[("n1", 10), ("n4", 40)]), &clocks);
        assert_eq!(found, ["n1", "n4"]);
        assert!(unbounded(&nodes[..2], "n3", &pinned(&[("n1", 11)]), &clocks).is_empty());
    }
}
