//! Compares the rows that a replay has touched with the source's, and writes what the source has of a later version.
//!
//! A row is judged when neither node has anything of the other's still to come that bears on it: the source has passed what
//! the target had when its row was read, and the target what the source had when its was. Then the target's row is locked,
//! and judged only if it is still the same. Where the target has no row to lock, the source's is read once more after ours
//! is in place: what it does to it after that finds ours.

use super::ask::Side;
use super::bring::Removed;
use super::compare::HASHED;
use super::judge::{self, Author, Found, Passed, Replay, Verdict};
use super::kept::Keeper;
use super::rows::{KeyText, Rows, columns_of, there};
use super::views::{self, View};
use super::waits::Patience;
use crate::apply::touched::Touched;
use crate::guc::{self, Policy};
use crate::intent::document::Intent;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::pg::apply_as::ApplyAs;
use crate::pg::{commit_ts, interrupts, origin, transaction, untrusted_user};
use crate::recover::error::RecoverError;
use crate::recover::source::Source;
use crate::tally::compared::{Counts, Why};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Rows that are asked for at once.
pub(super) const CHUNK: usize = 500;

/// Rows that differ and are looked at closer together, for each closer look waits for both nodes; and what they take in memory,
/// once and as a copy.
const CLOSER: usize = 5_000;
const CLOSER_BYTES: usize = 8 << 20;

/// Closer looks at a row that changes under our hands.
const LOOKS: u32 = 20;

/// Who is reconciled with whom.
pub struct Reconciler<'a> {
    pub(super) source: Source,
    pub(super) source_name: String,
    pub(super) local: &'a str,
    pub(super) failed: &'a str,
    /// The first transaction here that may have replayed something.
    pub(super) since: u32,
    pub(super) apply_as: ApplyAs,
    /// The nodes that the source receives from, by their replication origins there; and those of the target.
    pub(super) origins: HashMap<u16, String>,
    pub(super) own_origins: HashMap<u16, String>,
    /// The target's origin of its reconciles.
    pub(super) own_reconcile: Option<u16>,
    /// The target's tables by the nodes that it replicates them from.
    pub(super) tables: HashMap<String, HashSet<u32>>,
    /// How often it could not apply what came from a node, when this began.
    pub(super) errors: HashMap<String, i64>,
    /// The nodes of which it could not apply something since.
    pub(super) stuck: HashSet<String>,
    pub(super) removed: Removed,
    /// How often it could not apply what came from a node, now and when the last of them was taken away.
    pub(super) errors_now: HashMap<String, i64>,
    pub(super) errors_at_removal: HashMap<String, i64>,
    /// What was taken away in vain stays away until rows of other recoveries were looked at: one transaction may wait for
    /// several of them.
    pub holds_removed: bool,
    held: Vec<Difference>,
    pub counts: Counts,
    /// The rows that were left, and may be judged another time.
    pub kept: Keeper,
    /// The rows at hand are those that a node's own recovery has deleted there.
    is_of_gone: bool,
    /// Rows that were kept are looked at again, as they will be once more: nobody is waited for as long.
    pub is_hasty: bool,
    /// There are nodes beside these two and the failed one: what neither of these two can tell, one of them may.
    pub has_others: bool,
    /// For how long the source and the target get no further.
    pub(super) patience: [Patience; 2],
    /// The nodes of which the source lacks something that the target had, and may have skipped.
    pub behind: BTreeSet<String>,
    /// The nodes of which the source has rows that came late, and has yet to make good.
    pub(super) late_at_source: BTreeSet<String>,
    /// The source has something else than the failed node's version of a row, or nothing: others may have given it another
    /// key.
    pub may_have_moved: bool,
}

/// A row that differs.
pub(super) struct Difference {
    pub(super) relation: u32,
    pub(super) key: KeyText,
    /// What both nodes' rows took in memory when they were compared.
    pub(super) rows_bytes: usize,
}

#[derive(Default)]
pub(super) struct Differences {
    rows: Vec<Difference>,
    bytes: usize,
}

impl Differences {
    pub(super) fn push(&mut self, difference: Difference) {
        self.bytes += difference.rows_bytes;
        self.rows.push(difference);
    }

    /// No more are to be looked at together.
    pub(super) fn are_many(&self) -> bool {
        self.rows.len() >= CLOSER || self.bytes >= CLOSER_BYTES
    }
}

