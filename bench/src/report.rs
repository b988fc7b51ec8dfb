//! The table on the screen and results.json.

use std::fs;
use std::path::Path;

use procfs::{Current, LoadAverage, Meminfo};
use serde_json::{Map, Value, json};
use spock_recovery_cluster::Error as ServerError;
use spockctl::table;

use crate::bench::Bench;
use crate::error::Result;
use crate::measure::{Figure, median};
use crate::scenario;

/// The server, the machine, and what else it has to do.
pub fn surroundings(bench: &Bench) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = Meminfo::current().ok().map(|memory| memory.mem_total / 1024 / 1024 / 1024);
    let memory = memory.map_or("unknown".to_owned(), |gigabytes| format!("{gigabytes} GB"));
    format!("{}, {cores} cores, {memory} of memory, load {}", bench.installation.version, load())
}

/// Runnable processes, on average over the last minute.
pub fn load() -> String {
    LoadAverage::current().map_or("unknown".to_owned(), |load| format!("{:.2}", load.one))
}

/// Says what one pair has given, at once: a run that is interrupted has told something.
pub fn pair(bench: &Bench, name: &str, ours: f64, baseline: f64) {
    let unit = scenario::of(name).map_or("", |scenario| scenario.unit);
    bench.screen.line(format!("  {name}: ours {}, baseline {} {unit}; load {}", shown(ours), shown(baseline), load()));
}

/// Tells a point of a curve as soon as it is there.
pub fn point(bench: &Bench, what: &str, much: f64, label: &str, value: f64, unit: &str) {
    bench.screen.line(format!("  {} {what}: {label} {} {unit}; load {}", shown(much), shown(value), load()));
}

/// Processor seconds of those who have done the same, beside the pair's figures.
pub fn processor(bench: &Bench, ours: f64, baseline: f64) {
    let ratio = baseline / ours;
    bench
        .screen
        .line(format!("  who does it: ours {ours:.2}, baseline {baseline:.2} s of a processor, ratio {ratio:.2}"));
}

pub fn table(bench: &Bench, figures: &[Figure]) {
    let mut rows = vec![["scenario", "ours", "baseline", "unit", "ratio", "goal", ""].map(str::to_owned).to_vec()];
    for figure in figures {
        let Some(scenario) = scenario::of(figure.name) else { continue };
        let ratio = figure.ratio(scenario.higher_is_better);
        rows.push(vec![
            figure.name.to_owned(),
            shown(median(&figure.ours)),
            shown(median(&figure.baseline)),
            scenario.unit.to_owned(),
            format!("{ratio:.2}"),
            format!("{:.2}", scenario.goal),
            if ratio >= scenario.goal { "met" } else { "missed" }.to_owned(),
        ]);
    }
    bench.screen.line("");
    table::lines(&rows).into_iter().for_each(|line| bench.screen.line(line));
}

pub fn write(bench: &Bench, figures: &[Figure], path: &Path) -> Result<()> {
    let mut scenarios = Map::new();
    for figure in figures {
        let Some(scenario) = scenario::of(figure.name) else { continue };
        let value = json!({
            "ours": rounded(median(&figure.ours)),
            "baseline": rounded(median(&figure.baseline)),
            "ratio": rounded(figure.ratio(scenario.higher_is_better)),
            "unit": scenario.unit,
        });
        scenarios.insert(figure.name.to_owned(), value);
    }
    write_json(bench, path, &json!({ "pg": version(bench), "scenarios": scenarios }))
}

/// As results.json has it: 17.11.
pub fn version(bench: &Bench) -> &str {
    bench.installation.version.trim_start_matches("PostgreSQL ")
}

pub fn write_json(bench: &Bench, path: &Path, document: &Value) -> Result<()> {
    write_text(bench, path, &format!("{document:#}\n"))
}

pub fn write_text(bench: &Bench, path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(ServerError::io("create the folder", folder))?;
    }
    fs::write(path, text).map_err(ServerError::io("write", path))?;
    bench.screen.line(format!("written to {}", path.display()));
    Ok(())
}

/// Notes a pair whose second figure is what spockctl is measured against: it may take `share` of that and ten seconds more.
/// `what`: what the second one is.
pub fn allowed(bench: &Bench, figure: &mut Figure, (ours, other): (f64, f64), what: &str, share: f64) {
    let (name, allowed) = (figure.name, other * share + 10.0);
    bench.screen.line(format!("  {name}: {what} takes {} s, so {} s are allowed", shown(other), shown(allowed)));
    figure.ours.push(ours);
    figure.baseline.push(allowed);
    pair(bench, name, ours, allowed);
}

pub fn shown(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
