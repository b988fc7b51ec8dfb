//! Waits until each of the two nodes has passed what the other had: nothing is judged before that.

use super::pair::Pair;
use super::reach::{self, Reach};
use crate::counted::counted;
use crate::guc;
use crate::lsn::OriginLsn;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::{interrupts, transaction};
use crate::recover::error::RecoverError;
use crate::tally::compared::{Counts, TOLD};
use pgrx::spi::quote_literal;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

/// A node that answers is not waited for any longer when it has made no progress for so long: then its changes cannot
/// be applied, or a transaction is long.
const STANDSTILL: Duration = Duration::from_secs(60);

/// Like `STANDSTILL`, for rows that will be compared once more: long enough for a change that cannot be applied to fail
/// again, because core restarts an apply worker every wal_retrieve_retry_interval.
const SHORT_STANDSTILL: Duration = Duration::from_secs(12);
/// Like `SHORT_STANDSTILL`, for a node that does not answer.
const SHORT_SILENCE: Duration = Duration::from_secs(2);

/// A source cannot apply what arrives if it has failed before, its apply worker is not running, and it has made no
/// progress for so long: core restarts a worker every wal_retrieve_retry_interval, and one that fails is away for most
/// of that.
const IDLE_STANDSTILL: Duration = Duration::from_secs(3);

/// The time between two looks at the nodes' progress.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long each of the two nodes is waited for, and what was seen while waiting.
#[derive(Default)]
pub struct Waits {
    /// How often the target had failed to apply changes from each node when the comparison began.
    errors: HashMap<String, i64>,
    /// The same counts as they were last read.
    pub(super) errors_now: HashMap<String, i64>,
    /// The nodes whose changes the target has failed to apply since.
    pub(super) stuck: HashSet<String>,
    /// Whether rows that were kept are being compared again. They will be compared once more, so waits are short.
    pub is_hasty: bool,
    /// How long the source and the target, in this order, have made no progress.
    patience: [Patience; 2],
    /// The nodes whose rows the source received late, and has yet to reconcile.
    pub(super) late_at_source: BTreeSet<String>,
}

impl Waits {
    /// Sets the error counts from which later failures of the target are counted.
    pub(super) fn begin(&mut self, ours: &Reach) {
        self.errors.clone_from(&ours.errors);
    }

    /// Waits until the source has passed what the target had, and, if `with_own`, also the target's own changes.
    /// Returns the nodes of whose transactions the source lacks some and gets no more.
    pub(super) fn for_source(
        &mut self,
        pair: &mut Pair<'_>,
        counts: &mut Counts,
        ours: &Reach,
        with_own: bool,
    ) -> Result<BTreeSet<String>, RecoverError> {
        let mut failing = Failing::default();
        loop {
            let theirs = pair.view_source(ours)?;
            let slot = theirs.slots.get(pair.local).map(String::as_str);
            let now = transaction::run(|| reach::of_target(slot))?;
            let mut lacks: BTreeMap<String, OriginLsn> = BTreeMap::new();
            for (node, applied) in &ours.applied {
                let is_asked = node != pair.failed && *node != pair.source_name;
                // A skipped change does not move the origin, so what was received counts too. From a node that sends
                // nothing now, nothing has been skipped since.
                let sends = !ours.disabled.contains(node) && !ours.silent.contains(node);
                let seen = [&ours.received, &ours.passed].map(|seen| seen.get(node).copied().filter(|_| sends));
                let had = seen.into_iter().flatten().fold(*applied, OriginLsn::max);
                if let Some(passed) = theirs.passed.get(node).filter(|passed| is_asked && **passed < had) {
                    lacks.insert(node.clone(), *passed);
                }
            }
            if with_own && now.others_passed.is_none_or(|passed| passed < ours.wal_end) {
                lacks.insert(pair.local.to_owned(), now.others_passed.unwrap_or_default());
            }
            // Three cases are not waited for: a disabled subscription, a source that does not receive from the target,
            // and a source that cannot apply what arrives. They need an administrator, and the rows that depend on them
            // are kept.
            failing.look(&lacks, &theirs);
            self.note_stuck(pair, counts, &failing, &theirs);
            let is_hopeless = |node: &String| {
                now.disabled.contains(node)
                    || theirs.disabled.contains(node)
                    || (node == pair.local && slot.is_none())
                    || failing.stuck.contains(node)
            };
            let awaited = but(&lacks, is_hopeless);
            if !awaited.is_empty() {
                pair.source.ask_pollers()?;
            }
            if self.patience[0].is_over(&awaited, &now.silent, self.is_hasty) {
                let mut lacks: BTreeSet<String> = lacks.into_keys().collect();
                if is_source_late(pair, ours)? {
                    lacks.insert(pair.failed.to_owned());
                }
                self.late_at_source = late_at(pair)?;
                return Ok(lacks);
            }
            latch::wait(Some(LOOK_INTERVAL), WaitEvent::RescueReconcile);
            interrupts::check();
        }
    }

