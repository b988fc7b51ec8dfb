//! A comparison of a table, who is told what it finds, and why it may end early.

use super::found::Found;
use super::pace::Pace;
use super::progress::Progress;
use super::table::{Incomparable, Table};
use crate::remote::error::RemoteError;

/// Who is told what a comparison finds.
pub trait Visitor {
    /// A key differs.
    fn found(&mut self, found: &Found);

    /// The comparison has got so far; returns whether it goes on. While it keeps its pace this is called again and
    /// again with the same progress.
    fn goes_on(&mut self, progress: &Progress) -> bool;
}

/// Why a comparison has ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompareFailure {
    /// The peer cannot be asked, or gives an unexpected answer.
    #[error("{0}")]
    Remote(#[from] RemoteError),
    /// A node refuses, which concerns this table only.
    #[error("{0}")]
    Incomparable(Incomparable),
}

#[derive(Clone, Copy, Debug)]
pub struct Comparison<'t> {
    pub(super) table: &'t Table,
    pub(super) pace: Pace,
    pub(super) seed: i64,
}

impl<'t> Comparison<'t> {
    /// `seed` should be random, and the same for a comparison that goes on.
    pub fn new(table: &'t Table, pace: Pace, seed: i64) -> Comparison<'t> {
        Comparison { table, pace, seed }
    }
}
