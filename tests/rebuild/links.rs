//! The link between target and source alone is cut or stalls, in the middle of a chunk and of a comparison: both nodes live and
//! everybody else hears them. n2 reaches n3 by a link of its own.

use super::kills::{call_again, damage};
use super::run::{TABLES, while_writing};
use crate::cluster::link::{Link, Trouble};
use crate::cluster::{Action, Cluster};
use crate::failpoint_names as names;
use crate::rescue::drain;
use crate::slot_keeps::{quick, start_mesh};
use spock_recovery_cluster::deadline;
use std::thread;
use std::time::Duration;

const PARTS: &str = "CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY HASH (id)";

const CALL: &str = "CALL spock.rebuild_run('n2', 'n3')";
const COPY_PARTS: &str = "CALL spock.rebuild_run('n2', 'n3', tables := ARRAY['parts'::regclass], method := 'copy')";

/// The chunks that are there, and when each came.
const CHUNKS: &str = "SELECT string_agg(chunk || ' ' || rows || ' ' || applied_at, ', ' ORDER BY relation::text, chunk)
    FROM spock.rebuild_manifest((SELECT DISTINCT intent_id FROM spock.rebuild_progress))";

const COUNT: &str =
    "SELECT count(*) FROM spock.rebuild_manifest((SELECT DISTINCT intent_id FROM spock.rebuild_progress))";

const DIGEST: &str = "SELECT string_agg(d, ' ') FROM (
      SELECT 't ' || count(*) || ' ' || sum(hashtextextended(x::text, 0)) FROM t x
      UNION ALL SELECT 'other ' || count(*) || ' ' || sum(hashtextextended(x::text, 0)) FROM other x
      UNION ALL SELECT 'parts ' || count(*) || ' ' || sum(hashtextextended(x::text, 0)) FROM parts x) s(d)";

fn cluster(name: &str) -> (Cluster, Link) {
    let parts: String = (0..6)
        .map(|part| {
            format!("; CREATE TABLE parts_{part} PARTITION OF parts FOR VALUES WITH (MODULUS 6, REMAINDER {part})")
        })
        .collect();
    let cluster = start_mesh(quick(name, 3), TABLES);
    // Each partition is a chunk of the whole table.
    cluster.sql("ALTER PUBLICATION mesh SET (publish_via_partition_root = true)");
    cluster.sql(&format!("{PARTS}{parts}"));
    cluster.refresh_mesh();
    for text in [
        "could not receive data from client",
        "unexpected EOF on client connection",
        "connection to client lost",
        "terminating background worker \"spock_recovery copy\"",
    ] {
        cluster.expect_log(text);
    }
    let [n1, n2, n3] = cluster.all();
    let link = Link::to(n3);
    n2.sql(&format!("CREATE USER MAPPING FOR PUBLIC SERVER n3 OPTIONS (dsn '{}')", link.dsn()));
    n1.sql("INSERT INTO t (node, v) SELECT 'n1', 'early ' || g FROM generate_series(1, 40000) g");
    n1.sql("INSERT INTO parts SELECT g, repeat(md5(g::text), 200) FROM generate_series(1, 6000) g");
    n3.sql("INSERT INTO other SELECT g, 'of n3' FROM generate_series(1, 300) g");
    for (one, other) in [(n1, n2), (n1, n3), (n3, n2)] {
        drain(one, other);
    }
    (cluster, link)
}

