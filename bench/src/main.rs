//! Measurements: ours and what one would do without it, on the same servers, alternating.
//!
//! A figure counts only if the result is right: each scenario compares what the nodes hold afterwards, and fails otherwise.

mod barrier;
mod bench;
mod call;
mod catch_up;
mod cluster;
mod curve;
mod error;
mod growth;
mod measure;
mod memory;
mod node_create;
mod overhead;
mod plot;
mod rebuild;
mod rebuild_memory;
mod rebuild_resume;
mod report;
mod restore;
mod said;
mod scenario;
mod stream;
mod wait;
mod whole_call;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use spock_recovery_cluster::{Installation, ServerUser, interrupt};
use spockctl::Screen;

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::growth::CURVES;
use crate::measure::Figure;
use crate::scenario::SCENARIOS;

#[derive(Parser)]
#[command(name = "spock_recovery_bench", version, about = "Measures spock_recovery side by side with its alternatives")]
struct Cli {
    /// The server to use; without it SPOCK_RECOVERY_PG_CONFIG, else the newest that has the extension
    #[arg(long, value_name = "PATH")]
    pg_config: Option<PathBuf>,
    /// One pair of each, and less data: figures to look at, not to publish
    #[arg(long)]
    quick: bool,
    /// How often ours and the baseline are measured; without it 3, and 1 with --quick
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    pairs: Option<u8>,
    /// Instead of the scenarios: how recovery and idle cost grow, as curves
    #[arg(long)]
    growth: bool,
    /// Where the figures go; those of growth and their plot go into the same folder
    #[arg(long, value_name = "PATH", default_value = "target/bench/results.json")]
    output: PathBuf,
    /// These alone, scenarios or curves; without any, all
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
}

/// Scenarios that share servers and data.
struct Group {
    scenarios: &'static [&'static str],
    run: fn(&Bench) -> Result<Vec<Figure>>,
}

const GROUPS: [Group; 16] = [
    Group { scenarios: &["small", "decode_limit"], run: catch_up::small },
    Group { scenarios: &["bulk_insert"], run: catch_up::bulk_insert },
    Group { scenarios: &["bulk_mixed"], run: catch_up::bulk_mixed },
    Group { scenarios: &["skip"], run: stream::skip },
    Group { scenarios: &["fixed_cost"], run: whole_call::fixed_cost },
    Group { scenarios: &["plan"], run: whole_call::plan },
    Group { scenarios: &["rebuild", "row_compare", "size", "rebuild_spread"], run: whole_call::of_a_large_table },
    Group { scenarios: &["reconcile"], run: whole_call::reconcile },
    Group { scenarios: &["overhead"], run: overhead::overhead },
    Group { scenarios: &["barrier"], run: barrier::barrier },
    Group { scenarios: &["memory"], run: memory::memory },
    Group {
        scenarios: &[
            "rebuild_copy/1",
            "rebuild_copy/2",
            "rebuild_compare/0",
            "rebuild_compare/0.1",
            "rebuild_compare/1",
        ],
        run: rebuild::of_a_table,
    },
    Group { scenarios: &["rebuild_memory"], run: rebuild_memory::rebuild_memory },
    Group { scenarios: &["rebuild_resume/target", "rebuild_resume/session"], run: rebuild_resume::rebuild_resume },
    Group { scenarios: &["node_create"], run: node_create::node_create },
    Group { scenarios: &["restore/1", "restore/10"], run: restore::restore },
];

fn main() -> ExitCode {
    let cli = Cli::parse();
    interrupt::conclude(interrupt::watch().map_err(Error::from).and_then(|()| run(cli)))
}

/// All that is wanted is measured, whatever fails; then the first failure is told.
fn run(cli: Cli) -> Result<()> {
    let known: Vec<&str> = match cli.growth {
        true => CURVES.iter().map(|(name, _)| *name).collect(),
        false => SCENARIOS.iter().map(|scenario| scenario.name).collect(),
    };
    if let Some(unknown) = cli.scenarios.iter().find(|name| !known.iter().any(|known| bench::means(name, known))) {
        let what = if cli.growth { "curve" } else { "scenario" };
        return Err(Error::Verification(format!("there is no {what} \"{unknown}\"; there are {}", known.join(", "))));
    }
    let user = ServerUser::find()?;
    let installation = Installation::find_default(cli.pg_config.as_deref(), &user)?;
    let screen = Screen::stdout();
    let bench = Bench { installation, user, screen, quick: cli.quick, pairs: cli.pairs, wanted: cli.scenarios };
    bench.screen.line(report::surroundings(&bench));
    if cli.growth {
        return growth::run(&bench, cli.output.parent().unwrap_or(Path::new(".")));
    }
    let mut figures = Vec::new();
    let mut failures = Vec::new();
    for group in GROUPS {
        if !group.scenarios.iter().any(|name| bench.wants(name)) {
            continue;
        }
        bench.screen.line(format!("{}:", group.scenarios.join(", ")));
        match (group.run)(&bench) {
            Ok(measured) => figures.extend(measured.into_iter().filter(|figure| bench.wants(figure.name))),
            Err(error) => {
                bench.screen.line(format!("  failed: {error}"));
                failures.push(format!("{} ({error})", group.scenarios.join(", ")));
            }
        }
    }
    report::table(&bench, &figures);
    report::write(&bench, &figures, &cli.output)?;
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Error::Verification(format!("not measured: {}", failures.join("; ")))),
    }
}
