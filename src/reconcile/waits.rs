//! Until each of the two nodes has passed what the other had: before that nothing is judged.

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

/// So long nothing of a node that answers may move: its changes cannot be applied, or a transaction is long.
const STANDSTILL: Duration = Duration::from_secs(60);

/// The same, of rows that will be looked at once more: of a node that answers, long enough for what cannot be applied to fail
/// again (core's worker starts anew every wal_retrieve_retry_interval); and of one that does not.
const SHORT_STANDSTILL: Duration = Duration::from_secs(12);
const SHORT_SILENCE: Duration = Duration::from_secs(2);

/// A source whose worker has failed before, does not run, and gets no further for so long cannot apply what comes: core starts a
/// worker anew every wal_retrieve_retry_interval, and one that fails is away for most of that.
const IDLE_STANDSTILL: Duration = Duration::from_secs(3);

/// Between two looks at how far the nodes are.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How far each of the two is waited for, and what was seen on the way.
#[derive(Default)]
pub struct Waits {
    /// How often the target could not apply what came from a node, when this began, and now.
    errors: HashMap<String, i64>,
    pub(super) errors_now: HashMap<String, i64>,
    /// The nodes of which it could not apply something since.
    pub(super) stuck: HashSet<String>,
    /// Rows that were kept are looked at again, as they will be once more: nobody is waited for as long.
    pub is_hasty: bool,
    /// For how long the source and the target get no further.
    patience: [Patience; 2],
    /// The nodes of which the source has rows that came late, and has yet to make good.
    pub(super) late_at_source: BTreeSet<String>,
}

impl Waits {
    /// What the target failed to apply before this is nothing that is waited for.
    pub(super) fn begin(&mut self, ours: &Reach) {
        self.errors.clone_from(&ours.errors);
    }

    /// Waits until the source has passed what the target had, with the target's own changes or without; of whom it does not,
    /// where it gets no further.
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
                // What was skipped has not moved the origin; of who sends nothing now nothing was skipped since.
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
            // What is disabled is not waited for, nor a source that does not receive from here, or cannot apply what comes: that
            // needs a person, and what depends on it is kept.
            failing.look(&lacks, &theirs);
            self.note_stuck(pair, counts, &failing, &theirs);
            let is_hopeless = |node: &String| {
                now.disabled.contains(node)
                    || theirs.disabled.contains(node)
                    || (node == pair.local && slot.is_none())
                    || failing.stuck.contains(node)
            };
            if self.patience[0].is_over(&but(&lacks, is_hopeless), &now.silent, self.is_hasty) {
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

    /// Tells of the source's subscriptions that cannot apply what comes, each once.
    fn note_stuck(&self, pair: &Pair<'_>, counts: &mut Counts, failing: &Failing, theirs: &Reach) {
        for node in &failing.stuck {
            let name = theirs.subscriptions.get(node).map_or("…", String::as_str);
            let (source, errors) = (&pair.source_name, theirs.errors.get(node).copied().unwrap_or(0));
            let at = theirs.applied.get(node).copied().unwrap_or_default();
            let told = format!("subscription \"{name}\" of node \"{source}\", from node \"{node}\"");
            // Rows that were kept are looked at every minute.
            // A hostile source may call it otherwise each time.
            if counts.stuck.len() >= TOLD {
                continue;
            }
            if counts.stuck.insert(told.clone()) && !self.is_hasty {
                pgrx::warning!(
                    "{told}, has failed {} and stands at {at}: rows that depend on it are kept, and judged when it has gone on; the \
                     log of node \"{source}\" says what is in the way",
                    counted(errors, "time")
                );
            }
        }
    }

    /// Waits until the target has passed what the source had; of whom it does not, where it gets no further.
    ///
    /// `errors_at_removal`: how often the target had failed when room was last made for what comes; None where none was made.
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
                    // Where room was made for what comes, it needs a while to come.
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

    /// What comes from the node has failed again since room was made for it: once it may have been at it before.
    fn is_in_vain(&self, node: &String, errors_at_removal: &HashMap<String, i64>) -> bool {
        let of = |errors: &HashMap<String, i64>| errors.get(node).copied().unwrap_or(0);
        of(&self.errors_now) >= of(errors_at_removal) + 2
    }
}

/// Whether what the source has of the failed node came late there as well, and is not made good yet: it holds its peers'
/// WAL for it. Where there is nobody else to ask, both have what there is.
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

/// The nodes of which the source has rows that came late, and has yet to make good. Before rows of the source are read: what is made good by then they show. Where there is nobody else to ask, both have
/// what there is of the failed node.
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

/// What the source cannot apply, as seen during one wait.
#[derive(Default)]
struct Failing {
    /// How often it had failed, and how far it was, when it was first seen to lack something of a node; and when that was.
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

/// Without those of whom nothing will come: beside them the others are waited for no longer than alone.
fn but(lacks: &BTreeMap<String, OriginLsn>, is_hopeless: impl Fn(&String) -> bool) -> BTreeMap<String, OriginLsn> {
    lacks.iter().filter(|(node, _)| !is_hopeless(node)).map(|(node, at)| (node.clone(), *at)).collect()
}

/// Waits as long as something moves. What has not moved for too long in one wait is not waited for in the next.
#[derive(Default)]
struct Patience {
    /// How far the nodes are that somebody lacks something of, and since when.
    lacking: BTreeMap<String, (OriginLsn, Instant)>,
}

impl Patience {
    fn is_over(&mut self, now: &BTreeMap<String, OriginLsn>, silent: &[String], is_hasty: bool) -> bool {
        self.lacking.retain(|node, (at, _)| now.get(node) == Some(at));
        for (node, at) in now {
            self.lacking.entry(node.clone()).or_insert_with(|| (*at, Instant::now()));
        }
        // One that does not answer may be starting again; one that does is slow.
        let limit = |node| match silent.contains(node) {
            true if is_hasty => SHORT_SILENCE,
            false if is_hasty => SHORT_STANDSTILL,
            true => 2 * guc::peer_timeout(),
            false => STANDSTILL,
        };
        // What moves may be what the others wait for.
        let has_moved = |limit| self.lacking.values().any(|(_, since)| since.elapsed() < limit);
        self.lacking.keys().map(limit).max().is_none_or(|limit| !has_moved(limit))
    }
}
