//! What the source decodes and sends, with nobody applying: pg_recvlogical takes it and throws it away.

use std::time::Duration;

use spock_recovery_cluster::client::{self, literal};
use spock_recovery_cluster::{Server, command};

use crate::bench::Bench;
use crate::cluster::{self, applied};
use crate::error::{Error, Result, joined};
use crate::measure::{Figure, alternating, timed};
use crate::report;
use crate::wait::{self, DATABASE};
use crate::workload::{pgbench, pgbench_tables};

/// Dropped by `drop`, or with its server.
pub struct Slot {
    name: String,
    node_dsn: String,
    plugin: &'static str,
}

impl Slot {
    pub fn create(node: &Server, plugin: &'static str) -> Result<Slot> {
        let name = format!("bench_{plugin}");
        wait::sql(node, &format!("SELECT pg_create_logical_replication_slot('{name}', '{plugin}')"))?;
        Ok(Slot { name, node_dsn: node.dsn(DATABASE), plugin })
    }

    pub fn drop(&self, node: &Server) -> Result<()> {
        wait::sql(node, &format!("SELECT pg_drop_replication_slot('{}')", self.name))
    }

    /// How many transactions the stream holds: messages that begin one.
    fn transactions(&self, node: &Server, settings: &[(&str, String)]) -> Result<f64> {
        let options =
            if self.plugin == "pgoutput" { ", 'proto_version', '4', 'publication_names', 'mesh'" } else { "" };
        let mut session = node.connect(DATABASE)?;
        for (name, value) in settings {
            client::query(node.name(), &mut session, &format!("SET {name} = {}", literal(value)))?;
        }
        let question = format!(
            "SELECT count(*) FILTER (WHERE get_byte(data, 0) = ascii('B'))
               FROM pg_logical_slot_peek_binary_changes('{}', NULL, NULL{options})",
            self.name
        );
        let count = client::first(client::query(node.name(), &mut session, &question)?);
        count.parse().map_err(|_| Error::Verification(format!("{} streams nothing that can be counted", self.name)))
    }
}

/// Until the end of the node's WAL as it is now; from a copy of the slot, which stays where it is.
pub fn pgoutput(bench: &Bench, node: &Server, slot: &Slot) -> Result<Duration> {
    receive(bench, node, slot, &[], &["-o", "proto_version=4", "-o", "publication_names=mesh", "-o", "origin=any"])
}

fn receive(bench: &Bench, node: &Server, slot: &Slot, settings: &[(&str, String)], more: &[&str]) -> Result<Duration> {
    let copy = format!("{}_copy", slot.name);
    wait::sql(node, &format!("SELECT pg_copy_logical_replication_slot('{}', '{copy}')", slot.name))?;
    wait::sql(node, "SELECT pg_logical_emit_message(true, 'flush', '')")?;
    let end = wait::value(node, "SELECT pg_current_wal_flush_lsn()")?;
    let options: Vec<String> = settings.iter().map(|(name, value)| format!("-c {name}={value}")).collect();
    let mut receiver = bench.user.command(&bench.installation.bindir.join("pg_recvlogical"));
    receiver.args(["--slot", &copy, "--start", "--no-loop", "-f", "/dev/null", "--endpos", &end]).args(more);
    receiver.arg("-d").arg(format!("{} options='{}'", slot.node_dsn, options.join(" ")));
    let taken = timed(|| command::run(&mut receiver));
    wait::sql(node, &format!("SELECT pg_drop_replication_slot('{copy}')"))?;
    Ok(taken?)
}

/// One in a hundred transactions in the source's WAL is missing on the target.
pub fn skip(bench: &Bench) -> Result<Vec<Figure>> {
    let (missing, others) = (bench.size(2_000, 400), bench.size(198_000, 39_600));
    let cluster = cluster::start(bench, &["n1", "n3"], true, |node| pgbench_tables(bench, node))?;
    cluster.subscribe(&[("n3", "n1")])?;
    let (n1, n3) = (cluster.node("n1")?, cluster.node("n3")?);
    // The origin's id is known once something has come.
    wait::sql(n1, "INSERT INTO first (node) VALUES ('n1')")?;
    cluster.wait_arrived("n3", "n1")?;
    let skip = applied(&cluster, "n3", "n1")?;
    let native = Slot::create(n3, "pgoutput")?;
    let own = Slot::create(n3, "spock_recovery")?;
    // Each tenth of n1's among that of n3's.
    for _ in 0..10 {
        std::thread::scope(|scope| {
            let theirs = scope.spawn(|| pgbench(bench, n1, missing / 10));
            pgbench(bench, n3, others / 10)?;
            joined(theirs.join())
        })?;
    }
    // What was committed asynchronously is written out.
    wait::sql(n3, "SELECT pg_logical_emit_message(true, 'flush', '')")?;
    cluster.wait_arrived("n3", "n1")?;
    let value = |question: &str| wait::value(n3, question);
    let settings = [
        (
            "spock.rescue_origin",
            value("SELECT roident FROM pg_replication_origin JOIN pg_subscription s ON roname = 'pg_' || s.oid")?,
        ),
        ("spock.rescue_skip_lsn", skip),
        ("spock.rescue_stop_lsn", applied(&cluster, "n3", "n1")?),
        ("spock.rescue_tables", value("SELECT string_agg(srrelid::oid::text, ',') FROM pg_subscription_rel")?),
    ];
    let streamed = (own.transactions(n3, &settings)?, native.transactions(n3, &[])?);
    if streamed != (missing as f64, (missing + others) as f64) {
        return Err(Error::Verification(format!("{streamed:?} transactions are streamed, not {missing} and {others}")));
    }
    let mut figure = Figure::new("skip");
    for pair in 0..bench.pairs() {
        let seconds = |taken: Result<Duration>| taken.map(|taken| taken.as_secs_f64());
        let (ours, baseline) = alternating(
            pair,
            || seconds(receive(bench, n3, &own, &settings, &[])),
            || seconds(pgoutput(bench, n3, &native)),
        )?;
        figure.ours.push(ours);
        figure.baseline.push(baseline);
        report::pair(bench, "skip", ours, baseline);
    }
    cluster.stop()?;
    Ok(vec![figure])
}
