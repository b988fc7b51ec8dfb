//! `spockctl backup` on real servers: what it sets, takes, finds missing and removes.

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use spock_recovery_cluster::ServerUser;
use spockctl::backup::command::Templates;
use spockctl::backup::list::Format;
use spockctl::backup::{
    BaseBackup, DriverName, Error, Kind, Repository, check, driver, expire, list, setup, shell, take,
};

use crate::cluster::{Cluster, Node, wait_for};
use crate::shown::{NAME, done, ended};

/// What a command showed, and how it ended.
type Ended = crate::shown::Ended<Error>;

/// The repository of a test's cluster, and the commands on it.
struct Backups {
    path: PathBuf,
    dsn: String,
}

impl Backups {
    fn of(cluster: &Cluster) -> Backups {
        Backups { path: cluster.folder().join(NAME), dsn: cluster.nodes()[0].dsn("postgres") }
    }

    fn options(&self) -> setup::Options {
        setup::Options {
            dsn: self.dsn.clone(),
            repository: self.path.clone(),
            driver: None,
            node: None,
            by_command: false,
            archive_timeout: None,
            command: None,
        }
    }

    fn setup(&self, by_command: bool) -> Ended {
        ended(|screen| setup::run(&setup::Options { by_command, ..self.options() }, screen))
    }

    fn take(&self, node: Option<&str>, kind: Option<Kind>) -> Ended {
        let node = node.map(str::to_owned);
        let options = take::Options { repository: self.path.clone(), dsn: None, node, kind };
        ended(|screen| take::run(&options, screen))
    }

    fn list(&self, format: Format) -> String {
        done(ended(|screen| list::run(&list::Options { repository: self.path.clone(), node: None, format }, screen)))
    }

    fn check(&self) -> Ended {
        let options = check::Options { repository: self.path.clone(), dsn: None, node: None };
        ended(|screen| check::run(&options, screen))
    }

    fn expire(&self, keep: usize, dry_run: bool) -> String {
        let options = expire::Options { repository: self.path.clone(), node: None, keep, dry_run };
        done(ended(|screen| expire::run(&options, screen)))
    }

    fn open(&self) -> Repository {
        Repository::open(&self.path).unwrap_or_else(|error| panic!("{error}"))
    }

    fn of_node(&self, node: &str) -> Vec<BaseBackup> {
        let repository = self.open();
        let found = repository.node(node).and_then(|node| driver::open(&repository)?.backups(node));
        found.unwrap_or_else(|error| panic!("{error}"))
    }

    /// What is wrong according to check, which says that it is.
    #[track_caller]
    fn findings(&self) -> String {
        let (text, result) = self.check();
        assert!(matches!(result, Err(Error::Findings(_))), "{result:?}, {text}");
        text
    }
}

fn mesh(name: &str, nodes: usize) -> Cluster {
    let cluster = Cluster::new(name).nodes(nodes).start();
    for node in cluster.nodes() {
        node.sql("CREATE EXTENSION spock_recovery; CREATE TABLE t (id int PRIMARY KEY)");
        node.sql(&format!("SELECT spock.node_create('{}', '{}')", node.name(), node.dsn("postgres")));
    }
    if nodes > 1 {
        cluster.mesh();
        // Peers become known by what they answer.
        cluster.nodes()[0].wait_until("SELECT count(*) FROM spock.node", &nodes.to_string());
    }
    cluster
}

/// Writes something, and waits until its segment is in the archive; the name of the segment.
fn archive_one(node: &Node, number: u32) -> String {
    node.sql(&format!("INSERT INTO t VALUES ({number})"));
    let segment = node.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
    node.sql("SELECT pg_switch_wal()");
    node.wait_until(&format!("SELECT left(last_archived_wal, 24) >= '{segment}' FROM pg_stat_archiver"), "t");
    segment
}

