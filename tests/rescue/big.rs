//! A gap as large as they come, beside the survivors' own traffic, and what it costs in memory.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use spock_recovery_cluster::process;

use super::{
    HELD, applied, assert_identical, begin, drain, fail, hold, hold_back, quick, rescue, rows_of_n1, start, summary,
    wait_completed, wait_held, wait_tidy,
};
use crate::cluster::Node;
use crate::slot_keeps::start_mesh;

const TRANSACTIONS: u32 = 100_000;

/// Of the large transactions; `make soak` has more.
fn rows() -> u32 {
    env::var("SOAK_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(100_000)
}

/// Both write rows of their own while `act` runs; how many each has written.
fn under_traffic(nodes: [&Node; 2], act: impl FnOnce()) -> [u32; 2] {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers = nodes.map(|node| scope.spawn(|| write_traffic(node, &ended)));
        let acted = catch_unwind(AssertUnwindSafe(act));
        ended.store(true, Ordering::SeqCst);
        let written = writers.map(|writer| writer.join().expect("the writer has written to its end"));
        acted.unwrap_or_else(|panic| resume_unwind(panic));
        written
    })
}

/// Some hundred transactions per second: traffic, and not a test of how much the machine can do.
fn write_traffic(node: &Node, ended: &AtomicBool) -> u32 {
    let (mut session, name) = (node.session(), node.name());
    let mut number = 0;
    while !ended.load(Ordering::SeqCst) {
        number += 1;
        session.sql(&format!("INSERT INTO traffic VALUES ('{name}', {number}, 0)"));
        session.sql(&format!("UPDATE traffic SET v = v + 1 WHERE node = '{name}' AND n = {number} / 2"));
        session.sql("SELECT pg_sleep(0.003)");
    }
    number
}

#[test]
fn a_hundred_thousand_transactions_and_a_huge_one_arrive_while_the_survivors_go_on_writing() {
    let tables = "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY);
                  CREATE TABLE list (id int PRIMARY KEY); CREATE TABLE wide (id int PRIMARY KEY, v text);
                  CREATE TABLE traffic (node text, n int, v int, PRIMARY KEY (node, n))";
    let cluster = start("rescue_big", tables);
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    let mut session = n1.session();
    session.sql("SET synchronous_commit = off");
    let mut seconds = 0.0;
    let written = under_traffic([n2, n3], || {
        session.sql(&format!(
            "DO $$ BEGIN FOR n IN 1 .. {TRANSACTIONS} LOOP
                 IF n % 20000 = 0 THEN TRUNCATE list; INSERT INTO list VALUES (n);
                 ELSIF n % 10 = 7 THEN DELETE FROM t WHERE id = n - 2; INSERT INTO u VALUES (n);
                 ELSIF n % 10 = 8 THEN UPDATE t SET v = n WHERE id BETWEEN n - 20 AND n - 1;
                 ELSIF n % 100 = 3 THEN INSERT INTO list VALUES (n);
                 ELSE INSERT INTO t VALUES (n, 0); END IF;
                 COMMIT; END LOOP; END $$"
        ));
        session.sql(&format!("INSERT INTO wide SELECT g, 'row ' || g FROM generate_series(1, {}) g", rows()));
        fail(&cluster);
        let begun = Instant::now();
        rescue(n2, n3, "");
        seconds = begun.elapsed().as_secs_f64();
    });
    drain(n2, n3);
    eprintln!(
        "rescued {} transactions, {} rows, {} bytes in {seconds:.1} s; meanwhile {written:?} transactions of the survivors",
        summary(n2, "transactions"),
        summary(n2, "rows"),
        summary(n2, "bytes")
    );
    assert_identical(n2, n3);
    assert_eq!(applied(n2), applied(n3));
    assert_eq!(summary(n2, "transactions"), (TRANSACTIONS + 1).to_string());
    assert_eq!(rows_of_n1(n2, "wide"), rows() as usize);
    assert_eq!(n2.value("SELECT count(*) FROM traffic WHERE node = 'n2'"), written[0].to_string());
    assert_eq!(n2.value("SELECT count(*) FROM traffic WHERE node = 'n3'"), written[1].to_string());
}

/// The most memory that a process has had until now, in kB, with what it has touched of shared memory.
fn peak_memory(pid: i32) -> u64 {
    process::status(pid).and_then(|status| status.vmhwm).expect("the process is there")
}

#[test]
fn the_memory_of_the_rescue_worker_does_not_grow_with_a_transactions_size() {
    const SMALL: u32 = 10_000;
    /// A quarter of what the large transaction's rows are: who kept them would need more.
    const GROWTH_KB: u64 = 8 * 1024;
    let tables = format!("{HELD} CREATE TABLE wide (id int PRIMARY KEY, v text)");
    // Shared buffers count once they are touched: few of them, so that what grows is the worker's own.
    let builder = quick("rescue_memory", 3).setting("shared_buffers", "2MB");
    let cluster = start_mesh(builder, &tables);
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    let mut session = n1.session();
    session.sql("SET synchronous_commit = off");
    let mut first = 1;
    let mut write = |rows: u32| {
        let last = first + rows - 1;
        session.sql(&format!("INSERT INTO wide SELECT g, repeat('x', 350) FROM generate_series({first}, {last}) g"));
        session
            .sql(&format!("UPDATE wide SET v = repeat('y', 350) WHERE id BETWEEN {first} AND {last} AND id % 4 = 0"));
        session.sql(&format!("INSERT INTO held VALUES ({last})"));
        first = last + 1;
        session.value("SELECT pg_current_wal_insert_lsn()")
    };
    let between = write(SMALL);
    let large_rows = rows();
    write(large_rows);
    fail(&cluster);

    let peak = |options: &str| {
        let mut held = hold(n2);
        let begun = Instant::now();
        begin(n2, n3, options);
        // All but the last transaction is applied: the worker's peak is behind it.
        let peak = peak_memory(wait_held(n2));
        let seconds = begun.elapsed().as_secs_f64();
        held.sql("COMMIT");
        wait_completed(n2);
        wait_tidy(n2, n3);
        (peak, seconds)
    };
    let (small, _) = peak(&format!(", stop_lsn => '{between}'"));
    let (large, seconds) = peak("");
    eprintln!(
        "the rescue worker's peak: {small} kB for {SMALL} rows, {large} kB for {large_rows} rows, in {seconds:.1} s"
    );
    assert!(large < small + GROWTH_KB, "{small} kB for {SMALL} rows, {large} kB for {large_rows} rows");
    assert_identical(n2, n3);
    assert_eq!(rows_of_n1(n2, "wide"), (SMALL + large_rows) as usize);
}