impl<'a> Reconciler<'a> {
    /// The rows that the recovery of `intent` has touched on this node, with those of its source.
    pub fn new(source: Source, intent: &'a Intent, apply_as: ApplyAs) -> Reconciler<'a> {
        Reconciler {
            source_name: source.name().to_owned(),
            source,
            local: &intent.request.target,
            failed: &intent.request.failed,
            since: intent.since_transaction,
            apply_as,
            origins: HashMap::new(),
            own_origins: HashMap::new(),
            own_reconcile: None,
            tables: HashMap::new(),
            errors: HashMap::new(),
            stuck: HashSet::new(),
            removed: Removed::default(),
            errors_now: HashMap::new(),
            errors_at_removal: HashMap::new(),
            holds_removed: false,
            held: Vec::new(),
            counts: Counts::default(),
            kept: Keeper::default(),
            is_of_gone: false,
            is_hasty: false,
            has_others: false,
            patience: Default::default(),
            behind: BTreeSet::new(),
            late_at_source: BTreeSet::new(),
            may_have_moved: false,
        }
    }
}

impl Reconciler<'_> {
    /// Whether the source has all that the target has of the failed node; None if one of them does not subscribe to it.
    pub fn source_has_enough(&mut self) -> Result<Option<bool>, RecoverError> {
        let ours = self.view_target()?;
        let theirs = self.view_source(&ours)?;
        let both = theirs.passed.get(self.failed).zip(ours.applied.get(self.failed));
        Ok(both.map(|(theirs, ours)| theirs >= ours))
    }

    /// Whether the source may have written of its own what others did, as another key, for it was recovered itself.
    pub fn source_was_recovered(&mut self) -> Result<bool, RecoverError> {
        Ok(self.source.reconcile_origin()?.is_some())
    }

