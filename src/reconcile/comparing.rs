//! The closer look at keys that a comparison of tables (src/compare) has found to differ, between two nodes that are
//! both written to.
//!
//! A row is judged as after a recovery: the source has passed what the target had when the target's row was read, and
//! then the target has passed what the source had when the source's row was read. The target's row is then read once
//! more. If it is still the same version, nothing that was on its way bears on the row, and the two nodes differ.
//! Otherwise the row is looked at again.

use super::ask::Side;
use super::closer::{Both, CloserLook, Judged, writer};
use super::difference::Difference;
use super::judge::{Author, Found, Verdict};
use super::ledger::Ledger;
use super::pair::Pair;
use super::removed::Removed;
use super::rows::{KeyText, there};
use super::waits::Waits;
use super::write::Did;
use crate::apply::touched::{Relation, Touched};
use crate::compare::found::{self, Kind};
use crate::compare::table::Table;
use crate::pg::apply_as::ApplyAs;
use crate::pg::clock::Timestamp;
use crate::pg::{interrupts, logicalrep, transaction, untrusted_user};
use crate::recover::error::RecoverError;
use crate::recover::source::Source;
use crate::tally::compared::Why;
use std::collections::{BTreeMap, HashMap};

/// The number of closer looks at a row that changes each time.
const LOOKS: u32 = 20;

/// What is to be said of a row in which the nodes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This node has the later version.
    Here,
    /// The other node has the later version.
    There,
    /// The other node's later version was written here.
    Repaired,
    /// Both nodes have the same version of the row, with other values.
    SameVersion,
    /// The age of neither version is known.
    UnknownAge,
    /// It cannot be told now whether the nodes differ.
    Undecided(Why),
}

impl Outcome {
    /// The word for it in compare_differences().
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Here => "here",
            Outcome::There => "there",
            Outcome::Repaired => "repaired",
            Outcome::SameVersion => "same_version",
            Outcome::UnknownAge => "unknown_age",
            Outcome::Undecided(why) => why.name(),
        }
    }
}

/// When a version was committed and by which node, as far as that is known.
pub type Stamp = Option<(Timestamp, Option<String>)>;

/// A row in which the nodes differ, or may differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub key: KeyText,
    pub kind: Kind,
    pub here: Stamp,
    pub there: Stamp,
    pub outcome: Outcome,
}

/// Judges rows of this node, which is the target, and of another one, which is the source.
pub struct Judge<'a> {
    pair: Pair<'a>,
    waits: Waits,
    ledger: Ledger,
    removed: Removed,
    touched: Touched,
    apply_as: ApplyAs,
}

/// What is left after a look at rows: those that must be looked at again, and those that could not be read.
struct Looked {
    again: Vec<KeyText>,
    unread: Vec<(KeyText, Why)>,
}

/// What a look has told of a row.
enum Seen {
    Alike,
    Again,
    Differs(Outcome),
}

impl<'a> Judge<'a> {
    pub fn new(source: Source, local: &'a str, apply_as: ApplyAs) -> Judge<'a> {
        let mut waits = Waits::default();
        waits.is_hasty = true;
        Judge {
            pair: Pair::without_recovery(source, local),
            waits,
            ledger: Ledger::default(),
            removed: Removed::default(),
            touched: Touched::default(),
            apply_as,
        }
    }

    fn closer(&mut self) -> CloserLook<'_, 'a> {
        CloserLook {
            pair: &mut self.pair,
            waits: &mut self.waits,
            ledger: &mut self.ledger,
            removed: &mut self.removed,
            touched: &self.touched,
            apply_as: self.apply_as,
        }
    }
}

impl Judge<'_> {
    /// Reads what does not change while rows are compared. Once, before anything else.
    ///
    /// # Errors
    /// The source cannot be asked, or gives an unexpected answer. The same holds for the functions below.
    pub fn begin(&mut self) -> Result<(), RecoverError> {
        let ours = self.pair.view_target()?;
        self.waits.begin(&ours);
        self.pair.learn()?;
        self.pair.view_source(&ours).map(drop)
    }

    pub fn source(&mut self) -> &mut Source {
        &mut self.pair.source
    }

    /// Makes a table known under a number. Returns false if rows of it cannot be found by its key.
    pub fn learn_table(&mut self, number: u32, table: &Table) -> bool {
        transaction::run(|| {
            logicalrep::announce(number, &table.schema, &table.name, &table.columns, &table.key);
            let (schema, name, columns) = (table.schema.clone(), table.name.clone(), table.columns.clone());
            self.touched.note_relation(number, Relation { schema, name, columns });
            self.touched.learn_key(number).is_some_and(|known| known.columns == table.key)
        })
    }

    /// Looks closer at keys of a table that seemed to differ, and passes those that do to `see`. With `repair`, the
    /// source's later versions are written here, each in a transaction of its own; the process is set up for that.
    pub fn judge(
        &mut self,
        number: u32,
        keys: &[found::Found],
        repair: bool,
        mut see: impl FnMut(Finding),
    ) -> Result<(), RecoverError> {
        let kinds: HashMap<&KeyText, Kind> = keys.iter().map(|found| (&found.key, found.kind)).collect();
        let mut open: Vec<KeyText> = kinds.keys().map(|key| (*key).clone()).collect();
        let undecided = |key: KeyText, why| {
            let kind = kinds.get(&key).copied().unwrap_or(Kind::Different);
            Finding { key, kind, here: None, there: None, outcome: Outcome::Undecided(why) }
        };
        for _ in 0..LOOKS {
            if open.is_empty() {
                return Ok(());
            }
            interrupts::check();
            let Looked { again, unread } = self.look_once(number, open, repair, &mut see)?;
            unread.into_iter().for_each(|(key, why)| see(undecided(key, why)));
            open = again;
            untrusted_user::leave_session();
        }
        open.into_iter().for_each(|key| see(undecided(key, Why::Busy)));
        Ok(())
    }

