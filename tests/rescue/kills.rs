//! kill -9 of everybody who has to do with a rescue, at every failpoint of it and at random moments: nothing is lost, and
//! nothing comes twice.
//!
//! The gap is cut into slices, one rescue each, so that one cluster serves many kills.

use std::env;
use std::thread;
use std::time::{Duration, SystemTime};

use super::{
    LIMIT, Session, applied, assert_identical, clone_slot, create_rescue, drain, fail, hold_back, quick,
    wait_completed, wait_tidy,
};
use crate::cluster::{Action, Cluster, Node};
use crate::failpoint_names as names;
use crate::slot_keeps::start_mesh;
use spock_recovery_cluster::deadline;

/// A rescue of a slice takes about as long.
const WINDOW_MS: u64 = 500;

/// Rows of `serial` have no key: what comes twice is there twice. n is without holes, `counter` is the last of them.
const TABLES: &str = "CREATE TABLE serial (n bigint, slice int);
                      CREATE TABLE counter (id int PRIMARY KEY, v bigint); CREATE TABLE passing (n bigint PRIMARY KEY)";

/// A cluster whose n2 lacks so many slices of n1; where each ends there.
fn sliced(name: &str, slices: usize, transactions: u32) -> (Cluster, Slices) {
    let builder = quick(name, 3).durable();
    let cluster = start_mesh(builder, TABLES);
    let [n1, n2, _] = cluster.all();
    n1.sql("INSERT INTO counter VALUES (1, 0)");
    n2.wait_until("SELECT v FROM counter", "0");
    hold_back(n2);
    let mut session = n1.session();
    session.sql("SET synchronous_commit = off");
    let ends = (1..=slices).map(|slice| write_slice(&mut session, slice, transactions)).collect();
    fail(&cluster);
    (cluster, Slices { ends, transactions, done: 0 })
}

fn write_slice(session: &mut Session<'_>, slice: usize, transactions: u32) -> String {
    let first = (slice - 1) * transactions as usize + 1;
    let last = slice * transactions as usize;
    session.sql(&format!(
        "DO $$ BEGIN FOR i IN {first} .. {last} LOOP
             INSERT INTO serial VALUES (i, {slice}); UPDATE counter SET v = i;
             INSERT INTO passing VALUES (i); DELETE FROM passing WHERE n = i - 1; COMMIT; END LOOP; END $$"
    ));
    session.value("SELECT pg_current_wal_insert_lsn()")
}

struct Slices {
    ends: Vec<String>,
    transactions: u32,
    done: usize,
}

impl Slices {
    /// Begins the rescue of the next slice, from a clone that is made for it beforehand.
    fn begin(&mut self, n2: &Node, n3: &Node) {
        let statement = create_rescue(&clone_slot(n3), &self.stop());
        self.begin_by(n2, &statement);
    }

    /// The same, so that it comes to the failpoint: the recovery may have to make its clone itself.
    fn begin_towards(&mut self, failpoint: &str, n2: &Node, n3: &Node) {
        match failpoint {
            names::RESCUE_CLONE_MADE => {
                let statement = format!("SELECT spock_internal.begin_recovery('n1', 'n3', 'n2'{})", self.stop());
                self.begin_by(n2, &statement);
            }
            _ => self.begin(n2, n3),
        }
    }

    /// Who calls may be killed in it, and then calls again.
    fn begin_by(&mut self, n2: &Node, statement: &str) {
        let begun = deadline::poll(LIMIT, || match n2.try_sql(statement) {
            Ok(_) => Some(()),
            Err(error) if error.is_disconnection() => None,
            Err(error) => panic!("{error}"),
        });
        begun.expect("n2 is up again");
        self.done += 1;
    }

    /// The last slice ends where n3 does.
    fn stop(&self) -> String {
        match self.done + 1 == self.ends.len() {
            true => String::new(),
            false => format!(", stop_lsn => '{}'", self.ends[self.done]),
        }
    }

    /// The rescue of the slice comes to its end, with nothing lost and nothing twice.
    fn assert_exact(&self, n2: &Node, n3: &Node, what: &str) {
        wait_completed(n2);
        wait_tidy(n2, n3);
        let rows = self.done * self.transactions as usize;
        assert_eq!(
            n2.value("SELECT count(*), count(DISTINCT n), min(n), max(n), (SELECT v FROM counter), (SELECT string_agg(n::text, ',') FROM passing) FROM serial"),
            format!("{rows}|{rows}|1|{rows}|{rows}|{rows}"),
            "{what}: rows, different ones, first, last, counter, the one that passes"
        );
    }

