//! How what is waited for, and what is always paid, grows: with the gap, with the WAL in which it lies, with peers and with
//! databases. There is no goal here: a curve, and its shape in words.

mod idle;
mod recovery;

use std::path::Path;

use serde_json::{Map, Value, json};
use spockctl::error::{Error, Result};
use spockctl::table;

use crate::{Bench, plot, report};

/// One measurement after another, each with more of the same.
pub struct Curve {
    pub name: &'static str,
    /// What there is more of.
    pub what: &'static str,
    /// Of the values: the unit.
    pub unit: &'static str,
    pub lines: Vec<Line>,
}

pub struct Line {
    pub label: &'static str,
    /// How much of it, and the value.
    pub points: Vec<(f64, f64)>,
}

impl Line {
    fn new(label: &'static str) -> Line {
        Line { label, points: Vec::new() }
    }

    /// By the last two points: `n` times as much took so many times as long.
    fn steps(&self) -> Option<(f64, f64)> {
        match self.points[..] {
            [.., (less, before), (more, after)] if less > 0.0 && before > 0.0 => Some((more / less, after / before)),
            _ => None,
        }
    }
}

type Measure = fn(&Bench) -> Result<Curve>;

/// The curves, each with what measures it.
pub const CURVES: [(&str, Measure); 4] = [
    ("gap", recovery::gap),
    ("retained_wal", recovery::retained_wal),
    ("peers", idle::peers),
    ("databases", idle::databases),
];

/// All that are wanted are measured, whatever fails; the figures and the plot go beside each other.
pub fn run(bench: &Bench, folder: &Path) -> Result<()> {
    let mut curves = Vec::new();
    let mut failures = Vec::new();
    for (name, measure) in CURVES {
        if !bench.wants(name) {
            continue;
        }
        bench.screen.line(format!("{name}:"));
        match measure(bench) {
            Ok(curve) => {
                show(bench, &curve);
                curves.push(curve);
            }
            Err(error) => {
                bench.screen.line(format!("  failed: {error}"));
                failures.push(format!("{name} ({error})"));
            }
        }
    }
    report::write_json(bench, &folder.join("growth.json"), &document(bench, &curves))?;
    plot::draw(bench, &curves, &folder.join("growth.svg"))?;
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Error::Verification(format!("not measured: {}", failures.join("; ")))),
    }
}

/// Tells a point as soon as it is there.
fn tell(bench: &Bench, what: &str, much: f64, label: &str, value: f64, unit: &str) {
    bench.screen.line(format!(
        "  {} {what}: {label} {} {unit}; load {}",
        report::shown(much),
        report::shown(value),
        report::load()
    ));
}

fn show(bench: &Bench, curve: &Curve) {
    let mut rows = vec![[curve.what, "", curve.unit].map(str::to_owned).to_vec()];
    for line in &curve.lines {
        let row = |(much, value): &(f64, f64)| vec![report::shown(*much), line.label.to_owned(), report::shown(*value)];
        rows.extend(line.points.iter().map(row));
    }
    table::lines(&rows).into_iter().for_each(|line| bench.screen.line(line));
    for line in &curve.lines {
        if let Some((more, longer)) = line.steps() {
            bench
                .screen
                .line(format!("  {}: at the end {more:.2} times as many cost {longer:.2} times as much", line.label));
        }
    }
}

fn document(bench: &Bench, curves: &[Curve]) -> Value {
    let mut all = Map::new();
    for curve in curves {
        let lines: Map<String, Value> =
            curve.lines.iter().map(|line| (line.label.to_owned(), json!(line.points))).collect();
        all.insert(curve.name.to_owned(), json!({ "of": curve.what, "unit": curve.unit, "lines": lines }));
    }
    json!({ "pg": report::version(bench), "curves": all })
}
