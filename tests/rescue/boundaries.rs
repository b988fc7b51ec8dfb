//! Where a rescue begins and ends, exact to the transaction.

use postgres::types::PgLsn;

use super::{
    clone_slot, create_rescue, end_gap, hold_back, origin_position, start, summary, wait_applied_lsn, wait_completed,
    wait_tidy,
};
use crate::cluster::{Cluster, Node};

/// The gap: transaction k inserts the row k, and commits at this second. 15 comes after 14 and was committed before it.
const SECONDS: [u32; 18] = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130, 200, 150, 300, 310, 320];

/// A position in n1's WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lsn(u64);

impl Lsn {
    fn parse(text: &str) -> Lsn {
        Lsn(text.parse::<PgLsn>().expect("a position").into())
    }

    fn text(self) -> String {
        PgLsn::from(self.0).to_string()
    }

    fn before(self) -> Lsn {
        Lsn(self.0 - 1)
    }

    fn after(self) -> Lsn {
        Lsn(self.0 + 1)
    }

    fn middle(self, other: Lsn) -> Lsn {
        Lsn(self.0 + (other.0 - self.0) / 2)
    }
}

/// n2 lacks these transactions; their ends.
fn gap(cluster: &Cluster) -> Vec<Lsn> {
    let [n1, n2, n3] = cluster.all();
    // Times are set by hand, which needs an origin: n3 takes what has one.
    n3.sql("ALTER SUBSCRIPTION sub_n3_n1 SET (origin = any)");
    hold_back(n2);
    let mut session = n1.session();
    session.sql("SELECT pg_replication_origin_create('hand'), pg_replication_origin_session_setup('hand')");
    let mut ends = vec![wait_applied_lsn(n1, n3)];
    for (index, second) in SECONDS.iter().enumerate() {
        let (number, time) = (index + 1, time(*second, 0));
        session.sql(&format!(
            "BEGIN; SELECT pg_replication_origin_xact_setup('0/{number:X}', {time}); INSERT INTO t VALUES ({number}); COMMIT"
        ));
        n3.wait_until(&format!("SELECT count(*) FROM t WHERE id = {number}"), "1");
        ends.push(wait_applied_lsn(n1, n3));
    }
    end_gap(n1);
    ends.iter().map(|end| Lsn::parse(end)).collect()
}

fn time(second: u32, microseconds: i32) -> String {
    format!("timestamptz '2026-01-01 00:00:00Z' + interval '{second} s' + interval '{microseconds} microseconds'")
}

/// What is asked of one rescue.
#[derive(Default)]
struct Asked {
    skip: Option<Lsn>,
    stop: Option<Lsn>,
    until: Option<String>,
}

impl Asked {
    fn stop(stop: Lsn) -> Asked {
        Asked { stop: Some(stop), ..Asked::default() }
    }

    fn between(skip: Lsn, stop: Lsn) -> Asked {
        Asked { skip: Some(skip), stop: Some(stop), until: None }
    }

    fn until(second: u32, microseconds: i32) -> Asked {
        Asked { until: Some(time(second, microseconds)), ..Asked::default() }
    }

    fn options(&self) -> String {
        let lsn = |name, lsn: Option<Lsn>| lsn.map(|lsn| format!(", {name} => '{}'", lsn.text())).unwrap_or_default();
        let until = self.until.as_ref().map(|time| format!(", stop_timestamp => {time}")).unwrap_or_default();
        format!("{}{}{until}", lsn("skip_lsn", self.skip), lsn("stop_lsn", self.stop))
    }
}

/// Rescues what is asked; the rows that are new on n2, and where its origin stands.
fn rescued(n2: &Node, n3: &Node, asked: &Asked) -> (Vec<u32>, Lsn) {
    let ids = || -> Vec<u32> {
        let rows = n2.value("SELECT id FROM t ORDER BY id");
        rows.lines().map(|id| id.parse().expect("an id")).collect()
    };
    let before = ids();
    n2.sql(&create_rescue(&clone_slot(n3), &asked.options()));
    wait_completed(n2);
    wait_tidy(n2, n3);
    let new: Vec<u32> = ids().into_iter().filter(|id| !before.contains(id)).collect();
    assert_eq!(summary(n2, "transactions"), new.len().to_string());
    let position = Lsn::parse(&origin_position(n2));
    assert_eq!(Lsn::parse(&summary(n2, "final_lsn")), position);
    assert_eq!(Lsn::parse(&super::applied(n2)), position, "what n2 tells its peers again");
    (new, position)
}

#[test]
fn a_rescue_delivers_exactly_the_transactions_between_its_bounds_and_leaves_the_origin_at_its_end() {
    let cluster = start("rescue_boundaries", "CREATE TABLE t (id int PRIMARY KEY)");
    let [_, n2, n3] = cluster.all();
    let end = gap(&cluster);
    let middle = |index: usize| end[index].middle(end[index + 1]);
    // One after the other, each from where the one before has left off.
    let steps: Vec<(&str, Asked, Vec<u32>, Lsn)> = vec![
        ("from what is applied to the first", Asked::between(end[0], end[1]), vec![1], end[1]),
        ("to one before an end", Asked::stop(end[2].before()), vec![], end[2].before()),
        ("to one after an end", Asked::stop(end[2].after()), vec![2], end[2].after()),
        ("the first is skipped", Asked::between(end[3], end[4]), vec![4], end[4]),
        ("one before an end is skipped", Asked::between(end[5].before(), end[5]), vec![5], end[5]),
        ("one after an end is skipped", Asked::between(end[6].after(), end[7]), vec![7], end[7]),
        ("skip is stop", Asked::between(end[8], end[8]), vec![], end[8]),
        ("stop between two commits", Asked::stop(middle(9)), vec![9], middle(9)),
        ("skip between two commits", Asked::between(middle(10), end[11]), vec![11], end[11]),
        ("until a commit's very time", Asked::until(120, 0), vec![12], end[12]),
        ("until a microsecond before", Asked::until(130, -1), vec![], end[12]),
        // 14 was committed later than that, and 15 comes after it.
        ("until the time of one that comes too late", Asked::until(150, 0), vec![13], end[13]),
        ("until the time of one before that", Asked::until(200, 0), vec![14, 15], end[15]),
        ("a stop before the time", Asked { until: Some(time(9999, 0)), ..Asked::stop(end[16]) }, vec![16], end[16]),
        ("a time before the stop", Asked { until: Some(time(310, 0)), ..Asked::stop(end[18]) }, vec![17], end[17]),
        ("the last is skipped", Asked { skip: Some(end[18]), ..Asked::default() }, vec![], end[18]),
    ];
    for (what, asked, rows, position) in steps {
        assert_eq!(rescued(n2, n3, &asked), (rows, position), "{what}");
    }
    assert_eq!(n2.value("SELECT string_agg(id::text, ',' ORDER BY id) FROM t"), "1,2,4,5,7,9,11,12,13,14,15,16,17");
    assert_eq!(super::applied(n2), super::applied(n3));
}