    /// Warns once of each subscription of the source that cannot apply what arrives.
    fn note_stuck(&self, pair: &Pair<'_>, counts: &mut Counts, failing: &Failing, theirs: &Reach) {
        for node in &failing.stuck {
            let name = theirs.subscriptions.get(node).map_or("…", String::as_str);
            let (source, errors) = (&pair.source_name, theirs.errors.get(node).copied().unwrap_or(0));
            let at = theirs.applied.get(node).copied().unwrap_or_default();
            let told = format!("subscription \"{name}\" of node \"{source}\", from node \"{node}\"");
            // A hostile source may report another name each time, so their number is bounded. Rows that were kept are
            // compared every minute, so no warning is given for them.
            if counts.stuck.len() >= TOLD {
                continue;
            }
            if counts.stuck.insert(told.clone()) && !self.is_hasty {
                pgrx::warning!(
                    "{told}, has failed {} and stands at {at}: rows that depend on it are kept and compared when it \
                     has continued; see the log of node \"{source}\" for the cause",
                    counted(errors, "time")
                );
            }
        }
    }

    /// Waits until the target has passed what the source had. Returns the nodes of whose transactions the target lacks
    /// some and gets no more.
    ///
    /// `errors_at_removal`: the target's error counts when rows were last deleted to make room; None if none were.
    pub(super) fn for_target(
        &mut self,
        pair: &mut Pair<'_>,
        theirs: &Reach,
        errors_at_removal: Option<&HashMap<String, i64>>,
    ) -> Result<BTreeSet<String>, RecoverError> {
        loop {
            let ours = pair.view_target()?;
            let before = |node: &String| self.errors.get(node).copied().unwrap_or(0);
            self.stuck =
                ours.errors.iter().filter(|(node, now)| **now > before(node)).map(|(node, _)| node.clone()).collect();
            self.errors_now.clone_from(&ours.errors);
            let mut lacks: BTreeMap<String, OriginLsn> = BTreeMap::new();
            for (node, applied) in &theirs.applied {
                let passed = ours.passed.get(node).copied().unwrap_or_default();
                if node != pair.local && passed < *applied {
                    lacks.insert(node.clone(), passed);
                }
            }
            let confirmed = pair.view_source(&ours)?.others_passed;
            if confirmed.is_none_or(|confirmed| confirmed < theirs.wal_end) {
                lacks.insert(pair.source_name.clone(), confirmed.unwrap_or_default());
            }
            let is_hopeless = |node: &String| {
                node == pair.failed
                    || ours.disabled.contains(node)
                    || !ours.passed.contains_key(node)
                    // After room was made for an incoming change, the change needs a while to arrive.
                    || (self.stuck.contains(node) && errors_at_removal.is_none_or(|before| self.is_in_vain(node, before)))
            };
            let awaited = but(&lacks, is_hopeless);
            if self.patience[1].is_over(&awaited, &ours.silent, self.is_hasty) {
                return Ok(lacks.into_keys().collect());
            }
            latch::wait(Some(LOOK_INTERVAL), WaitEvent::RescueReconcile);
            interrupts::check();
        }
    }

    /// Whether changes from the node have failed again since room was made for them. The first failure since may be of
    /// an attempt that had begun before.
    fn is_in_vain(&self, node: &String, errors_at_removal: &HashMap<String, i64>) -> bool {
        let of = |errors: &HashMap<String, i64>| errors.get(node).copied().unwrap_or(0);
        of(&self.errors_now) >= of(errors_at_removal) + 2
    }
}