    fn assert_all(&self, n2: &Node, n3: &Node) {
        assert_eq!(self.done, self.ends.len());
        drain(n2, n3);
        assert_identical(n2, n3);
        assert_eq!(applied(n2), applied(n3));
    }
}

/// The failpoints of a rescue on its target, whatever they are: a new one has its kills at once.
fn failpoints() -> Vec<&'static str> {
    let constants = include_str!("../../src/failpoint/names.rs").lines();
    let names: Vec<&str> = constants
        .filter(|line| line.starts_with("pub const RESCUE_"))
        .map(|line| line.split('"').nth(1).expect("a constant with its name"))
        .collect();
    assert!(!names.is_empty(), "no failpoint of the rescue");
    names
}

#[test]
fn a_rescue_whose_worker_is_killed_at_any_failpoint_loses_nothing_and_repeats_nothing() {
    let failpoints = failpoints();
    let (cluster, mut slices) = sliced("rescue_kill_worker", failpoints.len(), 300);
    let [_, n2, n3] = cluster.all();
    for failpoint in failpoints {
        n2.arm(failpoint, Action::Crash);
        slices.begin_towards(failpoint, n2, n3);
        n2.wait_hit(failpoint);
        slices.assert_exact(n2, n3, failpoint);
    }
    slices.assert_all(n2, n3);
}

#[test]
fn a_rescue_whose_target_is_killed_at_any_failpoint_loses_nothing_and_repeats_nothing() {
    let failpoints = failpoints();
    let (cluster, mut slices) = sliced("rescue_kill_target", failpoints.len(), 300);
    let [_, n2, n3] = cluster.all();
    for failpoint in failpoints {
        n2.arm(failpoint, Action::Wait);
        slices.begin_towards(failpoint, n2, n3);
        n2.wait_hit(failpoint);
        n2.kill9();
        n2.disarm(failpoint);
        n2.start();
        slices.assert_exact(n2, n3, failpoint);
    }
    slices.assert_all(n2, n3);
}

#[test]
fn a_rescue_whose_source_is_killed_at_any_failpoint_loses_nothing_and_repeats_nothing() {
    let failpoints = failpoints();
    let (cluster, mut slices) = sliced("rescue_kill_source", failpoints.len(), 300);
    let [_, n2, n3] = cluster.all();
    for failpoint in failpoints {
        n2.arm(failpoint, Action::Wait);
        slices.begin_towards(failpoint, n2, n3);
        n2.wait_hit(failpoint);
        n3.kill9();
        n2.disarm(failpoint);
        n3.start();
        slices.assert_exact(n2, n3, failpoint);
    }
    slices.assert_all(n2, n3);
}

/// Random moments, the same in each `make test` and others in each `make soak`.
struct Moments(u64);

impl Moments {
    fn new() -> (usize, Moments) {
        let soak = env::var("SOAK_KILLS").ok().and_then(|kills| kills.parse().ok());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").subsec_nanos();
        let seed = env::var("SOAK_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(if soak.is_some() { u64::from(now) } else { 4 });
        eprintln!("SOAK_SEED={seed}");
        (soak.unwrap_or(8), Moments(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1))
    }

    /// xorshift64.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn a_rescue_killed_at_random_moments_loses_nothing_and_repeats_nothing() {
    let (kills, mut moments) = Moments::new();
    let (cluster, mut slices) = sliced("rescue_kill_random", kills, 2_000);
    let [_, n2, n3] = cluster.all();
    let mut hit = 0;
    for number in 0..kills {
        slices.begin(n2, n3);
        let moment = moments.next() % WINDOW_MS;
        // The moment is what is tested: no condition stands for it.
        thread::sleep(Duration::from_millis(moment));
        let worker = n2.processes().into_iter().find(|process| process.title.contains("spock_recovery rescue"));
        hit += usize::from(worker.is_some());
        let victim = match (number % 4, worker) {
            (0, Some(worker)) => {
                n2.kill9_process(worker.pid);
                "rescue worker"
            }
            (1, _) => {
                n3.kill9();
                n3.start();
                "source"
            }
            (2, _) => {
                n3.kill9();
                n2.kill9();
                n2.start();
                n3.start();
                "both"
            }
            _ => {
                n2.kill9();
                n2.start();
                "target"
            }
        };
        slices.assert_exact(n2, n3, &format!("{victim} killed after {moment} ms"));
    }
    slices.assert_all(n2, n3);
    eprintln!("{hit} of {kills} kills while a rescue worker was at work");
    assert!(hit * 3 >= kills, "too few kills came while a rescue worker was at work: {hit} of {kills}");
}
