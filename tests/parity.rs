//! Whatever core's apply can replicate, the rescue replicates: the same workload of n1 arrives natively at a twin of n2 and
//! by a rescue at n2, and afterwards both hold the same. docs/parity.md says which test shows what.
//!
//! The twin is a database of n3's server beside the node n3: it has n2's tables, whatever those of the source look like.
//! One cluster and one rescue serve all cases of a topic, each in a schema of its own.

mod code;
mod columns;
mod constraints;
mod definitions;
mod documented;
mod encodings;
mod identity;
mod inheritance;
mod partitions;
mod publications;
mod roles;
mod runs;
mod transactions;
mod triggers;
mod truncates;
mod types;

use crate::cluster::{Builder, Cluster, Database, Node, Session};
use crate::rescue::{drain, fail, hold_back, rescue};
use crate::slot_keeps::{make_mesh, quick, wait_confirmed};
use spock_recovery_cluster::mesh::subscription_name;

/// What is done in a schema of its own, which is first in the search path of every statement here.
#[derive(Clone, Copy, Default)]
pub struct Case<'a> {
    /// What it shows; the schema's name.
    pub name: &'a str,
    /// The tables, on all nodes and on the twin.
    pub tables: &'a str,
    /// What differs on n1, on n3, on n2 and its twin.
    pub on_n1: &'a str,
    pub on_source: &'a str,
    pub on_target: &'a str,
    /// What all have before n2 is held back.
    pub before: &'a str,
    /// What n2 lacks: each is one transaction, unless it says otherwise itself.
    pub gap: &'a [&'a str],
}

/// How n1 publishes and how it is subscribed to.
#[derive(Clone, Copy)]
pub struct Wiring<'a> {
    pub publication: &'a str,
    /// Further options of the subscriptions to n1, each after a comma.
    pub options: &'a str,
}

impl Default for Wiring<'_> {
    fn default() -> Self {
        Wiring { publication: "FOR ALL TABLES", options: "" }
    }
}

pub fn builder(name: &str) -> Builder {
    // What is large is streamed before it commits, wherever that is asked for.
    quick(name, 3).setting("logical_decoding_work_mem", "64kB").setting("max_prepared_transactions", "10")
}

/// Starts, plays all cases through a rescue, and compares.
pub fn play(name: &str, wiring: Wiring<'_>, cases: &[Case<'_>]) -> Cluster {
    let cluster = start(builder(name).start(), wiring, cases);
    let before = begin_gap(&cluster, cases);
    end_and_rescue(&cluster);
    assert_alike(&cluster, cases, &before);
    cluster
}

/// Nodes in a mesh and the twin, with the tables of the cases, and what they hold before the gap.
pub fn start(cluster: Cluster, wiring: Wiring<'_>, cases: &[Case<'_>]) -> Cluster {
    let cluster = make_mesh(cluster, |cluster| {
        let [n1, n2, n3] = cluster.all();
        let encoding = n2.value("SELECT getdatabaseencoding()");
        n3.sql(&format!("CREATE DATABASE twin TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"));
        twin(cluster).sql("CREATE TABLE first (node text PRIMARY KEY)");
        for case in cases {
            define(n1.db("postgres"), case, case.on_n1);
            define(n2.db("postgres"), case, case.on_target);
            define(n3.db("postgres"), case, case.on_source);
            define(twin(cluster), case, case.on_target);
        }
        wire(cluster, wiring);
    });
    let [n1, n2, n3] = cluster.all();
    for case in cases {
        session_in(n1.db("postgres"), case.name).sql(case.before);
    }
    drain(n1, n2);
    drain(n1, n3);
    wait_twin(n1);
    cluster
}

/// n2's native counterpart.
pub fn twin(cluster: &Cluster) -> Database<'_> {
    cluster.node("n3").db("twin")
}

/// The twin has everything of n1.
pub fn wait_twin(n1: &Node) {
    n1.sql("SELECT pg_logical_emit_message(true, 'flush', '')");
    wait_confirmed(n1, "sub_twin_n1");
}

fn define(database: Database<'_>, case: &Case<'_>, differing: &str) {
    database.sql(&format!("CREATE SCHEMA {}", case.name));
    let mut session = session_in(database, case.name);
    session.sql(case.tables);
    session.sql(differing);
}

pub fn session_in<'a>(database: Database<'a>, schema: &str) -> Session<'a> {
    let mut session = database.session();
    session.sql(&format!("SET search_path = {schema}, public"));
    session
}

