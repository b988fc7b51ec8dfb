//! A curve: one measurement after another, each with more of the same.

use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub struct Curve {
    pub name: String,
    /// What there is more of.
    pub what: String,
    /// Of the values: the unit.
    pub unit: String,
    pub lines: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
pub struct Line {
    pub label: String,
    /// How much of it, and the value.
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    pub fn new(name: &str, what: &str, unit: &str, lines: Vec<Line>) -> Curve {
        Curve { name: name.to_owned(), what: what.to_owned(), unit: unit.to_owned(), lines }
    }
}

impl Line {
    pub fn new(label: &str) -> Line {
        Line { label: label.to_owned(), points: Vec::new() }
    }

    /// By the last two points: `n` times as much took so many times as long.
    pub fn steps(&self) -> Option<(f64, f64)> {
        match self.points[..] {
            [.., (less, before), (more, after)] if less > 0.0 && before > 0.0 => Some((more / less, after / before)),
            _ => None,
        }
    }
}
