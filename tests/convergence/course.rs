//! What happens in the history of a seed, and in which order: all of it is drawn before anything begins.

use std::fmt;

/// n1 fails, and n2 is behind it.
pub const FAILED: usize = 0;
pub const TARGET: usize = 1;
/// Never behind a node that fails, but for n4.
pub const SOURCE: usize = 2;
/// The other one that fails, where two do.
pub const SECOND: usize = 3;

/// How the other one's fate is bound up with n1's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    /// Those behind it are behind n1 as well.
    Nested,
    /// n3 is behind it, which n2 is not.
    Crossed,
}

/// When the other one dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    BeforeFirst,
    AfterFirst,
    /// While n1 is being recovered.
    Meanwhile,
}

/// When something that was disabled is enabled again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Until {
    /// The end of this round.
    Round(usize),
    /// n1 is dead, and not recovered.
    Death,
    Recovered,
}

/// A subscription of a survivor to another is disabled for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    pub receiver: usize,
    pub provider: usize,
    pub from: usize,
    pub until: Until,
}

/// Somebody gets nothing more of a node that is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldBack {
    pub receiver: usize,
    pub provider: usize,
    pub from: usize,
}

#[derive(Clone, Debug)]
pub struct Course {
    pub nodes: usize,
    pub rounds: usize,
    pub second: Option<(Second, Moment)>,
    /// n4 is recovered before n1.
    pub second_is_first: bool,
    pub held_back: Vec<HoldBack>,
    pub lags: Vec<Lag>,
    /// n2 is recovered up to such a part of what it lacks first.
    pub partial_percent: Option<u32>,
    pub returns: bool,
}

impl Course {
    pub fn draw(random: &mut fastrand::Rng) -> Course {
        let nodes = [3, 3, 4, 4, 4, 5][random.usize(0..6)];
        let rounds = random.usize(2..6);
        let second = (nodes > SECOND && random.bool()).then(|| {
            let second = if random.bool() { Second::Nested } else { Second::Crossed };
            (second, [Moment::BeforeFirst, Moment::AfterFirst, Moment::Meanwhile][random.usize(0..3)])
        });
        let mut held_back = vec![HoldBack { receiver: TARGET, provider: FAILED, from: 0 }];
        let mut behind = |random: &mut fastrand::Rng, receiver, provider| {
            let from = random.usize(0..rounds);
            held_back.push(HoldBack { receiver, provider, from });
        };
        // Who else is behind n1: everybody but n3, which is to have all of it, and who dies himself.
        let mut others = vec![TARGET];
        for node in (SOURCE + 1..nodes).filter(|node| second.is_none() || *node != SECOND) {
            if random.bool() {
                behind(random, node, FAILED);
                others.push(node);
            }
        }
        match second {
            Some((Second::Nested, _)) => {
                let one = others[random.usize(0..others.len())];
                behind(random, one, SECOND);
            }
            Some((Second::Crossed, _)) => behind(random, SOURCE, SECOND),
            None => {}
        }
        let survivors: Vec<usize> = (TARGET..nodes).filter(|node| second.is_none() || *node != SECOND).collect();
        let mut lags: Vec<Lag> = Vec::new();
        for _ in 0..[0, 0, 1, 2][random.usize(0..4)] {
            let receiver = survivors[random.usize(0..survivors.len())];
            let providers: Vec<usize> = survivors.iter().copied().filter(|node| *node != receiver).collect();
            let provider = providers[random.usize(0..providers.len())];
            let from = random.usize(0..rounds);
            let until = match random.u32(0..4) {
                0 | 1 => Until::Round(random.usize(from..rounds)),
                2 => Until::Death,
                _ => Until::Recovered,
            };
            if !lags.iter().any(|lag| (lag.receiver, lag.provider) == (receiver, provider)) {
                lags.push(Lag { receiver, provider, from, until });
            }
        }
        let partial_percent = (random.u32(0..4) == 0).then(|| random.u32(5..95));
        Course {
            nodes,
            rounds,
            second,
            second_is_first: random.u32(0..4) == 0,
            held_back,
            lags,
            partial_percent,
            returns: random.u32(0..4) == 0,
        }
    }

    /// Two fail, and those behind the one are not all behind the other.
    pub fn is_crossed(&self) -> bool {
        matches!(self.second, Some((Second::Crossed, _)))
    }
}

impl fmt::Display for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} nodes", self.nodes)?;
        for held in &self.held_back {
            write!(f, ", n{} behind n{} from {}", held.receiver + 1, held.provider + 1, held.from)?;
        }
        for lag in &self.lags {
            write!(f, ", n{} lags n{} {}..{:?}", lag.receiver + 1, lag.provider + 1, lag.from, lag.until)?;
        }
        if let Some((second, moment)) = self.second {
            let order = if self.second_is_first { ", recovered first" } else { "" };
            write!(f, ", n4 dies {moment:?}, {second:?}{order}")?;
        }
        if let Some(percent) = self.partial_percent {
            write!(f, ", {percent} % first")?;
        }
        if self.returns {
            write!(f, ", n1 returns")?;
        }
        Ok(())
    }
}
