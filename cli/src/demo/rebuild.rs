//! What no WAL can give back, and the lost node's place: n2 is rebuilt from n3 while both are written to, and a new n1 is made.

use std::thread;
use std::time::{Duration, Instant};

use spock_recovery_cluster::{Cluster, Server, extension};

use super::crash::show_rows;
use super::recovery::show_call;
use super::{FAILED, SOURCE, TABLE, TARGET, load, scene};
use crate::cluster::DATABASE;
use crate::error::{Error, Result};
use crate::node::create;
use crate::screen::Screen;
use crate::table;

/// Rows that n1 writes before anything happens.
const EVERYWHERE: u64 = 20_000;

/// How long everybody writes before n2's recovery is made impossible, and the survivors after the new node is there.
const LOAD: Duration = Duration::from_secs(2);

/// As users do: without it the demo would show how busy the machine is.
const PAUSE: Duration = Duration::from_millis(2);

/// Ok only if everything was verified. The last line then is `demo: n1=900 n2=900 n3=900 rebuilt_seconds=S node_seconds=S`: from the
/// call of `spock.rebuild_run` to its return, and the same of `spockctl node create`.
pub fn run(options: &scene::Options, screen: &Screen) -> Result<()> {
    if options.nodes < 3 {
        let reason = "one dies, one lacks something, one has it";
        return Err(Error::TooFewNodes { nodes: options.nodes, reason });
    }
    scene::run(options, screen, play)
}

fn play(cluster: &Cluster, screen: &Screen) -> Result<String> {
    wire(cluster, screen)?;
    lose_wal(cluster, screen)?;
    let truth = kill(cluster, screen)?;
    let survivors: Vec<&str> = survivors(cluster).map(Server::name).collect();
    screen.line("");
    screen.line(format!("{} are written to from here on", survivors.join(" and ")));
    let (rebuilt, made) = load::during(cluster, &survivors, PAUSE, transaction, || {
        show_plan(cluster, screen)?;
        let rebuilt = rebuild(cluster, screen)?;
        let made = replace(cluster, screen)?;
        thread::sleep(LOAD);
        Ok((rebuilt, made))
    })?;
    let counts = verify(cluster, &truth, screen)?;
    let (rebuilt, made) = (rebuilt.as_secs_f64(), made.as_secs_f64());
    Ok(format!("demo: {} rebuilt_seconds={rebuilt:.3} node_seconds={made:.3}", counts.join(" ")))
}

fn survivors(cluster: &Cluster) -> impl Iterator<Item = &Server> {
    cluster.nodes().into_iter().filter(|node| node.name() != FAILED)
}

/// A row is inserted; every tenth time the row before it is changed as well, every 25th time the one five before it goes.
fn transaction(row: i64, name: &str) -> String {
    let mut text = format!("INSERT INTO crash_test VALUES ({row}, 'row of {name}');");
    let number = row % load::RANGE;
    if number % 10 == 0 {
        text.push_str(&format!("UPDATE crash_test SET data = data || ', changed' WHERE id = {};", row - 1));
    }
    if number % 25 == 0 {
        text.push_str(&format!("DELETE FROM crash_test WHERE id = {};", row - 5));
    }
    text
}

/// Everybody receives from everybody, and can prove what it has.
fn wire(cluster: &Cluster, screen: &Screen) -> Result<()> {
    for node in cluster.servers() {
        node.query(DATABASE, TABLE)?;
    }
    cluster.publish()?;
    cluster.subscribe(&cluster.pairs())?;
    screen.line("  each is subscribed to all others, with origin = none");
    let step = screen.spinner("waiting for the recovery slots");
    let has_slot = "SELECT coalesce(bool_and(active), false) FROM spock.get_recovery_slot_status()";
    for node in cluster.servers() {
        node.wait_until(DATABASE, "its recovery slot", has_slot, cluster.limit())?;
    }
    let first = cluster.node(FAILED)?;
    first.query(
        DATABASE,
        &format!("INSERT INTO crash_test SELECT g, 'early ' || g FROM generate_series(1, {EVERYWHERE}) g"),
    )?;
    for (target, source) in cluster.pairs() {
        cluster.wait_arrived(target, source)?;
        let vouches = extension::vouches_for(source);
        cluster.node(target)?.wait_until(DATABASE, "its peers' reports", &vouches, cluster.limit())?;
    }
    drop(step);
    screen.line("");
    screen.line(format!("{FAILED} writes {EVERYWHERE} rows, which arrive everywhere; then everybody writes"));
    Ok(())
}