    /// Compares all of them. False: `goes_on` has said no.
    pub fn run(
        &mut self,
        touched: &mut Touched,
        mut goes_on: impl FnMut(&Counts) -> bool,
    ) -> Result<bool, RecoverError> {
        touched.rewind();
        self.leave_missing(touched);
        if matches!(guc::rescue_conflict_resolution(), Policy::ApplyRemote | Policy::KeepLocal) {
            self.counts.leave(Why::Policy, touched.count() as usize);
            return Ok(true);
        }
        let theirs = self.source.read_one("SHOW track_commit_timestamp")?;
        if !commit_ts::is_tracked() || theirs.as_deref() != Some("on") {
            self.counts.leave(Why::NoCommitTimestamps, touched.count() as usize);
            return Ok(true);
        }
        // What the target has skipped for lack of a row, the source must have: then what they have alike is alike for good.
        let ours = self.view_target()?;
        self.errors.clone_from(&ours.errors);
        self.tables = transaction::run(views::tables)?;
        self.own_reconcile = Some(transaction::run(origin::of_reconcile));
        let among = [self.local, self.failed, self.source_name.as_str()];
        let peers = transaction::run(|| NativeProvider.peers())?;
        self.has_others = peers.iter().any(|peer| !among.contains(&peer.name.as_str()));
        let behind = self.wait_for_source(&ours, false)?;
        self.behind.extend(behind.iter().filter(|node| *node != self.failed).cloned());
        let mut differences = Differences::default();
        loop {
            let keys = touched.next_sorted();
            if keys.is_empty() {
                self.look_closer(touched, differences)?;
                return Ok(goes_on(&self.counts));
            }
            for of_table in keys.chunk_by(|one, other| one.relation == other.relation) {
                for chunk in of_table.chunks(HASHED) {
                    if !self.compare(touched, chunk, &behind, &mut differences, &mut goes_on)? {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// As `run`, of rows that a node's own recovery has deleted there.
    pub fn run_gone(&mut self, gone: &mut Touched, goes_on: impl FnMut(&Counts) -> bool) -> Result<bool, RecoverError> {
        if gone.count() == 0 {
            return Ok(true);
        }
        self.is_of_gone = true;
        let done = self.run(gone, goes_on);
        self.is_of_gone = false;
        done
    }

    /// A row stays as it is.
    pub(super) fn leave(&mut self, touched: &Touched, relation: u32, key: &KeyText, why: Why) {
        self.counts.leave(why, 1);
        if why.may_pass()
            && let Some(columns) = columns_of(touched, relation)
        {
            self.kept.add(&columns, why, key, self.is_of_gone);
        }
    }

    /// Judges rows that differ, each as soon as it may be.
    pub(super) fn look_closer(&mut self, touched: &Touched, differences: Differences) -> Result<(), RecoverError> {
        let mut open = differences.rows;
        for _ in 0..LOOKS {
            if open.is_empty() {
                return Ok(());
            }
            interrupts::check();
            let mut relations: BTreeMap<u32, Vec<KeyText>> = BTreeMap::new();
            for difference in open.drain(..) {
                relations.entry(difference.relation).or_default().push(difference.key);
            }
            let mut target: HashMap<u32, Rows> = HashMap::new();
            for (relation, keys) in &mut relations {
                target.insert(*relation, self.rows_of(Side::Target, touched, *relation, keys)?);
            }
            // After the rows: all that made them what they are is within.
            let ours = self.view_target()?;
            let source_lacks = self.wait_for_source(&ours, true)?;
            let mut source: HashMap<u32, Rows> = HashMap::new();
            for (relation, keys) in &mut relations {
                source.insert(*relation, self.rows_of(Side::Source, touched, *relation, keys)?);
            }
            let theirs = self.view_source(&ours)?;
            let target_lacks = self.wait_for_target(&theirs)?;
            let mut found = Vec::new();
            for (relation, keys) in relations {
                let (Some(source), Some(target)) = (source.get(&relation), target.get(&relation)) else { continue };
                for key in keys {
                    let (Some(source), Some(target)) = (there(source, &key), there(target, &key)) else {
                        self.counts.leave(Why::NotComparable, 1);
                        continue;
                    };
                    let verdict = match judge::judge(source, target, self.replay()) {
                        Verdict::Delete if !self.source_knows_author(target, &theirs) => Verdict::Keep,
                        verdict => verdict,
                    };
                    let (source, target) = (source.cloned(), target.cloned());
                    let rows_bytes = [&source, &target].into_iter().flatten().map(Found::kept_bytes).sum();
                    found.push((verdict, Difference { relation, key, rows_bytes }, source, target));
                }
            }
            let deleted = found.iter().filter(|(verdict, ..)| *verdict == Verdict::Delete);
            let without_place = self.without_place(touched, deleted.map(|(_, difference, ..)| difference))?;
            // What goes first makes room for what comes.
            found.sort_by_key(|(verdict, ..)| match verdict {
                Verdict::Delete => 0,
                Verdict::Update => 1,
                _ => 2,
            });
            for (verdict, difference, source, target) in found {
                if target.is_some() {
                    self.removed.forget(&difference);
                }
                if verdict == Verdict::Delete && without_place.contains(&(difference.relation, difference.key.clone()))
                {
                    self.leave(touched, difference.relation, &difference.key, Why::Refused);
                    continue;
                }
                let must_write = matches!(verdict, Verdict::Insert | Verdict::Update | Verdict::Delete);
                let rows = (source.as_ref(), target.as_ref());
                let lacks = match self.lacks(verdict, rows, &source_lacks, &target_lacks) {
                    None if must_write && !self.is_replicated(touched, difference.relation, source.as_ref()) => {
                        Some(Why::NotReplicated)
                    }
                    lacks => lacks,
                };
                let late = target.as_ref().filter(|target| self.replay().has_written(target));
                if let Some(late) = late.filter(|_| self.is_stuck(verdict, source.as_ref(), &target_lacks)) {
                    // What comes from that node may be an INSERT for which what came late leaves no room. It is judged
                    // again when that has come.
                    self.take_away(touched, &difference, late, &theirs)?;
                    open.push(difference);
                    continue;
                }
                match (lacks, verdict) {
                    // The later version is the target's: nothing that is still to come bears on that.
                    (_, Verdict::Keep) | (None, Verdict::Settled) => self.counts.compared += 1,
                    (Some(_), _) if self.holds_removed && self.removed.has(&difference) => self.held.push(difference),
                    (Some(why), _) => {
                        self.leave(touched, difference.relation, &difference.key, why);
                        self.put_back(touched, &difference, target.as_ref(), &theirs);
                    }
                    (None, Verdict::OfUnknownAge) => self.counts.leave(Why::UnknownAge, 1),
                    (None, Verdict::Insert | Verdict::Update | Verdict::Delete) => {
                        let did =
                            self.bring(touched, &difference, verdict, rows, &theirs, verdict == Verdict::Insert)?;
                        if self.count_brought(touched, &difference, verdict, did) {
                            open.push(difference);
                        }
                    }
                }
            }
            untrusted_user::leave_session();
        }
        for difference in &open {
            self.leave(touched, difference.relation, &difference.key, Why::Busy);
        }
        let theirs = View::default();
        for difference in open {
            self.put_back(touched, &difference, None, &theirs);
        }
        untrusted_user::leave_session();
        Ok(())
    }

    /// Something was taken away in vain until now.
    pub fn holds_something(&self) -> bool {
        !self.held.is_empty()
    }

    /// Looks once more at what was taken away, and puts it back where that was in vain.
    pub fn let_held_go(&mut self, touched: &Touched) -> Result<(), RecoverError> {
        self.holds_removed = false;
        let mut together = Differences::default();
        for difference in std::mem::take(&mut self.held) {
            together.push(difference);
            if together.are_many() {
                self.look_closer(touched, std::mem::take(&mut together))?;
            }
        }
        self.look_closer(touched, together)
    }

    /// What stands in the way of a verdict: something of one node that the other has not passed.
    fn lacks(
        &self,
        verdict: Verdict,
        (source, target): (Option<&Found>, Option<&Found>),
        source_lacks: &BTreeSet<String>,
        target_lacks: &BTreeSet<String>,
    ) -> Option<Why> {
        // Where the target has a row, what the source lacks of it shows in that row's version.
        let source_lags = match verdict {
            Verdict::Insert => !source_lacks.is_empty(),
            // The target may have had the source's version, and have done away with it before a late one came to its place.
            Verdict::Update if target.is_some_and(|target| self.replay().has_written(target)) => {
                !source_lacks.is_empty()
            }
            // What the source has yet to get of others the target may have skipped: of its own changes it has skipped none.
            Verdict::Settled | Verdict::Update => source_lacks.iter().any(|node| node != self.local),
            // It is another's version, which the source has had and lost for good if it lacks nothing.
            Verdict::Delete if target.is_some_and(|target| !self.replay().has_written(target)) => {
                !source_lacks.is_empty() || !self.late_at_source.is_empty()
            }
            // It has all of the failed node, and maybe not what was brought from another source.
            Verdict::Delete if is_brought(target) => source_lacks.iter().any(|node| node != self.local),
            _ => false,
        };
        // What came late there may be what others have deleted or changed, which the source has skipped.
        let is_late = match source.and_then(|source| source.committed.as_ref()) {
            Some((_, Author::Node(node))) => node != self.failed && self.late_at_source.contains(node),
            // Its own recovery has brought it, or put it back.
            Some(_) => !self.late_at_source.is_empty(),
            None => false,
        };
        if source_lags || (is_late && matches!(verdict, Verdict::Insert | Verdict::Update)) {
            return Some(Why::SourceLags);
        }
        let is_behind = match judge::must_be_passed(source) {
            Passed::Of(node) => target_lacks.contains(node),
            Passed::OfEverybody => !target_lacks.is_empty(),
        };
        is_behind.then_some(Why::TargetLags)
    }

    /// Whether the target is to have what the author of the source's version does to the table; of what the source does not
    /// have it is the source itself.
    fn is_replicated(&self, touched: &Touched, relation: u32, source: Option<&Found>) -> bool {
        let author = match source.and_then(|source| source.committed.as_ref()) {
            Some((_, Author::Node(node))) => node,
            _ => &self.source_name,
        };
        let Some(table) = touched.table(relation) else { return false };
        author == self.local || self.tables.get(author).is_some_and(|tables| tables.contains(&table))
    }

    /// Whether the target fails again and again to apply what comes from the author of the source's later version; or, where
    /// the source has none, from anybody: it may have come and gone there.
    fn is_stuck(&self, verdict: Verdict, source: Option<&Found>, target_lacks: &BTreeSet<String>) -> bool {
        let is_stuck = |node: &String| self.stuck.contains(node) && target_lacks.contains(node);
        match (verdict, source.and_then(|source| source.committed.as_ref())) {
            (Verdict::Update, Some((_, Author::Node(node)))) => is_stuck(node),
            (Verdict::Delete, _) => target_lacks.iter().any(is_stuck),
            _ => false,
        }
    }

    pub(super) fn replay(&self) -> Replay<'_> {
        Replay { failed: self.failed, since: self.since, is_of_gone: self.is_of_gone }
    }

    /// Whether the source has had a version of the target's if it has passed its author: what the replay wrote it has, of others
    /// what it receives, and what it has written itself.
    fn source_knows_author(&self, target: Option<&Found>, theirs: &View) -> bool {
        target.is_none_or(|target| {
            self.replay().has_written(target)
                || match &target.committed {
                    Some((_, Author::Node(author))) => {
                        *author == self.source_name || theirs.passed.contains_key(author)
                    }
                    _ => false,
                }
        })
    }
}

fn is_brought(target: Option<&Found>) -> bool {
    matches!(target.and_then(|target| target.committed.as_ref()), Some((_, Author::Reconcile)))
}