#[test]
fn backups_of_a_mesh_are_taken_checked_and_expired_with_all_that_a_restore_needs() {
    let cluster = mesh("backups_of_a_mesh", 2);
    let [n1, n2] = cluster.all();
    let backups = Backups::of(&cluster);

    assert!(matches!(backups.take(None, None).1, Err(Error::NoRepository(_))));
    let told = done(backups.setup(false));
    assert!(told.contains("  n1: archive_mode = on\n  n2: archive_mode = on\n"), "{told}");
    let (told, refused) = backups.take(None, None);
    assert!(matches!(refused, Err(Error::Findings(2))) && told.contains("restart its server"), "{told}");
    assert!(backups.findings().contains("n1: it does not archive"));
    [n1, n2].iter().for_each(|node| node.restart());
    assert!(done(backups.setup(false)).contains("n1: everything is set already\n"));
    for folder in [backups.path.clone(), backups.path.join("n1/wal")] {
        assert_eq!(fs::metadata(&folder).expect("it is there").permissions().mode() & 0o777, 0o700, "{folder:?}");
    }

    assert!(done(backups.take(None, None)).contains("n2: full backup"));
    // Until its poller has tried again, n1 finds that n2 does not answer: n2 was restarted.
    let point = "SELECT spock.create_restore_point('after the backups', lease := '30 s')";
    wait_for("a restore point of both nodes", || n1.try_sql(point).is_ok());
    n2.wait_until("SELECT base_backup_before IS NOT NULL FROM spock.restore_points()", "t");
    archive_one(n1, 1);
    let told = done(backups.take(None, None));
    assert!(told.contains("n1: incremental backup") && told.contains("n2: incremental backup"), "{told}");
    let gap = archive_one(n1, 2);
    archive_one(n1, 3);
    done(backups.take(Some("n1"), Some(Kind::Incremental)));
    let sound = done(backups.check());
    assert!(sound.contains("n1: 3 backups verify") && sound.contains("n2: 2 backups verify"), "{sound}");

    let json = backups.list(Format::Json);
    for name in [
        "node",
        "label",
        "kind",
        "parent",
        "timeline",
        "start_lsn",
        "stop_lsn",
        "begun_at",
        "ended_at",
        "bytes",
        "restorable",
    ] {
        assert!(json.contains(&format!("\"{name}\": ")), "{name} in {json}");
    }
    assert_eq!(backups.list(Format::Table).lines().count(), 1 + 3 + 2);
    fetch_of_a_chain(&cluster, &backups);
    what_is_missing_or_damaged_is_found(&backups, &gap);
    only_what_nothing_needs_expires(n1, &backups);
}

/// A chain comes back as one data directory, which verifies, and a file of WAL as it was.
fn fetch_of_a_chain(cluster: &Cluster, backups: &Backups) {
    let repository = backups.open();
    let (node, driver) = (repository.node("n1").expect("it is set up"), driver::open(&repository).expect("it is dir"));
    let chain = backups.of_node("n1");
    let label = &chain[2].label;
    let data = cluster.folder().join("fetched");
    driver.fetch_base(node, label, &data, cluster.user(), &|_| ()).unwrap_or_else(|error| panic!("{error}"));
    let verify = node.bin_folder.join("pg_verifybackup");
    let verified = cluster.user().run(&verify, [&data]);
    assert!(verified.is_ok_and(|said| said.contains("successfully verified")));
    let again = driver.fetch_base(node, label, &data, cluster.user(), &|_| ());
    assert!(matches!(again, Err(Error::NotEmpty(_))));
    let unknown = driver.fetch_base(node, "x", &data, cluster.user(), &|_| ());
    assert!(matches!(unknown, Err(Error::UnknownBackup { .. })));

    let archive = driver.archive(node).unwrap_or_else(|error| panic!("{error}"));
    let (segment, _) = archive.segments.last_key_value().expect("something is archived");
    let file = segment.file_name(archive.segment_size);
    driver.fetch_wal(node, &file, &data.join("pg_wal"), cluster.user()).unwrap_or_else(|error| panic!("{error}"));
    let archived = fs::read(repository.wal_folder("n1").join(&file)).expect("it is there");
    assert!(fs::read(data.join("pg_wal").join(&file)).is_ok_and(|fetched| fetched == archived));
    let missing = driver.fetch_wal(node, "000000090000000000000001", &data, cluster.user());
    assert!(matches!(missing, Err(Error::NoWal { .. })));
}

