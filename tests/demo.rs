//! What spockctl shows, run as its users run it: the demos, and a cluster that stays.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use spock_recovery_cluster::{ServerUser, client, process};
use spockctl::cluster;
use spockctl::demo::{self, Options, Scenario};
use spockctl::record::Kept;
use spockctl::{Error, Screen, status};

use crate::cluster::wait_for;

/// Lines as they were shown.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Vec<u8>>>);

impl Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panics while writing").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shown {
    /// What was shown since the last call.
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().expect("nobody panics while writing"))).expect("UTF-8")
    }
}

/// Plays a demo to its end; everything that was shown.
fn play(options: &Options) -> String {
    let shown = Shown::default();
    let ended = demo::run(options, &Screen::plain(shown.clone()));
    let text = shown.take();
    if let Err(error) = ended {
        panic!("{error}, after\n{text}");
    }
    let folder = text.lines().next().and_then(|line| line.rsplit(' ').next()).expect("a folder");
    assert!(!std::path::Path::new(folder).exists(), "{folder} was left behind");
    text
}

/// The last line, with the seconds cut off, which must be a number.
fn last_line(text: &str) -> &str {
    let (line, seconds) = text.lines().last().and_then(|line| line.split_once(" seconds=")).expect("a last line");
    assert!(seconds.parse::<f64>().is_ok_and(|seconds| seconds > 0.0), "{seconds}");
    line
}

#[test]
fn the_demo_ends_recovered_when_all_subscriptions_were_enabled() {
    let text = play(&Options { scenario: Scenario::Crash, ..Options::default() });
    assert_eq!(last_line(&text), "demo: n2=90 n3=90 transactions=70");
    assert!(text.contains("rows in crash_test   gone   20   90") && text.contains("NOTICE:  "), "{text}");
}

#[test]
fn the_demo_ends_recovered_when_every_subscription_but_one_was_suspended() {
    let text = play(&Options { scenario: Scenario::Crash2, nodes: 4, rows: 7, ..Options::default() });
    assert_eq!(last_line(&text), "demo: n2=27 n3=27 transactions=7");
}

#[test]
fn the_demo_refuses_two_nodes_before_it_starts_any() {
    let shown = Shown::default();
    let refused = demo::run(&Options { nodes: 2, ..Options::default() }, &Screen::plain(shown.clone()));
    assert!(matches!(refused, Err(Error::TooFewNodes { nodes: 2, .. })), "{refused:?}");
    assert_eq!(shown.take(), "");
}

/// Removes the cluster however the test ends.
struct Guard(Kept);

impl Drop for Guard {
    fn drop(&mut self) {
        if self.0.folder.exists() {
            let _ = self.0.remove();
        }
    }
}

