//! How what is waited for, and what is always paid, grows: with the gap, with the WAL in which it lies, with peers and with
//! databases. There is no goal here: a curve, and its shape in words.

mod idle;
mod recovery;

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;
use spockctl::table;

use crate::bench::Bench;
use crate::curve::Curve;
use crate::error::{Error, Result};
use crate::{plot, report};

type Measure = fn(&Bench) -> Result<Curve>;

/// The curves, each with what measures it.
pub const CURVES: [(&str, Measure); 4] = [
    ("gap", recovery::gap),
    ("retained_wal", recovery::retained_wal),
    ("peers", idle::peers),
    ("databases", idle::databases),
];

/// All that are wanted are measured, whatever fails; the figures and the plot go beside each other. A curve that is not wanted
/// stays as it was measured before with this version of PostgreSQL.
pub fn run(bench: &Bench, folder: &Path) -> Result<()> {
    let file = folder.join("growth.json");
    let mut curves = measured_before(bench, &file);
    let mut failures = Vec::new();
    for (name, measure) in CURVES {
        if !bench.wants(name) {
            continue;
        }
        bench.screen.line(format!("{name}:"));
        match measure(bench) {
            Ok(curve) => {
                show(bench, &curve);
                curves.retain(|before| before.name != name);
                curves.push(curve);
            }
            Err(error) => {
                bench.screen.line(format!("  failed: {error}"));
                failures.push(format!("{name} ({error})"));
            }
        }
    }
    curves.sort_by_key(|curve| CURVES.iter().position(|(name, _)| *name == curve.name));
    let document = Document { pg: report::version(bench).to_owned(), curves };
    report::write_json(bench, &file, &json!(document))?;
    let curves = document.curves;
    plot::draw(bench, &curves, &folder.join("growth.svg"))?;
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Error::Verification(format!("not measured: {}", failures.join("; ")))),
    }
}

fn show(bench: &Bench, curve: &Curve) {
    let mut rows = vec![vec![curve.what.clone(), String::new(), curve.unit.clone()]];
    for line in &curve.lines {
        let row = |(much, value): &(f64, f64)| vec![report::shown(*much), line.label.clone(), report::shown(*value)];
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

#[derive(Serialize, Deserialize)]
struct Document {
    pg: String,
    curves: Vec<Curve>,
}

fn measured_before(bench: &Bench, file: &Path) -> Vec<Curve> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let document = serde_json::from_str::<Document>(&text).ok();
    document
        .filter(|document| document.pg == report::version(bench))
        .map(|document| document.curves)
        .unwrap_or_default()
}