/// By check, today, and each is as sound as before when it is put back.
fn what_is_missing_or_damaged_is_found(backups: &Backups, gap: &str) {
    let repository = backups.open();
    let segment = repository.wal_folder("n1").join(gap);
    let aside = segment.with_extension("aside");
    fs::rename(&segment, &aside).expect("it is there");
    let found = backups.findings();
    assert!(
        found.contains(&format!("n1: segment {gap} is missing")) && found.contains("n2: 2 backups verify"),
        "{found}"
    );
    // A backup reaches to the gap, and no further.
    let ranges: Vec<String> = backups.list(Format::Table).lines().map(str::to_owned).collect();
    assert_ne!(ranges[1].rsplit(' ').next(), ranges[3].rsplit(' ').next());

    let sound = fs::read(&aside).expect("it is there");
    fs::write(&segment, &sound[..8192]).expect("it can be written");
    assert!(backups.findings().contains(&format!("n1: segment {gap} has 8192 bytes")));
    let mut other = sound;
    other[24] ^= 1;
    fs::write(&segment, other).expect("it can be written");
    assert!(backups.findings().contains(&format!("n1: segment {gap} cannot be read")));
    fs::rename(&aside, &segment).expect("it is there");
    done(backups.check());

    let full = &backups.of_node("n1")[0].label;
    let file = repository.base_folder("n1").join(full).join("PG_VERSION");
    let sound = fs::read(&file).expect("it is there");
    fs::write(&file, "16\n").expect("it can be written");
    let found = backups.findings();
    assert!(found.contains(&format!("n1: backup {full} does not verify")), "{found}");
    fs::write(&file, sound).expect("it can be written");
    let document = repository.base_folder("n1").join(format!("{full}.json"));
    fs::rename(&document, document.with_extension("aside")).expect("it is there");
    assert!(backups.findings().contains("what it refers to is not there"));
    fs::rename(document.with_extension("aside"), &document).expect("it is there");
    done(backups.check());
}

fn only_what_nothing_needs_expires(n1: &Node, backups: &Backups) {
    let told = backups.expire(1, false);
    assert!(told.contains("n1: removed") && told.contains("3 backups are kept"), "{told}");
    let chain = backups.of_node("n1");
    assert_eq!(chain.len(), 3);
    done(backups.take(Some("n1"), Some(Kind::Full)));
    archive_one(n1, 4);
    let would = backups.expire(1, true);
    assert!(would.contains(&format!("n1: would remove incremental backup {}", chain[2].label)), "{would}");
    assert_eq!(backups.of_node("n1").len(), 4);
    backups.expire(1, false);
    let kept = backups.of_node("n1");
    assert_eq!((kept.len(), kept[0].kind), (1, Kind::Full));
    for backup in &chain {
        assert!(!backups.open().base_folder("n1").join(&backup.label).exists());
    }
    done(backups.check());
}

#[test]
fn a_command_archives_and_one_of_the_users_own_is_kept() {
    let cluster = mesh("a_command_archives", 1);
    let [n1] = cluster.all();
    let backups = Backups::of(&cluster);
    n1.set(&[("archive_command", "true")]);
    let (told, refused) = backups.setup(true);
    assert!(matches!(refused, Err(Error::Findings(1))) && told.contains("archive_command = 'true'"), "{told}");
    assert_eq!(
        n1.value("SELECT setting FROM pg_file_settings WHERE name = 'archive_command' ORDER BY seqno DESC LIMIT 1"),
        "true"
    );
    n1.set(&[("archive_command", "")]);
    done(backups.setup(true));
    n1.restart();
    done(backups.take(None, None));
    archive_one(n1, 1);
    done(backups.check());
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o077;
    for entry in fs::read_dir(backups.open().wal_folder("n1")).expect("it is there").flatten() {
        assert_eq!(mode(&entry.path()), 0, "{entry:?}");
    }

    // Another mesh, or a node that was made anew, does not write into this one's backups.
    let mesh = backups.path.join("mesh.json");
    let sound = fs::read_to_string(&mesh).expect("it is there");
    let other = n1.value("SELECT system_identifier FROM pg_control_system()");
    fs::write(&mesh, sound.replace(&other, "1234567890123456789")).expect("it can be written");
    let (told, refused) = backups.take(None, None);
    assert!(refused.is_err() && told.contains("system identifier"), "{told}");
    assert!(matches!(backups.setup(true).1, Err(Error::OtherSystem { .. })));
    fs::write(&mesh, sound).expect("it can be written");

    assert!(matches!(backups.take(Some("n9"), None).1, Err(Error::UnknownNode { .. })));
    let wrong = setup::Options { driver: Some(DriverName::Barman), ..backups.options() };
    assert!(matches!(ended(|screen| setup::run(&wrong, screen)).1, Err(Error::OtherDriver { .. })));
    n1.stop_fast();
    assert!(matches!(backups.take(None, None).1, Err(Error::NobodyAnswers(_))));
    assert!(backups.findings().contains("the servers could not be asked"));
}