/// Whether the source received the failed node's transactions late as well, and has yet to reconcile their rows: it
/// still has its peers hold WAL for them. If there is no other node to ask, both nodes have all that there is.
fn is_source_late(pair: &mut Pair<'_>, ours: &Reach) -> Result<bool, RecoverError> {
    if !pair.has_others {
        return Ok(false);
    }
    let question = format!(
        "SELECT greatest(applied_lsn, passed_lsn) FROM spock.node_positions(true::pg_catalog.bool)
          WHERE origin_node = {}",
        quote_literal(pair.failed)
    );
    let theirs: Option<OriginLsn> = match pair.source.rows(&question, 1)?.first() {
        Some(row) => pair.source.read(row.optional(0))?,
        None => None,
    };
    Ok(theirs.zip(ours.applied.get(pair.failed)).is_some_and(|(theirs, ours)| theirs < *ours))
}

/// The nodes whose rows the source received late, and has yet to reconcile. This is read before rows of the source are,
/// so that these show what is reconciled by then. If there is no other node to ask, both nodes have all that there is
/// of the failed node.
fn late_at(pair: &mut Pair<'_>) -> Result<BTreeSet<String>, RecoverError> {
    let question = "SELECT h.origin_node FROM spock.node_positions(true::pg_catalog.bool) h
          JOIN spock.node_positions(false::pg_catalog.bool) a USING (subscription)
         WHERE h.applied_lsn < a.applied_lsn AND h.origin_node IS NOT NULL";
    let mut late: BTreeSet<String> = BTreeSet::new();
    for row in pair.source.rows(question, 1)? {
        late.insert(pair.source.read(row.value(0))?);
    }
    if !pair.has_others {
        late.remove(pair.failed);
    }
    Ok(late)
}

/// What the source fails to apply, as seen during one wait.
#[derive(Default)]
struct Failing {
    /// By node: the source's error count and its progress when the source was first seen to stand there, and the time
    /// of that.
    seen: HashMap<String, (i64, OriginLsn, Instant)>,
    stuck: BTreeSet<String>,
}

impl Failing {
    fn look(&mut self, lacks: &BTreeMap<String, OriginLsn>, theirs: &Reach) {
        self.stuck.clear();
        for node in lacks.keys() {
            let errors = theirs.errors.get(node).copied().unwrap_or(0);
            let applied = theirs.applied.get(node).copied().unwrap_or_default();
            let first = self.seen.entry(node.clone()).or_insert_with(|| (errors, applied, Instant::now()));
            if first.1 != applied {
                *first = (errors, applied, Instant::now());
            }
            let is_idle = errors > 0 && theirs.idle.contains(node) && first.2.elapsed() >= IDLE_STANDSTILL;
            if errors > first.0 || is_idle {
                self.stuck.insert(node.clone());
            }
        }
    }
}

/// The entries without the nodes from which nothing will arrive: beside those, the others are waited for no longer than
/// alone.
fn but(lacks: &BTreeMap<String, OriginLsn>, is_hopeless: impl Fn(&String) -> bool) -> BTreeMap<String, OriginLsn> {
    lacks.iter().filter(|(node, _)| !is_hopeless(node)).map(|(node, at)| (node.clone(), *at)).collect()
}

/// Waits as long as something moves. What has not moved for too long in one wait is not waited for in the next one.
#[derive(Default)]
struct Patience {
    /// How far the waiting node has got with each node of which it lacks something, and since when.
    lacking: BTreeMap<String, (OriginLsn, Instant)>,
}

impl Patience {
    fn is_over(&mut self, now: &BTreeMap<String, OriginLsn>, silent: &[String], is_hasty: bool) -> bool {
        self.lacking.retain(|node, (at, _)| now.get(node) == Some(at));
        for (node, at) in now {
            self.lacking.entry(node.clone()).or_insert_with(|| (*at, Instant::now()));
        }
        // A node that does not answer may be restarting; one that does answer is slow.
        let limit = |node| match silent.contains(node) {
            true if is_hasty => SHORT_SILENCE,
            false if is_hasty => SHORT_STANDSTILL,
            true => 2 * guc::peer_timeout(),
            false => STANDSTILL,
        };
        // What still moves may be what the others wait for.
        let has_moved = |limit| self.lacking.values().any(|(_, since)| since.elapsed() < limit);
        self.lacking.keys().map(limit).max().is_none_or(|limit| !has_moved(limit))
    }
}