fn wire(cluster: &Cluster, wiring: Wiring<'_>) {
    let nodes: [&Node; 3] = cluster.all();
    for node in nodes {
        // The tables of n2 and n3 are not alike; nothing but `first` is written there.
        let what = if node.name() == "n1" { wiring.publication } else { "FOR TABLE first" };
        node.sql(&format!("CREATE PUBLICATION mesh {what}"));
    }
    let subscribe = |target: Database<'_>, name: &str, source: &Node| {
        let options = if source.name() == "n1" { wiring.options } else { "" };
        target.sql(&format!(
            "CREATE SUBSCRIPTION {} CONNECTION '{}' PUBLICATION mesh WITH (origin = none, copy_data = false{options})",
            subscription_name(name, source.name()),
            source.dsn("postgres")
        ));
    };
    for target in nodes {
        for source in nodes.iter().filter(|source| source.name() != target.name()) {
            subscribe(target.db("postgres"), target.name(), source);
        }
    }
    subscribe(twin(cluster), "twin", nodes[0]);
    cluster.refresh_mesh();
}

/// n2 and its twin are held back, and n1 writes what they lack. What the twin held before that.
pub fn begin_gap(cluster: &Cluster, cases: &[Case<'_>]) -> Vec<Vec<String>> {
    let [n1, n2, _] = cluster.all();
    hold_back(n2);
    twin(cluster).sql("ALTER SUBSCRIPTION sub_twin_n1 DISABLE");
    let working = "SELECT count(*) FROM pg_stat_subscription WHERE subname = 'sub_twin_n1' AND pid IS NOT NULL";
    twin(cluster).wait_until(working, "0");
    let before = cases.iter().map(|case| contents(twin(cluster), case.name)).collect();
    for case in cases {
        let mut session = session_in(n1.db("postgres"), case.name);
        for transaction in case.gap {
            session.sql(transaction);
        }
    }
    before
}

/// The twin gets everything natively, as n3 does; then n1 dies, and n2 is rescued.
pub fn end_and_rescue(cluster: &Cluster) {
    let [n1, n2, n3] = cluster.all();
    twin(cluster).sql("ALTER SUBSCRIPTION sub_twin_n1 ENABLE");
    wait_twin(n1);
    fail(cluster);
    rescue(n2, n3, "");
}

/// Everything in the schema: every row as text with the node and the time of its commit, and where sequences stand.
pub fn contents(database: Database<'_>, schema: &str) -> Vec<String> {
    let mut session = database.session();
    let relations = session.value(&format!(
        "SELECT relkind, relname FROM pg_class WHERE relkind IN ('r', 'S') AND relnamespace = '{schema}'::regnamespace
          ORDER BY relname"
    ));
    let mut all = Vec::new();
    for relation in relations.lines() {
        let (kind, name) = relation.split_once('|').expect("two columns");
        let from = format!("{schema}.\"{}\"", name.replace('"', "\"\""));
        let question = if kind == "S" {
            format!("SELECT last_value || ' ' || is_called FROM {from}")
        } else {
            format!(
                "SELECT t::text || coalesce(' of ' || o.node || ' at ' || x.timestamp, ' of itself')
                   FROM {from} t CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(t.xmin) x
                   LEFT JOIN (SELECT roident, split_part(subname, '_', 3) AS node
                                FROM pg_replication_origin JOIN pg_subscription s ON roname = 'pg_' || s.oid) o
                          ON o.roident = x.roident"
            )
        };
        let mut lines: Vec<String> = session
            .rows(&question)
            .iter()
            .map(|row| format!("{name}: {}", row[0].as_deref().unwrap_or("NULL")))
            .collect();
        lines.sort();
        all.append(&mut lines);
    }
    all
}

/// n2 holds what its twin holds, which is not what it held before.
pub fn assert_alike(cluster: &Cluster, cases: &[Case<'_>], before: &[Vec<String>]) {
    let mut differing = String::new();
    for (case, before) in cases.iter().zip(before) {
        let rescued = contents(cluster.node("n2").db("postgres"), case.name);
        let native = contents(twin(cluster), case.name);
        assert!(*before != native, "{}: nothing has changed in the gap: {native:#?}", case.name);
        if rescued != native {
            let only = |one: &[String], other: &[String]| -> Vec<String> {
                let alone = one.iter().filter(|line| !other.contains(line));
                alone.take(10).map(|line| format!("    {}", line.chars().take(300).collect::<String>())).collect()
            };
            differing.push_str(&format!(
                "{}: {} rows by core, {} by the rescue\n  by core alone:\n{}\n  by the rescue alone:\n{}\n",
                case.name,
                native.len(),
                rescued.len(),
                only(&native, &rescued).join("\n"),
                only(&rescued, &native).join("\n")
            ));
        }
    }
    assert!(differing.is_empty(), "n2 differs from its twin\n{differing}");
}