/// A backup program of a few lines: `sh program take|list|wal|base|get …`, with a folder of its own beside it.
pub const PROGRAM: &str = r#"
set -e
d=$(dirname "$0")/store
mkdir -p "$d/wal" "$d/base"
case $1 in
push) cp "$2" "$d/wal/$3" ;;
take)
    label=$2-$(ls "$d/base" | wc -l)
    "$4/pg_basebackup" --pgdata "$d/base/$label" --dbname "$3" --checkpoint=fast
    now=$(date -u +%Y-%m-%dT%H:%M:%S.%6NZ)
    sed -n 's|.*"Timeline": \([0-9]*\), "Start-LSN": "\([^"]*\)", "End-LSN": "\([^"]*\)".*|"timeline":\1,"start_lsn":"\2","stop_lsn":"\3"|p' \
        "$d/base/$label/backup_manifest" |
        sed "s|.*|{\"label\":\"$label\",\"kind\":\"full\",&,\"begun_at\":\"$now\",\"ended_at\":\"$now\",\"bytes\":1}|" >"$d/$label.entry"
    ;;
list) printf '['; cat "$d"/*.entry 2>/dev/null | paste -sd, -; printf ']' ;;
wal) ls "$d/wal" ;;
base) cp -a "$d/base/$2/." "$3" ;;
get) cp "$d/wal/$2" "$3" ;;
remove) rm -r "$d/base/$2" "$d/$2.entry" ;;
esac
"#;

#[test]
fn a_program_of_the_users_own_takes_lists_and_gives_back() {
    let cluster = mesh("a_program_of_the_users_own", 1);
    let [n1] = cluster.all();
    let backups = Backups::of(&cluster);
    let program = cluster.folder().join("program");
    fs::write(&program, PROGRAM).expect("it can be written");
    let command = |rest: &str| format!("sh {} {rest}", program.display());
    let templates = Templates {
        archive: command("push {path} {file}"),
        take: command("take {node} {dsn} {bin_folder}"),
        list: command("list"),
        list_wal: command("wal"),
        fetch_base: command("base {label} {target}"),
        fetch_wal: command("get {file} {target}"),
        verify: None,
        remove: Some(command("remove {label}")),
    };
    let with =
        |command: Option<Templates>| setup::Options { driver: Some(DriverName::Command), command, ..backups.options() };
    let setup = |options: &setup::Options| ended(|screen| setup::run(options, screen));
    assert!(matches!(setup(&with(None)).1, Err(Error::NoTemplates)));
    let wrong = Templates { take: command("take {nodes}"), ..templates.clone() };
    assert!(matches!(setup(&with(Some(wrong))).1, Err(Error::Template { option: "--take-command", .. })));
    done(setup(&with(Some(templates.clone()))));
    n1.restart();
    done(backups.take(None, None));
    archive_one(n1, 1);
    done(backups.check());
    comes_back(&cluster, &backups);
    done(backups.take(None, None));
    let templates = Templates { archive: command("push {path} {file} ''"), ..templates };
    let told = done(setup(&with(Some(templates))));
    assert!(told.contains("n1: archive_command = ") && told.contains("No server must be restarted"), "{told}");
    assert!(backups.expire(1, false).contains("n1: removed full backup n1-0"));
    assert_eq!(backups.of_node("n1").len(), 1);
}

#[test]
fn barman_takes_lists_and_gives_back() {
    let cluster = mesh("barman", 1);
    let [n1] = cluster.all();
    // Barman's configuration holds no %.
    let backups = Backups { path: cluster.folder().join("it's barman"), ..Backups::of(&cluster) };
    done(ended(|screen| setup::run(&setup::Options { driver: Some(DriverName::Barman), ..backups.options() }, screen)));
    n1.restart();
    assert!(done(backups.take(None, None)).contains("n1: full backup"));
    archive_one(n1, 1);
    assert!(done(backups.take(None, None)).contains("n1: incremental backup"));
    done(backups.check());
    comes_back(&cluster, &backups);
    done(backups.take(None, Some(Kind::Full)));
    assert!(backups.expire(1, false).contains("n1: removed incremental backup"));
    assert_eq!(backups.of_node("n1").len(), 1);
}

/// The newest backup starts as a server that replays the archive to its end.
fn comes_back(cluster: &Cluster, backups: &Backups) {
    let repository = backups.open();
    let (node, driver) =
        (repository.node("n1").expect("it is set up"), driver::open(&repository).expect("it was opened before"));
    let label = backups.of_node("n1").last().expect("one was taken").label.clone();
    let data = cluster.folder().join("back");
    let (user, archive) = (cluster.user(), driver.archive(node).unwrap_or_else(|error| panic!("{error}")));
    driver.fetch_base(node, &label, &data, user, &|_| ()).unwrap_or_else(|error| panic!("{error}"));
    assert!(!data.join("recovery.signal").exists());
    let (segment, _) = archive.segments.last_key_value().expect("something is archived");
    driver
        .fetch_wal(node, &segment.file_name(archive.segment_size), &data, user)
        .unwrap_or_else(|error| panic!("{error}"));
    let restore_command = driver.restore_command(node).unwrap_or_else(|error| panic!("{error}"));
    let settings = [
        ("restore_command", restore_command.as_str()),
        ("recovery_target_action", "shutdown"),
        ("recovery_target_lsn", &segment.start(archive.segment_size).to_string()),
        ("archive_mode", "off"),
        ("port", "1"),
        ("logging_collector", "off"),
    ];
    let mut conf = fs::OpenOptions::new().append(true).open(data.join("postgresql.auto.conf")).expect("it is there");
    for (name, value) in settings {
        conf.write_all(shell::configuration_line(name, value).as_bytes()).expect("it can be written");
    }
    fs::write(data.join("recovery.signal"), "").expect("it can be written");
    user.own(&data.join("recovery.signal")).expect("it is there");
    let output = user.command(&node.bin_folder.join("postgres")).arg("-D").arg(&data).output().expect("it starts");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("recovery stopping") && log.contains("restored log file"), "{log}");
    fs::remove_dir_all(&data).expect("it can be removed");
}

const REPOSITORY: &str = "SPOCK_RECOVERY_TEST_REPOSITORY";

#[test]
#[ignore = "the process that the next test kills"]
fn a_process_that_takes_a_backup() {
    let path = PathBuf::from(env::var_os(REPOSITORY).expect("the next test sets it"));
    done(Backups { path, dsn: String::new() }.take(None, Some(Kind::Full)));
}

#[test]
fn a_killed_take_leaves_nothing_that_looks_complete() {
    let cluster = mesh("a_killed_take", 1);
    let [n1] = cluster.all();
    // Of the walsender whose client was killed.
    cluster.expect_log("could not send");
    cluster.expect_log("connection to client lost");
    let backups = Backups::of(&cluster);
    done(backups.setup(false));
    n1.restart();
    let base = backups.open().base_folder("n1");
    let begun = || fs::read_dir(&base).is_ok_and(|mut entries| entries.next().is_some());
    let mut process = Command::new(env::current_exe().expect("this test's"))
        .args(["--ignored", "--exact", "backup::a_process_that_takes_a_backup"])
        .env(REPOSITORY, &backups.path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    wait_for("the backup to begin", begun);
    process.kill().expect("it can be killed");
    process.wait().expect("it ends");
    n1.wait_until("SELECT count(*) FROM pg_stat_progress_basebackup", "0");

    assert!(begun(), "it was killed in the midst of it");
    assert_eq!(backups.of_node("n1"), []);
    assert!(backups.list(Format::Table).contains("there is no complete backup"));
    assert!(backups.findings().contains("n1: it has no complete backup"));
    let wal = backups.open().wal_folder("n1");
    let (old, new) = (wal.join("archtemp.old"), wal.join("archtemp.new"));
    fs::write(&new, "").expect("it can be written");
    let two_hours_ago = SystemTime::now() - Duration::from_secs(7200);
    fs::File::create(&old).and_then(|file| file.set_modified(two_hours_ago)).expect("it can be written");
    done(backups.take(None, None));
    assert!(!old.exists() && new.exists());
    let names: Vec<String> = fs::read_dir(&base)
        .expect("it is there")
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let label = &backups.of_node("n1")[0].label;
    assert!(names.len() == 2 && names.iter().all(|name| name.starts_with(label.as_str())), "{names:?}");
    assert!(
        ServerUser::owner_of(&base).is_ok_and(|owner| owner.is_some_and(|owner| owner.name() == cluster.user().name()))
    );
    done(backups.check());
}
