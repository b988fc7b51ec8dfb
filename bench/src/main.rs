//! Measurements: ours and what one would do without it, on the same servers, alternating.
//!
//! A figure counts only if the result is right: each scenario compares what the nodes hold afterwards, and fails otherwise.

mod catch_up;
mod cluster;
mod growth;
mod measure;
mod memory;
mod overhead;
mod plot;
mod report;
mod scenario;
mod stream;
mod wait;
mod whole_call;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use spockctl::error::{Error, Result};
use spockctl::{Installation, Screen, ServerUser, interrupt};

use crate::growth::CURVES;
use crate::scenario::{GROUPS, SCENARIOS};

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

/// What every scenario needs.
pub struct Bench {
    pub installation: Installation,
    pub user: ServerUser,
    pub screen: Screen,
    pub quick: bool,
    pairs: Option<u8>,
    wanted: Vec<String>,
}

impl Bench {
    pub fn wants(&self, scenario: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|name| name == scenario)
    }

    /// How often ours and the baseline are measured.
    pub fn pairs(&self) -> usize {
        match self.pairs {
            Some(pairs) => usize::from(pairs),
            None if self.quick => 1,
            None => 3,
        }
    }

    pub fn size(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    interrupt::conclude(interrupt::watch().and_then(|()| run(cli)))
}

/// All that is wanted is measured, whatever fails; then the first failure is told.
fn run(cli: Cli) -> Result<()> {
    let known: Vec<&str> = match cli.growth {
        true => CURVES.iter().map(|(name, _)| *name).collect(),
        false => SCENARIOS.iter().map(|scenario| scenario.name).collect(),
    };
    if let Some(unknown) = cli.scenarios.iter().find(|name| !known.contains(&name.as_str())) {
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
