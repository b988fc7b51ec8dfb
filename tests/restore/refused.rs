//! What cannot be restored is said before anything is touched; and a restore beside the living nodes leaves them alone.

use std::fs;

use spock_recovery_cluster::process;
use spockctl::restore::journal::{Journal, Step};
use spockctl::restore::{Error, Moment, cancel, finish, server, start};

use super::{Options, Restores, done, ended, running, settled, written};
use crate::restore_points::{mesh_of, under_load};

#[test]
fn what_lacks_is_named_and_nothing_is_touched() {
    let cluster = mesh_of("what_lacks", 2);
    let [n1, n2] = cluster.all();
    let restores = Restores::of(&cluster);
    n1.sql("INSERT INTO t (node, v) VALUES ('n1', 1)");
    // What is asked afterwards may be the next segment already: others write too.
    let segment = n1.value("SELECT pg_walfile_name(pg_switch_wal() - 1)");
    let archived = "SELECT left(last_archived_wal, 24) FROM pg_stat_archiver";
    n1.wait_until(&format!("SELECT ({archived}) >= '{segment}'"), "t");
    n1.sql("INSERT INTO t (node, v) VALUES ('n1', 2)");
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), "2");
    restores.drained("good");
    let point = Moment::Point("good".into());
    done(restores.check(point.clone()));

    // The segment is needed and gone, from the archive and from the server.
    let (file, there) = (restores.repository.join("n1/wal").join(&segment), n1.data().join("pg_wal").join(&segment));
    let hidden = [file.with_extension("hidden"), n1.data().join("pg_wal/hidden")];
    fs::rename(&file, &hidden[0]).expect("it is there");
    let recycled = fs::rename(&there, &hidden[1]).is_ok();
    let (text, result) = restores.start(point.clone());
    assert!(matches!(result, Err(Error::Findings(1))), "{result:?}");
    assert!(text.contains(&segment) && text.contains("WAL is missing"), "{text}");
    // It is there, and nothing is in it.
    fs::write(&file, vec![0; 16 << 20]).expect("it can be written");
    let (text, result) = restores.check(point.clone());
    assert!(matches!(result, Err(Error::Findings(1))), "{result:?}");
    assert!(text.contains(&segment) && text.contains("no sound segment"), "{text}");
    fs::rename(&hidden[0], &file).expect("it is there");
    if recycled {
        fs::rename(&hidden[1], &there).expect("it is there");
    }

    // A name that is nearly right, and no name.
    match restores.check(Moment::Point("goood".into())).1 {
        Err(Error::UnknownPoint { nearest, .. }) => assert!(nearest.contains("\"good\""), "{nearest}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(ended(|screen| start::run(&restores.options(None), screen)).1, Err(Error::NoMoment)));
    assert!(matches!(restores.finish().1, Err(Error::None(_))));

    // A node without backup.
    let (base, away) = (restores.repository.join("n2/base"), restores.repository.join("n2/away"));
    fs::rename(&base, &away).expect("it is there");
    let none = restores.start(point.clone()).1;
    assert!(matches!(&none, Err(Error::NoBase { node, .. }) if node == "n2"), "{none:?}");
    fs::rename(&away, &base).expect("it is there");

    for node in [n1, n2] {
        assert_eq!(node.value("SELECT count(*) FROM t"), "2", "{}", node.name());
        assert!(Journal::read(node.data()).expect("it can be read").is_none());
    }
}

#[test]
fn a_restore_beside_the_living_nodes_leaves_them_alone() {
    let cluster = mesh_of("beside_the_living", 3);
    let restores = Restores::of(&cluster);
    under_load(&cluster, || {
        written(&cluster.nodes()[0], 100);
        restores.point("look", "30 s");
    });
    let far = settled(&cluster, "SELECT count(*) FROM t");
    let slots = "SELECT string_agg(slot_name || active_pid::text, ',' ORDER BY slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'sub%'";
    let pids: Vec<String> = cluster.nodes().iter().map(|node| node.value(slots)).collect();
    let mut options = restores.options(Some(Moment::Point("look".into())));
    let into = cluster.folder().join("beside");
    options.into = Some(into.clone());
    done(ended(|screen| start::run(&options, screen)));
    let mut counts = Vec::new();
    for node in cluster.nodes() {
        let journal = Journal::read(&into.join(node.name())).expect("it can be read").expect("it is there");
        let mut client = server::connect(&journal, cluster.user()).expect("it answers");
        counts.push(server::value(&journal, &mut client, "SELECT count(*) FROM t").expect("it can be asked"));
    }
    assert!(counts[0] == counts[1] && counts[1] == counts[2] && counts[0] != far, "{counts:?} {far}");
    options.moment = None;
    assert!(matches!(ended(|screen| finish::run(&options, screen)).1, Err(Error::Beside)));
    done(ended(|screen| cancel::run(&options, screen)));
    for (node, pids) in cluster.nodes().iter().zip(pids) {
        let data = into.join(node.name());
        assert!(running(&data).is_none() && !data.exists());
        assert_eq!(Journal::read(&data).expect("it can be read").map(|journal| journal.step), Some(Step::Cancelled));
        // Neither stopped nor disturbed.
        assert_eq!(node.value(slots), pids, "{}", node.name());
        assert!(process::is_alive(node.postmaster_pid().expect("it runs")));
    }
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), far);
    what_is_there_already_is_never_removed(&restores, &options);
}

/// A journal of a restore that is over says nothing of what has come into its place since, nor do those of the living
/// nodes make their own folder free.
fn what_is_there_already_is_never_removed(restores: &Restores<'_>, cancelled: &Options) {
    let cluster = restores.cluster;
    let own = cancelled.into.as_ref().expect("it was given").join("n1");
    fs::create_dir(&own).expect("it is free");
    fs::write(own.join("own"), "somebody's").expect("it can be written");
    let look = Some(Moment::Point("look".into()));
    let (text, result) = ended(|screen| start::run(&Options { moment: look.clone(), ..cancelled.clone() }, screen));
    assert!(matches!(result, Err(Error::Findings(1))) && text.contains("is there already"), "{text}");
    assert_eq!(fs::read_to_string(own.join("own")).expect("it is there"), "somebody's");

    done(restores.start(Moment::Point("look".into())));
    done(restores.cancel());
    let rows = settled(cluster, "SELECT count(*) FROM t");
    let living = cluster.nodes()[0].data().parent().expect("it has one").to_owned();
    let options = Options { moment: look, into: Some(living), ..cancelled.clone() };
    let (text, result) = ended(|screen| start::run(&options, screen));
    assert!(matches!(result, Err(Error::Findings(3))) && text.contains("is there already"), "{text}");
    assert_eq!(settled(cluster, "SELECT count(*) FROM t"), rows);
}
