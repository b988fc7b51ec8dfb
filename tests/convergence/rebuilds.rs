//! What is lost and rebuilt in the history of a seed, drawn beside its course, so that seeds without it stay as they are.
//!
//! What a rebuild needs is kept to: somebody has everything that its target has, and a node of which no WAL is left is not
//! recovered across another one that is lost too.

use super::course::{Course, FAILED, HoldBack, Lag, Moment, SECOND, SOURCE, Second, TARGET, Until};
use std::fmt;

/// How a provider loses a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// While its subscription was disabled.
    Disabled,
    /// Under the subscription that is receiving by it.
    AtOnce,
}

/// A survivor's slot on a node that lives on, or on n1 until that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostSlot {
    pub receiver: usize,
    pub provider: usize,
    pub from: usize,
    /// When the receiver is rebuilt; None: n1 fails before that, and is recovered like any loss.
    pub mended: Option<Until>,
    pub loss: Loss,
}

impl LostSlot {
    pub fn as_lag(&self) -> Option<Lag> {
        let until = self.mended.filter(|_| self.provider != FAILED)?;
        Some(Lag { receiver: self.receiver, provider: self.provider, from: self.from, until })
    }
}

/// One table of a node is damaged in a round, and rebuilt alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    pub target: usize,
    pub round: usize,
    pub table: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Rebuilds {
    pub lost: Vec<LostSlot>,
    pub damages: Vec<Damage>,
    /// Those who have all of n1 have not kept its WAL.
    pub wal_is_gone: bool,
    /// Survivors without WAL are rebuilt one by one, and not by recover_failed_node().
    pub one_by_one: bool,
    /// A new n1 takes the place of the lost one.
    pub is_replaced: bool,
    /// One more survivor dies when all is recovered.
    pub next_loss: bool,
}

impl Rebuilds {
    /// Draws them, and takes out of the course what they exclude.
    pub fn draw(seed: u64, course: &mut Course, tables: usize) -> Rebuilds {
        let random = &mut fastrand::Rng::with_seed(seed ^ 0x0072_6562_7569_6c64);
        let second = course.second.map(|_| SECOND);
        let survivors: Vec<usize> = (TARGET..course.nodes).filter(|node| Some(*node) != second).collect();
        let mut rebuilds = Rebuilds {
            is_replaced: random.u32(0..6) == 0,
            next_loss: random.u32(0..3) == 0,
            one_by_one: random.bool(),
            ..Rebuilds::default()
        };
        if rebuilds.is_replaced {
            course.returns = false;
        }
        // Where each of two dead nodes is missing somewhere, those whose WAL the others need are not rebuilt before that.
        let rebuilt: Vec<usize> =
            survivors.iter().copied().filter(|node| !course.is_crossed() || *node > SECOND).collect();
        let receiver = random.usize(0..rebuilt.len().max(1));
        if let Some(receiver) = rebuilt.get(receiver).filter(|_| random.u32(0..3) > 0) {
            rebuilds.lost.extend(among_survivors(random, course, &survivors, *receiver));
        }
        if random.bool() {
            rebuilds.lost.push(of_n1(random, course));
        }
        let target = random.usize(0..rebuilt.len().max(1));
        if let Some(target) = rebuilt.get(target).copied().filter(|_| random.bool()) {
            let round = random.usize(0..course.rounds);
            rebuilds.damages.push(Damage { target, round, table: random.usize(0..tables) });
        }
        let is_crossing = match course.second {
            Some((Second::Crossed, _) | (_, Moment::Meanwhile)) => true,
            Some((Second::Nested, _)) | None => false,
        };
        let is_lost_then =
            rebuilds.lost.iter().any(|lost| matches!(lost.mended, Some(Until::Death | Until::Recovered)));
        rebuilds.wal_is_gone = random.bool() && !is_crossing && !is_lost_then;
        rebuilds
    }

    /// Those who have all of a dead node may have none of the WAL that others need.
    pub fn leave_no_wal(&self) -> bool {
        self.wal_is_gone || !self.damages.is_empty() || self.lost.iter().any(|lost| lost.mended.is_some())
    }

    /// Nothing but what every history has.
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.damages.is_empty() && !self.wal_is_gone && !self.is_replaced && !self.next_loss
    }
}

/// A slot of one survivor on another.
fn among_survivors(
    random: &mut fastrand::Rng,
    course: &mut Course,
    survivors: &[usize],
    receiver: usize,
) -> Option<LostSlot> {
    let providers: Vec<usize> = survivors.iter().copied().filter(|node| *node != receiver).collect();
    let provider = *providers.get(random.usize(0..providers.len().max(1)))?;
    let from = random.usize(0..course.rounds);
    let mended = match random.u32(0..4) {
        0 | 1 => Until::Round(random.usize(from..course.rounds)),
        // Those recovered by n3 are compared with it, once it has received what they have; and it is rebuilt from none before.
        _ if receiver == SOURCE => Until::Round(course.rounds - 1),
        // Nobody has all before that, where each of two dead nodes is missing somewhere.
        2 if !course.is_crossed() => Until::Death,
        _ => Until::Recovered,
    };
    course.lags.retain(|lag| (lag.receiver, lag.provider) != (receiver, provider));
    let loss = if random.bool() { Loss::Disabled } else { Loss::AtOnce };
    Some(LostSlot { receiver, provider, from, mended: Some(mended), loss })
}

/// n2's slot on n1. If it is mended, n2 falls behind n1 once more afterwards.
fn of_n1(random: &mut fastrand::Rng, course: &mut Course) -> LostSlot {
    let mended =
        (course.rounds > 1 && random.bool() && !course.is_crossed()).then(|| random.usize(0..course.rounds - 1));
    if let Some(round) = mended {
        let (receiver, provider) = (TARGET, FAILED);
        course.held_back.push(HoldBack { receiver, provider, from: round + 1 });
    }
    let loss = if random.bool() { Loss::Disabled } else { Loss::AtOnce };
    LostSlot { receiver: TARGET, provider: FAILED, from: 0, mended: mended.map(Until::Round), loss }
}

impl fmt::Display for Rebuilds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for lost in &self.lost {
            let mended = lost.mended.map_or_else(String::new, |until| format!("..{until:?}"));
            let (receiver, provider) = (lost.receiver + 1, lost.provider + 1);
            write!(f, ", n{receiver}'s slot on n{provider} lost {}{mended}", lost.from)?;
        }
        for damage in &self.damages {
            write!(f, ", n{} damaged {}", damage.target + 1, damage.round)?;
        }
        for (is_so, what) in [
            (self.wal_is_gone, if self.one_by_one { ", no WAL, one by one" } else { ", no WAL" }),
            (self.is_replaced, ", n1 replaced"),
            (self.next_loss, ", one more loss"),
        ] {
            if is_so {
                f.write_str(what)?;
            }
        }
        Ok(())
    }
}