    /// Looks at rows once.
    fn look_once(
        &mut self,
        number: u32,
        open: Vec<KeyText>,
        repair: bool,
        see: &mut impl FnMut(Finding),
    ) -> Result<Looked, RecoverError> {
        let differences = open.iter().map(|key| Difference { relation: number, key: key.clone(), rows_bytes: 0 });
        let mut closer = self.closer();
        let both = closer.read_both(differences.collect())?;
        let (alike, judged): (Vec<_>, Vec<_>) = closer.judge_all(&both).into_iter().partition(is_alike);
        let mut unread: HashMap<KeyText, Why> = open.into_iter().map(|key| (key, Why::NotComparable)).collect();
        for judged in alike.iter().chain(&judged) {
            unread.remove(&judged.difference.key);
        }
        let left: Vec<KeyText> = judged.iter().map(|judged| judged.difference.key.clone()).collect();
        let mut keys = BTreeMap::from([(number, left)]);
        let now = if judged.is_empty() { HashMap::new() } else { closer.read(Side::Target, &mut keys)? };
        let mut again = Vec::new();
        for judged in judged {
            let key = judged.difference.key.clone();
            let transaction = |found: Option<&Found>| found.map(|found| found.transaction);
            let now = now.get(&number).and_then(|rows| there(rows, &key));
            let is_as_it_was = now.is_some_and(|now| transaction(now) == transaction(judged.rows().1));
            let seen = if is_as_it_was { self.settle(&judged, &both, repair)? } else { Seen::Again };
            match seen {
                Seen::Alike => (),
                Seen::Again => again.push(key),
                Seen::Differs(outcome) => see(finding(&judged, outcome)),
            }
        }
        Ok(Looked { again, unread: unread.into_iter().collect() })
    }

    fn settle(&mut self, judged: &Judged, both: &Both, repair: bool) -> Result<Seen, RecoverError> {
        let (source, target) = judged.rows();
        let (verdict, relation) = (judged.verdict, judged.difference.relation);
        if let Some(why) = self.lacks(judged, both) {
            return Ok(Seen::Differs(Outcome::Undecided(why)));
        }
        let must_write = matches!(verdict, Verdict::Insert | Verdict::Update);
        let is_meant_for_both = match must_write {
            true => self.pair.is_replicated(&self.touched, relation, source),
            false => self.source_receives(target, both),
        };
        if !is_meant_for_both {
            return Ok(Seen::Differs(Outcome::Undecided(Why::NotReplicated)));
        }
        Ok(match verdict {
            Verdict::Settled => Seen::Differs(Outcome::SameVersion),
            Verdict::Keep => Seen::Differs(Outcome::Here),
            Verdict::OfUnknownAge => Seen::Differs(Outcome::UnknownAge),
            // Nothing was replayed here, so nothing is to be deleted.
            Verdict::Delete => Seen::Alike,
            Verdict::Insert | Verdict::Update if !repair => Seen::Differs(Outcome::There),
            Verdict::Insert | Verdict::Update => {
                let must_look_again = verdict == Verdict::Insert;
                let mut writer = writer(&mut self.pair, &mut self.ledger, &self.touched, self.apply_as);
                match writer.bring(&judged.difference, verdict, (source, target), &both.theirs, must_look_again)? {
                    Did::Written => Seen::Differs(Outcome::Repaired),
                    Did::Changed | Did::Again => Seen::Again,
                    Did::Refused => Seen::Differs(Outcome::Undecided(Why::Refused)),
                }
            }
        })
    }

    /// Why it cannot be told yet whether the nodes differ in a row: one of the two lacks transactions of a node, and
    /// waits for them in vain, that may bear on the row.
    fn lacks(&mut self, judged: &Judged, both: &Both) -> Option<Why> {
        let (source, target) = judged.rows();
        let is_lacking = match target.and_then(|target| target.committed.as_ref()) {
            Some((_, Author::Node(author))) => both.source_lacks.contains(author),
            _ => !both.source_lacks.is_empty(),
        };
        if is_lacking {
            return Some(Why::SourceLags);
        }
        self.closer().standing(both).lacks(judged.verdict, source, target)
    }

    /// Whether the source is meant to have this node's row: it receives from the row's author, or is the author.
    fn source_receives(&self, target: Option<&Found>, both: &Both) -> bool {
        match target.and_then(|target| target.committed.as_ref()) {
            Some((_, Author::Node(author))) => {
                *author == self.pair.source_name || both.theirs.passed.contains_key(author)
            }
            _ => true,
        }
    }
}

fn is_alike(judged: &Judged) -> bool {
    match judged.rows() {
        (None, None) => true,
        (Some(source), Some(target)) => source.values == target.values,
        _ => false,
    }
}

fn finding(judged: &Judged, outcome: Outcome) -> Finding {
    let (source, target) = judged.rows();
    let stamp = |found: Option<&Found>| {
        let (at, author) = found?.committed.as_ref()?;
        let author = match author {
            Author::Node(name) => Some(name.clone()),
            Author::Reconcile | Author::Unknown => None,
        };
        Some((*at, author))
    };
    let kind = match (source, target) {
        (Some(_), None) => Kind::MissingHere,
        (None, Some(_)) => Kind::MissingThere,
        _ => Kind::Different,
    };
    Finding { key: judged.difference.key.clone(), kind, here: stamp(target), there: stamp(source), outcome }
}