/// n2 falls behind, and the slots that keep what it lacks are lost.
fn lose_wal(cluster: &Cluster, screen: &Screen) -> Result<()> {
    let all: Vec<&str> = cluster.servers().iter().map(|node| node.name()).collect();
    load::during(cluster, &all, PAUSE, transaction, || {
        cluster.disable(TARGET, FAILED)?;
        screen.line(format!("  {FAILED}→{TARGET} is suspended: {TARGET} falls behind"));
        thread::sleep(LOAD);
        Ok(())
    })?;
    for node in survivors(cluster).filter(|node| node.name() != TARGET) {
        // What it has is on its disk: the loss is n2's alone.
        cluster.wait_arrived(node.name(), FAILED)?;
        node.query(DATABASE, "SELECT spock.drop_recovery_slot()")?;
        let again = "SELECT coalesce(bool_and(active), false) FROM spock.get_recovery_slot_status()";
        node.wait_until(DATABASE, "its new recovery slot", again, cluster.limit())?;
        screen.line(format!(
            "  on {}: SELECT spock.drop_recovery_slot(): by force; it is made anew, without the WAL that {TARGET} lacks",
            node.name()
        ));
    }
    show_rows(cluster, screen)
}

/// The rows of the failed node as it had them itself.
fn of_failed_node() -> String {
    format!(
        "SELECT count(*) || ' rows, md5 ' || md5(coalesce(string_agg(t::text, E'\\n' ORDER BY t.id), '')) FROM crash_test t
          WHERE id BETWEEN 1 AND {EVERYWHERE} OR id BETWEEN {} AND {}",
        load::RANGE,
        2 * load::RANGE - 1
    )
}

fn kill(cluster: &Cluster, screen: &Screen) -> Result<String> {
    let failed = cluster.node(FAILED)?;
    let truth = failed.value(DATABASE, &of_failed_node())?;
    failed.kill()?;
    screen.line("");
    screen.line(format!("{FAILED} is killed (kill -9), for good; it had written {truth}:"));
    show_rows(cluster, screen)?;
    let has = cluster.node(TARGET)?.value(DATABASE, &of_failed_node())?;
    require(has != truth, || format!("{TARGET} lacks nothing"))?;
    cluster.enable(TARGET, FAILED)?;
    Ok(truth)
}

/// What the plan says of n2, with the ways.
fn show_plan(cluster: &Cluster, screen: &Screen) -> Result<()> {
    let target = cluster.node(TARGET)?;
    let plan = format!("spock.recover_plan('{FAILED}', '{TARGET}')");
    let found = format!("SELECT coalesce(bool_and(outcome = 'needs_rebuild'), false) FROM {plan}");
    target.wait_until(DATABASE, "the plan", &found, cluster.limit())?;
    let question = format!(
        "SELECT outcome, reason, w ->> 'method', w ->> 'seconds', pg_size_pretty((w ->> 'bytes')::bigint), coalesce(w ->> 'why_not', '')
           FROM {plan} p, jsonb_array_elements(p.rebuild) w"
    );
    screen.line("");
    screen.line(format!("on {TARGET}: SELECT outcome, reason, rebuild FROM {plan}:"));
    let heading = ["outcome", "reason", "method", "seconds", "bytes", "why_not"].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = target
        .query(DATABASE, &question)?
        .into_iter()
        .map(|row| row.into_iter().map(Option::unwrap_or_default).collect())
        .collect();
    require(!rows.is_empty(), || "the plan names no way to rebuild".into())?;
    let rows: Vec<Vec<String>> = [heading].into_iter().chain(rows).collect();
    table::lines(&rows).into_iter().for_each(|line| screen.line(line));
    Ok(())
}

fn rebuild(cluster: &Cluster, screen: &Screen) -> Result<Duration> {
    let statement =
        format!("CALL spock.rebuild_run('{TARGET}', '{SOURCE}', failed_node_name := '{FAILED}', verb := true)");
    let elapsed = show_call(cluster.node(TARGET)?, &statement, "rebuilding", screen)?;
    let plan = format!("SELECT count(*) > 0 AND bool_and(outcome = 'zero_gap') FROM spock.recover_plan('{FAILED}')");
    for node in survivors(cluster) {
        node.wait_until(DATABASE, "the plan of a loss that is recovered", &plan, cluster.limit())?;
    }
    screen.line(format!("spock.recover_plan('{FAILED}') says zero_gap of every survivor"));
    Ok(elapsed)
}

