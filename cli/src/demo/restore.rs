//! A mistake under load, and the way back: every node is restored to a restore point before it.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use spock_recovery_cluster::{Cluster, Server, Shutdown};

use super::{TABLE, load, scene};
use crate::backup::{setup, take};
use crate::cluster::DATABASE;
use crate::error::{Error, Result};
use crate::restore::{self, Moment, check, finish, start};
use crate::screen::Screen;
use crate::table;

const POINT: &str = "before-the-mistake";

/// How long everybody writes before the restore point, and after it.
const LOAD: Duration = Duration::from_secs(2);

/// Ok only if everything was verified. The last line then is `demo: n1=900 n2=900 n3=900 seconds=S`, of the restore itself.
pub fn run(options: &scene::Options, screen: &Screen) -> Result<()> {
    scene::run(options, screen, play)
}

fn play(cluster: &Cluster, screen: &Screen) -> Result<String> {
    for node in cluster.servers() {
        node.query(DATABASE, TABLE)?;
    }
    cluster.publish()?;
    cluster.subscribe(&cluster.pairs())?;
    screen.line("  each is subscribed to all others, with origin = none");
    let repository = cluster.path().join("backups");
    back_up(cluster, &repository, screen)?;
    let at_the_point = under_load(cluster, || mark(cluster, screen))?;
    show(cluster, "rows when everybody has stopped writing", screen)?;
    for node in cluster.servers() {
        node.query(DATABASE, "DROP TABLE crash_test")?;
    }
    screen.line(format!("the table is dropped on every node, by mistake; back to \"{POINT}\":"));
    let begun = Instant::now();
    bring_back(&repository, screen)?;
    let seconds = begun.elapsed().as_secs_f64();
    let restored = show(cluster, "rows", screen)?;
    verify(cluster, &restored, at_the_point, screen)?;
    let counts: Vec<String> =
        cluster.servers().iter().zip(&restored).map(|(node, rows)| format!("{}={rows}", node.name())).collect();
    Ok(format!("demo: {} seconds={seconds:.3}", counts.join(" ")))
}

fn back_up(cluster: &Cluster, repository: &Path, screen: &Screen) -> Result<()> {
    screen.line("");
    screen.line(format!("spockctl backup setup --repo {}:", repository.display()));
    let dsn = cluster.servers().first().map(|node| node.dsn(DATABASE)).unwrap_or_default();
    let options = setup::Options {
        dsn,
        repository: repository.into(),
        driver: None,
        node: None,
        by_command: false,
        archive_timeout: None,
        command: None,
    };
    setup::run(&options, screen)?;
    for node in cluster.servers() {
        node.stop(Shutdown::Fast)?;
        node.start()?;
    }
    screen.line("the servers were restarted; spockctl backup take:");
    take::run(&take::Options { repository: repository.into(), dsn: None, node: None, kind: None }, screen)?;
    Ok(())
}

/// Each node writes while `act` runs, and some time before and after.
fn under_load<T>(cluster: &Cluster, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let names: Vec<&str> = cluster.servers().iter().map(|node| node.name()).collect();
    let insert = |row, name: &str| format!("INSERT INTO crash_test VALUES ({row}, 'row of {name}')");
    load::during(cluster, &names, Duration::ZERO, insert, || {
        thread::sleep(LOAD);
        let acted = act();
        thread::sleep(LOAD / 2);
        acted
    })
}

/// Makes the restore point; how many rows there were before it, at the least.
fn mark(cluster: &Cluster, screen: &Screen) -> Result<u64> {
    let Some(node) = cluster.servers().first() else { return Ok(0) };
    let before = count(node)?;
    screen.line("");
    screen.line(format!("everybody writes; on {}: SELECT * FROM spock.create_restore_point('{POINT}'):", node.name()));
    let made = format!("SELECT node_name, lsn, held_ms, quality FROM spock.create_restore_point('{POINT}')");
    let rows = node.query(DATABASE, &made)?;
    let heading = ["node", "lsn", "held_ms", "quality"].map(str::to_owned).to_vec();
    let rows = rows.into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect());
    let rows: Vec<Vec<String>> = [heading].into_iter().chain(rows).collect();
    table::lines(&rows).into_iter().for_each(|line| screen.line(line));
    Ok(before)
}

fn bring_back(repository: &Path, screen: &Screen) -> restore::Result<()> {
    let options = check::Options {
        repository: repository.into(),
        node: None,
        moment: Some(Moment::Point(POINT.into())),
        into: None,
        end_after: None,
    };
    screen.line("");
    screen.line("spockctl restore start:");
    start::run(&options, screen)?;
    screen.line("");
    screen.line("spockctl restore finish:");
    finish::run(&check::Options { moment: None, ..options }, screen)
}

fn count(node: &Server) -> Result<u64> {
    let count = node.value(DATABASE, "SELECT count(*) FROM crash_test")?;
    count.parse().map_err(|_| Error::Verification(format!("{} counts no rows", node.name())))
}

fn show(cluster: &Cluster, what: &str, screen: &Screen) -> Result<Vec<u64>> {
    let counts = cluster.servers().iter().map(|node| count(node)).collect::<Result<Vec<u64>>>()?;
    let heading = [String::new()].into_iter().chain(cluster.servers().iter().map(|node| node.name().to_owned()));
    let row = [what.to_owned()].into_iter().chain(counts.iter().map(u64::to_string));
    table::lines(&[heading.collect(), row.collect()]).into_iter().for_each(|line| screen.line(line));
    Ok(counts)
}

/// The same rows everywhere, of every node without a gap; and what is written now arrives.
fn verify(cluster: &Cluster, restored: &[u64], at_the_point: u64, screen: &Screen) -> Result<()> {
    let require = |holds: bool, what: String| if holds { Ok(()) } else { Err(Error::Verification(what)) };
    let first = restored.first().copied().unwrap_or(0);
    require(
        restored.iter().all(|rows| *rows == first) && first >= at_the_point,
        format!("{restored:?} rows, {at_the_point} at the point"),
    )?;
    let gaps = "SELECT count(*) FROM (SELECT 1 FROM crash_test GROUP BY id / 1000000000 HAVING max(id) % 1000000000 <> count(*)) x";
    for (node, number) in cluster.servers().iter().zip(1..) {
        let found = node.value(DATABASE, gaps)?;
        require(found == "0", format!("{} lacks rows in between", node.name()))?;
        node.query(DATABASE, &format!("INSERT INTO crash_test VALUES ({number}, 'after the restore')"))?;
    }
    let expected = first + cluster.servers().len() as u64;
    for node in cluster.servers() {
        let all = format!("SELECT count(*) = {expected} FROM crash_test");
        node.wait_until(DATABASE, "what is written after the restore", &all, cluster.limit())?;
    }
    screen.line(
        "verified: the same rows on every node, of each writer without a gap; new rows of each node arrive everywhere",
    );
    screen.line("");
    Ok(())
}
