//! The memory of a rebuild that finds millions of rows different: of every process of ours on the target and on the source, what
//! is its own and not shared with others, at its highest.

use std::thread;

use crate::bench::Bench;
use crate::call::Call;
use crate::error::{Error, Result, joined};
use crate::measure::Figure;
use crate::memory::{ALLOWED_MEGABYTES, highest};
use crate::rebuild::{Pair, rebuild_of_t};
use crate::whole_call::CONTENT;
use crate::{report, wait};

pub fn rebuild_memory(bench: &Bench) -> Result<Vec<Figure>> {
    let rows = bench.size(10_000_000, 1_000_000);
    let nodes = Pair::start(bench, rows, "md5(g::text)")?;
    nodes.damage("UPDATE t SET v = 'damaged'")?;
    let (source, target) = (nodes.source()?, nodes.target()?);
    if wait::number(target, "SELECT count(*) FROM t WHERE v = 'damaged'")? != rows as f64 {
        return Err(Error::Verification(format!("not all of {rows} rows differ")));
    }
    let call = Call::of(target, rebuild_of_t("compare"));
    let (on_source, on_target) = thread::scope(|scope| {
        let of = |node| {
            let call = &call;
            scope.spawn(move || highest(node, || call.has_ended()))
        };
        let (source, target) = (of(source), of(target));
        Ok::<_, Error>((joined(source.join())?, joined(target.join())?))
    })?;
    call.finish()?;
    wait::same(&nodes.cluster.nodes(), CONTENT)?;
    bench.screen.line(format!(
        "  rebuild_memory: {} MB on the target, {} MB on the source",
        report::shown(on_target),
        report::shown(on_source)
    ));
    let ours = on_target.max(on_source);
    report::pair(bench, "rebuild_memory", ours, ALLOWED_MEGABYTES);
    nodes.cluster.stop()?;
    Ok(vec![Figure { name: "rebuild_memory", ours: vec![ours], baseline: vec![ALLOWED_MEGABYTES] }])
}