/// A new n1 from a copy of n3, at the old one's address.
fn replace(cluster: &Cluster, screen: &Screen) -> Result<Duration> {
    let (failed, source) = (cluster.node(FAILED)?, cluster.node(SOURCE)?);
    let aside = failed.set_aside()?;
    screen.line("");
    screen.line(format!("the data directory of the old {FAILED} is now {}; on its host:", aside.display()));
    let options = create::Options {
        from: source.dsn(DATABASE),
        pgdata: failed.data().to_owned(),
        name: FAILED.into(),
        replaces: Some(FAILED.into()),
        ..create::Options::default()
    };
    screen.line(format!(
        "spockctl node create --from '{}' --pgdata {} --name {FAILED} --replaces {FAILED}:",
        options.from,
        options.pgdata.display()
    ));
    let begun = Instant::now();
    create::run(&options, screen)?;
    Ok(begun.elapsed())
}

/// Nothing is lost, nothing is there twice, all is equal, and what is written now arrives. Returns the counts.
fn verify(cluster: &Cluster, truth: &str, screen: &Screen) -> Result<Vec<String>> {
    for (node, number) in load::numbered(cluster) {
        node.query(
            DATABASE,
            &format!("INSERT INTO crash_test VALUES (-{number}, 'after the rebuild, of {}')", node.name()),
        )?;
    }
    for (target, source) in cluster.pairs() {
        cluster.wait_arrived(target, source)?;
    }
    screen.line("");
    show(cluster, screen)?;
    screen.line("Verified:");
    same_rows(cluster, truth)?;
    screen.line("  the same rows on every node, also of the rows that are written now on each");
    screen.line(format!("  what the old {FAILED} had written is on every node as it had it itself: {truth}"));
    screen.line("  of each writer every row, change and deletion, none of them missing");
    nothing_left(cluster)?;
    screen.line("  every subscription runs, spock.quick_health_check() finds everything HEALTHY, nothing of the rebuild is left");
    screen.line("");
    let count =
        |node: &Server| Ok(format!("{}={}", node.name(), node.value(DATABASE, "SELECT count(*) FROM crash_test")?));
    cluster.nodes().into_iter().map(count).collect()
}

/// How many rows each node has, and a hash of them.
fn show(cluster: &Cluster, screen: &Screen) -> Result<()> {
    let mut rows = vec![vec![String::new(), "rows".to_owned(), "hash".to_owned()]];
    for node in cluster.servers() {
        let found = node.query(DATABASE, "SELECT count(*), sum(hashtextextended(t::text, 0)) FROM crash_test t")?;
        let found = found.into_iter().flatten().map(Option::unwrap_or_default);
        rows.push([node.name().to_owned()].into_iter().chain(found).collect());
    }
    table::lines(&rows).into_iter().for_each(|line| screen.line(line));
    Ok(())
}

fn same_rows(cluster: &Cluster, truth: &str) -> Result<()> {
    let content =
        "SELECT count(*) || ' rows, md5 ' || md5(string_agg(t::text, E'\\n' ORDER BY t.id)) FROM crash_test t";
    let first = cluster.node(TARGET)?.value(DATABASE, content)?;
    // What a writer's last row says that it has done, and what is there.
    let wrong = format!(
        "SELECT count(*) FROM (SELECT 1 FROM crash_test WHERE id > {range} GROUP BY id / {range}
            HAVING count(*) <> max(id % {range}) - max(id % {range}) / 25
                OR count(*) FILTER (WHERE data LIKE '%, changed') <> max(id % {range}) / 10) x",
        range = load::RANGE
    );
    for node in cluster.servers() {
        let found = node.value(DATABASE, content)?;
        require(found == first, || format!("{TARGET} has {first}, {} has {found}", node.name()))?;
        let found = node.value(DATABASE, &of_failed_node())?;
        require(found == truth, || format!("{} has of the old {FAILED} {found}, which had {truth}", node.name()))?;
        let found = node.value(DATABASE, &wrong)?;
        require(found == "0", || format!("{} lacks something of {found} writers", node.name()))?;
    }
    Ok(())
}

fn nothing_left(cluster: &Cluster) -> Result<()> {
    let at_rest = "SELECT (SELECT count(*) FROM pg_subscription WHERE NOT subenabled)
                        + (SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r')
                        + (SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'spk_rebuild%')
                        + (SELECT count(*) FROM spock.rebuild_progress)
                        + (SELECT count(*) FROM spock.recovery_intents() WHERE phase <> 'completed')
                        + (SELECT count(*) FROM spock_internal.pins())
                        + (SELECT count(*) FROM spock.quick_health_check() WHERE status <> 'HEALTHY') = 0";
    for node in cluster.servers() {
        node.wait_until(DATABASE, "everything at rest", at_rest, cluster.limit())?;
    }
    Ok(())
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Verification(otherwise())) }
}