#[test]
fn a_cluster_that_stays_is_found_shown_started_again_and_removed() {
    let shown = Shown::default();
    let screen = Screen::plain(shown.clone());
    let options = cluster::Options { pg_config: None, first_port: 5551, nodes: 3, stays: true };
    let cluster = cluster::start(&options, &screen).unwrap_or_else(|error| panic!("{error}"));
    let wired = cluster
        .servers()
        .iter()
        .try_for_each(|node| node.query(cluster::DATABASE, demo::TABLE).map(drop))
        .and_then(|()| cluster.publish())
        .and_then(|()| cluster.subscribe(&cluster.pairs()));
    wired.unwrap_or_else(|error| panic!("{error}"));
    let folder = cluster.path().to_owned();
    cluster::keep(cluster, &screen).unwrap_or_else(|error| panic!("{error}"));
    let found = Kept::all().unwrap_or_else(|error| panic!("{error}"));
    let kept = Guard(found.into_iter().find(|kept| kept.folder == folder).expect("the cluster that was kept"));

    let (_, port) = kept.0.record.nodes[0];
    let mut client = client::connect("n1", &kept.0.config(port)).unwrap_or_else(|error| panic!("{error}"));
    client::query("n1", &mut client, "INSERT INTO crash_test VALUES (1, 'x')")
        .unwrap_or_else(|error| panic!("{error}"));
    // Other accounts of the machine get in nowhere: there is no address, and the sockets' folder is closed to them.
    let listens = client::query("n1", &mut client, "SHOW listen_addresses").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(listens, [[Some(String::new())]]);
    let mode = std::fs::metadata(&folder).expect("the folder is there").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o700);
    drop(client);
    let postmaster = kept.0.postmaster("n2").expect("n2 runs");
    // The others have heard from it that it has n1's row.
    wait_for("n2's own position", || {
        shown.take();
        status::show(&screen, &kept.0);
        shown.take().lines().any(|line| line.starts_with("  of n1") && line.matches("0/").count() == 2)
    });
    wait_for("n1 to have heard from n2", || {
        let config = kept.0.config(port);
        let mut client = client::connect("n1", &config).unwrap_or_else(|error| panic!("{error}"));
        let heard = "SELECT FROM spock.lag_tracker WHERE receiver_name = 'n2' AND origin_name = 'n1' AND commit_lsn IS NOT NULL";
        !client::query("n1", &mut client, heard).unwrap_or_else(|error| panic!("{error}")).is_empty()
    });
    process::kill_all(postmaster).expect("n2 can be killed");
    assert_eq!(kept.0.postmaster("n2"), None);
    wait_for("n2 down in the table, with what n1 or n3 last heard of it", || {
        status::show(&screen, &kept.0);
        let text = shown.take();
        text.lines().any(|line| line.starts_with("  n2") && line.contains("down"))
            && text.lines().any(|line| line.starts_with("  of n1") && line.contains("(0/"))
    });

    let user = ServerUser::find().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(kept.0.start_stopped(&user).unwrap_or_else(|error| panic!("{error}")), ["n2"]);
    assert!(kept.0.postmaster("n2").is_some_and(|pid| pid != postmaster));
    assert_eq!(kept.0.start_stopped(&user).unwrap_or_else(|error| panic!("{error}")), Vec::<String>::new());
    let postmasters: Vec<i32> = ["n1", "n2", "n3"].iter().filter_map(|name| kept.0.postmaster(name)).collect();
    assert_eq!(postmasters.len(), 3);
    kept.0.remove().unwrap_or_else(|error| panic!("{error}"));
    assert!(!postmasters.iter().any(|&pid| process::is_alive(pid)) && !folder.exists());
}

#[test]
fn the_demo_of_a_restore_ends_with_the_rows_of_the_point_on_every_node() {
    let shown = Shown::default();
    let ended = demo::restore::run(&demo::scene::Options::default(), &Screen::plain(shown.clone()));
    let text = shown.take();
    if let Err(error) = ended {
        panic!("{error}, after\n{text}");
    }
    let counts: Vec<&str> = last_line(&text).split(' ').skip(1).filter_map(|part| part.split('=').nth(1)).collect();
    assert!(counts.len() == 3 && counts.iter().all(|count| *count == counts[0] && *count != "0"), "{text}");
    let folder = text.lines().next().and_then(|line| line.rsplit(' ').next()).expect("a folder");
    assert!(!std::path::Path::new(folder).exists(), "{folder} was left behind");
}

#[test]
fn the_demo_of_a_rebuild_ends_with_the_same_rows_on_every_node_and_a_new_one_in_the_lost_ones_place() {
    let shown = Shown::default();
    let ended = demo::rebuild::run(&demo::scene::Options::default(), &Screen::plain(shown.clone()));
    let text = shown.take();
    if let Err(error) = ended {
        panic!("{error}, after\n{text}");
    }
    let last: Vec<(&str, &str)> = text
        .lines()
        .last()
        .into_iter()
        .flat_map(|line| line.split(' ').filter_map(|part| part.split_once('=')))
        .collect();
    let names: Vec<&str> = last.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["n1", "n2", "n3", "rebuilt_seconds", "node_seconds"], "{text}");
    assert!(last[0].1.parse::<u64>().is_ok_and(|rows| rows > 20_000), "{text}");
    assert!(last[1].1 == last[0].1 && last[2].1 == last[0].1, "{text}");
    assert!(last[3..].iter().all(|(_, seconds)| seconds.parse::<f64>().is_ok_and(|seconds| seconds > 0.0)), "{text}");
    assert!(text.contains("needs_rebuild") && text.contains("the source has pinned its snapshot"), "{text}");
    // The new node is no child of the cluster: it has ended as well.
    let folder = text.lines().next().and_then(|line| line.rsplit(' ').next()).expect("a folder");
    assert!(!std::path::Path::new(folder).exists(), "{folder} was left behind");
    assert_eq!(process::children(std::process::id().cast_signed()).len(), 0, "a server was left running");
}