fn assert_level(cluster: &Cluster) {
    let [n1, n2, n3] = cluster.all();
    for (one, other) in [(n1, n2), (n1, n3), (n2, n3)] {
        drain(one, other);
    }
    assert_eq!((n2.value(DIGEST), n1.value(DIGEST)), (n3.value(DIGEST), n3.value(DIGEST)));
    for node in [n2, n3] {
        node.wait_until("SELECT count(*) FROM spock_internal.pins()", "0");
    }
    n2.wait_until("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'", "0");
    assert_eq!(n2.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'spock_parked%'"), "0");
}

/// The trouble begins when a piece of the third chunk of one of the two streams has arrived, and ends when the target has
/// noticed it.
fn in_the_middle_of_a_chunk(cluster: &Cluster, link: &Link, trouble: Trouble, notice: &str) {
    let [n1, n2, n3] = cluster.all();
    n2.arm(names::COPY_AFTER_COMMIT, Action::Wait);
    let (before, after) = thread::scope(|scope| {
        let call = scope.spawn(|| while_writing(&[n1, n3], || n2.try_sql(COPY_PARTS)));
        n2.wait_hit(names::COPY_AFTER_COMMIT);
        n2.wait_until(COUNT, "2");
        n2.arm(names::COPY_PIECE, Action::Wait);
        n2.disarm(names::COPY_AFTER_COMMIT);
        n2.wait_hit(names::COPY_PIECE);
        link.begin(trouble);
        let before = n2.value(CHUNKS);
        n2.arm(names::REBUILD_COPIED, Action::Wait);
        n2.disarm(names::COPY_PIECE);
        n2.wait_log(notice);
        link.repair();
        n2.wait_hit(names::REBUILD_COPIED);
        let after = n2.value(CHUNKS);
        n2.disarm(names::REBUILD_COPIED);
        call.join().expect("it ends").expect("it goes on by itself");
        (before, after)
    });
    let (before, after): (Vec<&str>, Vec<&str>) = (before.split(", ").collect(), after.split(", ").collect());
    assert_eq!(after.len(), 6, "{after:?}");
    assert!((2..6).contains(&before.len()), "{before:?}");
    assert!(before.iter().all(|chunk| after.contains(chunk)), "what had come came again: {before:?}: {after:?}");
}

/// The trouble has been ordered; it ends when the target has noticed it.
fn in_the_middle_of_a_comparison(cluster: &Cluster, link: &Link) {
    let [n1, n2, n3] = cluster.all();
    thread::scope(|scope| {
        let call = scope.spawn(|| while_writing(&[n1, n2, n3], || call_again(n2, CALL)));
        link.wait_begun();
        // An answer may take a minute.
        let noticed = deadline::poll(Duration::from_secs(150), || {
            n2.log_contains("rebuilding public.t is tried again").then_some(())
        });
        noticed.unwrap_or_else(|| panic!("it is not noticed: {}", n2.log()));
        link.repair();
        call.join().expect("it ends");
    });
}

#[test]
fn a_link_that_is_cut_in_the_middle_costs_no_chunk_and_brings_nothing_twice() {
    let (cluster, link) = cluster("rebuild_link_cut");
    let [_, n2, _] = cluster.all();
    in_the_middle_of_a_chunk(&cluster, &link, Trouble::Cut, "rebuilding public.parts is tried again");
    assert_level(&cluster);
    // In the middle of a comparison.
    damage(n2);
    link.begin_at("range_hashes", 2, Trouble::Cut);
    in_the_middle_of_a_comparison(&cluster, &link);
    assert_level(&cluster);
}

#[test]
fn a_link_that_stalls_is_noticed_on_both_sides() {
    let (cluster, link) = cluster("rebuild_link_stalls");
    let [_, n2, n3] = cluster.all();
    cluster.expect_log("terminating connection due to administrator command");
    n2.set(&[("wal_receiver_timeout", "3s")]);
    in_the_middle_of_a_chunk(&cluster, &link, Trouble::Stall, "no answer within 3000 ms");
    assert_level(&cluster);
    // The source's sessions, which the target cannot close, hold back VACUUM no longer than the pin.
    let readers = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'spock_recovery copy'";
    n3.wait_until(readers, "0");
    // In the middle of a comparison.
    damage(n2);
    link.begin_at("range_hashes", 2, Trouble::Stall);
    in_the_middle_of_a_comparison(&cluster, &link);
    assert_level(&cluster);
    n3.wait_until("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'spock_recovery rescue' AND backend_xmin IS NOT NULL", "0");
}
