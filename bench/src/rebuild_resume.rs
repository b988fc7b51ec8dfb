//! What a copy that was interrupted sends again: counted by the blocks of the table that the source has read, of which a whole
//! copy reads each once.
//!
//! Killed is a worker that copies on the target, whose server then begins anew with all its processes; and the session on
//! the source that sends.

use spock_recovery_cluster::deadline;
use spock_recovery_cluster::process;

use nix::sys::signal::Signal;

use crate::bench::Bench;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::measure::Figure;
use crate::rebuild::{Pair, rebuild_of_t};
use crate::whole_call::CONTENT;
use crate::{report, wait};

const TARGET: &str = "rebuild_resume/target";
const SESSION: &str = "rebuild_resume/session";

/// Those that a rebuild has if nothing is set.
const STREAMS: f64 = 2.0;

/// Blocks of a chunk: 64 MB.
const CHUNK_BLOCKS: f64 = 8_192.0;

/// Chunks that are there before anybody is killed.
const CHUNKS_BEFORE: u32 = 3;

pub fn rebuild_resume(bench: &Bench) -> Result<Vec<Figure>> {
    // Rows of 1 kB: 2 GB and 800 MB.
    let rows = bench.size(2_000_000, 800_000);
    let nodes = Pair::start(bench, rows, "rpad(md5(g::text), 960, md5((g + 1)::text))")?;
    let mut figures = Vec::new();
    for name in [TARGET, SESSION].into_iter().filter(|name| bench.wants(name)) {
        let mut figure = Figure::new(name);
        for _ in 0..bench.pairs() {
            let again = sent_again(&nodes, name)?;
            figure.ours.push(again);
            figure.baseline.push(STREAMS);
            report::pair(bench, name, again, STREAMS);
        }
        figures.push(figure);
    }
    nodes.cluster.stop()?;
    Ok(figures)
}

/// How many chunks were sent a second time.
fn sent_again(nodes: &Pair, name: &str) -> Result<f64> {
    let (source, target) = (nodes.source()?, nodes.target()?);
    nodes.damage("TRUNCATE t")?;
    wait::sql(source, "SELECT pg_stat_reset_single_table_counters('t'::regclass)")?;
    let call = Call::of(target, rebuild_of_t("copy"));
    let has_some = format!("SELECT coalesce(max(chunks_done) >= {CHUNKS_BEFORE}, false) FROM spock.rebuild_progress");
    wait::until_ended(target, &has_some, || call.has_ended())?;
    match name {
        TARGET => {
            let copying = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'spock_recovery copy' LIMIT 1";
            let pid = wait::number(target, copying)? as i32;
            process::send(pid, Signal::SIGKILL).map_err(|error| Error::Verification(error.to_string()))?;
        }
        _ => wait::sql(
            source,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE application_name LIKE 'spock_recovery copy%' LIMIT 1",
        )?,
    }
    // The session is lost with its server; the rebuild is not, and a second call joins it, or finds nothing to do.
    let _ = call.finish();
    let is_over = "SELECT count(*) = 0 FROM spock.rebuild_progress";
    deadline::wait("the end of the rebuild", wait::LIMIT, |last| {
        match target.value(wait::DATABASE, is_over) {
            Ok(over) if over == "t" => return Ok(Some(())),
            Ok(_) => *last = format!("{:?}", target.query(wait::DATABASE, "SELECT * FROM spock.rebuild_progress")),
            Err(error) => *last = error.to_string(),
        }
        Ok::<_, Error>(None)
    })?;
    let read = "SELECT heap_blks_read + heap_blks_hit FROM pg_statio_user_tables WHERE relname = 't'";
    let blocks = wait::number(source, "SELECT pg_relation_size('t') / 8192")?;
    let begun = format!("SELECT coalesce(({read}) >= {blocks}, false)");
    // Sessions tell what they have read when they end.
    wait::until(source, &begun)?;
    wait::until(
        source,
        "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'spock_recovery copy%'",
    )?;
    let read = wait::number(source, read)?;
    wait::same(&nodes.cluster.nodes(), CONTENT)?;
    Ok((read - blocks) / CHUNK_BLOCKS)
}
