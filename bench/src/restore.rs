//! spockctl restore start, beside what one would do by hand with the same base backups and the same archive: put the files in
//! place, and let plain PostgreSQL recover to the point.
//!
//! Both bring all nodes of a mesh to the same restore point at the same time, beside the living nodes, and end when the last one
//! stands there, paused.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sys::statvfs::statvfs;
use spock_recovery_cluster::client::literal;
use spock_recovery_cluster::pid_file::PidFile;
use spock_recovery_cluster::{
    Cluster, Configuration, Error as ServerError, Server, Shutdown, command, deadline, process, run_folder,
};
use spockctl::backup::{DriverName, Repository, setup, take};
use spockctl::restore::check::Options;
use spockctl::restore::journal::Journal;
use spockctl::restore::{Moment, cancel, server, start};

use crate::bench::Bench;
use crate::cluster;
use crate::error::{Error, Result, joined};
use crate::measure::{Figure, alternating, median, timed};
use crate::report;
use crate::said::quietly;
use crate::wait::{self, DATABASE};
use crate::whole_call::CONTENT;

const NODES: [&str; 2] = ["n1", "n2"];
const POINT: &str = "measured";

/// A row of 1 kB, which is not compressed.
const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, v text NOT NULL)";
const ROW_BYTES: u64 = 1_024;

/// What lies on the disk at the same time for each byte of the mesh: the nodes, their WAL, backups, archive, and restored nodes.
const ROOM: f64 = 3.6;

pub fn restore(bench: &Bench) -> Result<Vec<Figure>> {
    let mut measured: Vec<(u64, Figure)> = Vec::new();
    for (name, gigabytes) in [("restore/1", 1), ("restore/10", 10)] {
        // A tenth of a GB, and a whole one.
        let bytes = (gigabytes << 30) / bench.size(1, 10);
        let room = if bench.wants(name) { Some(missing_room(bytes)?) } else { None };
        match room {
            None => (),
            Some(None) => measured.push((bytes, measure(bench, name, bytes)?)),
            Some(Some(why)) => bench.screen.line(format!("  {name} is left out: {why}")),
        }
    }
    if let [(small, few), (large, many)] = &measured[..] {
        extrapolate(bench, (*small, median(&few.ours)), (*large, median(&many.ours)));
    }
    Ok(measured.into_iter().map(|(_, figure)| figure).collect())
}

/// What 1,000 GB would take, if each further GB takes what one between the two measured sizes has taken. That is too little
/// where what was measured had room in the machine's memory, and 1,000 GB have not.
fn extrapolate(bench: &Bench, (small, short): (u64, f64), (large, long): (u64, f64)) {
    let per_byte = (long - short) / (large - small) as f64;
    let seconds = long + per_byte * ((1000_u64 << 30) - large) as f64;
    bench.screen.line(format!(
        "  restore: {:.0} MB/s, so 1,000 GB would take about {:.1} h",
        1.0 / per_byte / f64::from(1 << 20),
        seconds / 3600.0
    ));
}

/// `bytes`: of all nodes together.
fn measure(bench: &Bench, name: &'static str, bytes: u64) -> Result<Figure> {
    let mesh = Mesh::start(bench, bytes)?;
    let mut figure = Figure::new(name);
    for pair in 0..bench.pairs() {
        let both = alternating(pair, || mesh.restored(), || mesh.restored_by_hand(bench))?;
        report::allowed(bench, &mut figure, both, "the restore by hand", 1.1);
    }
    mesh.cluster.stop()?;
    Ok(figure)
}

/// Why a mesh of this size cannot be measured; None: it can.
fn missing_room(bytes: u64) -> Result<Option<String>> {
    let base = run_folder::base();
    let system = statvfs(&base).map_err(|error| Error::Verification(format!("{}: {error}", base.display())))?;
    let free = (system.blocks_available() * system.fragment_size()) as f64;
    let needed = bytes as f64 * ROOM + f64::from(1 << 30);
    let gigabytes = |bytes: f64| bytes / f64::from(1 << 30);
    Ok((free < needed).then(|| {
        format!(
            "\"{}\" has {:.1} GB free, and {:.1} GB are needed; SPOCK_RECOVERY_TMP names another place",
            base.display(),
            gigabytes(free),
            gigabytes(needed)
        )
    }))
}

/// A mesh with backups, and a restore point behind them.
struct Mesh {
    cluster: Cluster,
    repository: PathBuf,
    /// What the table of every node holds at the point.
    content: String,
}

impl Mesh {
    fn start(bench: &Bench, bytes: u64) -> Result<Mesh> {
        let rows = bytes / NODES.len() as u64 / ROW_BYTES;
        let fill = format!(
            "INSERT INTO t SELECT g, rpad(md5(g::text), 960, md5((g + 1)::text)) FROM generate_series(1, {rows}) g"
        );
        let cluster = cluster::start_with(bench, &NODES, true, &[("max_wal_size", "1GB")], |node| {
            wait::sql(node, TABLE)?;
            wait::sql(node, &fill)?;
            wait::sql(node, "VACUUM ANALYZE t")
        })?;
        cluster.subscribe(&cluster.pairs())?;
        let repository = cluster.path().join("repository");
        let options = setup::Options {
            dsn: cluster.node("n1")?.dsn(DATABASE),
            repository: repository.clone(),
            driver: Some(DriverName::Dir),
            node: None,
            by_command: false,
            archive_timeout: None,
            command: None,
        };
        quietly(|screen| setup::run(&options, screen))?;
        for node in cluster.nodes() {
            node.stop(Shutdown::Fast)?;
            node.start()?;
        }
        let options = take::Options { repository: repository.clone(), dsn: None, node: None, kind: None };
        quietly(|screen| take::run(&options, screen))?;
        // What is to be replayed: a tenth of the rows, whose pages are written whole once.
        let n1 = cluster.node("n1")?;
        wait::sql(n1, &format!("UPDATE t SET v = reverse(v) WHERE id <= {}", rows / 10))?;
        cluster.wait_arrived("n2", "n1")?;
        cluster.wait_arrived("n1", "n2")?;
        wait::same(&cluster.nodes(), CONTENT)?;
        let content = format!("{:?}", n1.query(DATABASE, CONTENT)?);
        wait::sql(n1, &format!("SELECT spock.create_restore_point('{POINT}')"))?;
        wait::sql(n1, "DELETE FROM t WHERE id <= 1000")?;
        for node in cluster.nodes() {
            archived(node)?;
        }
        Ok(Mesh { cluster, repository, content })
    }

    /// Seconds of the command with all its steps.
    fn restored(&self) -> Result<f64> {
        let beside = Beside(self.cluster.path().join("beside"));
        let options = Options {
            repository: self.repository.clone(),
            node: None,
            moment: Some(Moment::Point(POINT.to_owned())),
            into: Some(beside.0.clone()),
            end_after: None,
        };
        let taken = timed(|| quietly(|screen| start::run(&options, screen)))?;
        for name in NODES {
            let journal = Journal::read(&beside.0.join(name)).map_err(told)?;
            let journal = journal.ok_or_else(|| Error::Verification(format!("{name} has no journal")))?;
            let mut client = server::connect(&journal, self.cluster.user()).map_err(told)?;
            let rows = spock_recovery_cluster::client::query(name, &mut client, CONTENT)?;
            self.require_content(name, &format!("{rows:?}"))?;
        }
        quietly(|screen| cancel::run(&options, screen))?;
        Ok(taken.as_secs_f64())
    }

    /// Seconds of copying the base backups and recovering to the point.
    fn restored_by_hand(&self, bench: &Bench) -> Result<f64> {
        let beside = Beside(self.cluster.path().join("by_hand"));
        bench.user.make_folder(&beside.0)?;
        let repository = Repository::open(&self.repository).map_err(told)?;
        let mut places = Vec::new();
        for (name, port) in NODES.into_iter().zip(7000..) {
            let base = newest(&repository.base_folder(name))?;
            let server =
                Server::existing(&bench.installation, &bench.user, &beside.0, (name, port), Configuration::default());
            places.push((server, base, repository.wal_folder(name), port));
        }
        let taken = timed(|| {
            thread::scope(|scope| {
                let nodes = places.iter().map(|(server, base, wal, port)| {
                    let folder = &beside.0;
                    scope.spawn(move || recover(bench, server, (base, wal), (folder, *port)))
                });
                let nodes: Vec<_> = nodes.collect();
                nodes.into_iter().try_for_each(|node| joined(node.join()))
            })
        })?;
        for (server, ..) in &places {
            let rows = server.query(DATABASE, CONTENT)?;
            self.require_content(server.name(), &format!("{rows:?}"))?;
            server.stop(Shutdown::Immediate)?;
        }
        Ok(taken.as_secs_f64())
    }

    fn require_content(&self, name: &str, content: &str) -> Result<()> {
        match content == self.content {
            true => Ok(()),
            false => Err(Error::Verification(format!("{name} was restored to {content} and not to {}", self.content))),
        }
    }
}

/// A folder with restored nodes, whose servers are nobody's children. Both end with it.
struct Beside(PathBuf);

impl Drop for Beside {
    fn drop(&mut self) {
        for name in NODES {
            if let Some(pid) = PidFile::read(&self.0.join(name)).map(|file| file.pid) {
                let _ = process::kill_all(pid);
            }
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn told(error: impl std::fmt::Display) -> Error {
    Error::Verification(error.to_string())
}

/// All that the node has written until now is in the archive.
fn archived(node: &Server) -> Result<()> {
    let segment = wait::value(node, "SELECT pg_walfile_name(pg_switch_wal())")?;
    let is_there = format!("SELECT coalesce(last_archived_wal >= '{segment}', false) FROM pg_stat_archiver");
    wait::until(node, &is_there)
}

/// The base backup of the highest label, which begins with its time.
fn newest(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).map_err(ServerError::io("read the folder", folder))?;
    let newest = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).max();
    newest.ok_or_else(|| Error::Verification(format!("\"{}\" has no base backup", folder.display())))
}

fn recover(bench: &Bench, node: &Server, (base, wal): (&Path, &Path), (folder, port): (&Path, u16)) -> Result<()> {
    let mut copy = bench.user.command(Path::new("/bin/cp"));
    command::run(copy.args(["-a", "--reflink=auto", "--"]).arg(base).arg(node.data()))?;
    let settings = [
        ("port", port.to_string()),
        ("unix_socket_directories", folder.display().to_string()),
        ("max_logical_replication_workers", "0".to_owned()),
        ("shared_preload_libraries", String::new()),
        ("archive_mode", "off".to_owned()),
        ("restore_command", format!("cp -- {}/%f \"%p\"", wal.display())),
        ("recovery_target_name", POINT.to_owned()),
        ("recovery_target_action", "pause".to_owned()),
    ];
    let path = node.data().join("postgresql.auto.conf");
    let before = fs::read_to_string(&path).map_err(ServerError::io("read", &path))?;
    let lines: String = settings.iter().map(|(name, value)| format!("{name} = {}\n", literal(value))).collect();
    fs::write(&path, before + &lines).map_err(ServerError::io("write", &path))?;
    let signal = node.data().join("recovery.signal");
    fs::write(&signal, "").map_err(ServerError::io("write", &signal))?;
    bench.user.own(&signal)?;
    node.launch()?;
    deadline::wait(&format!("{} to have recovered", node.name()), wait::LIMIT, |last| {
        match node.value(DATABASE, "SELECT pg_get_wal_replay_pause_state()") {
            Ok(state) => {
                let is_paused = state == "paused";
                *last = state;
                Ok(is_paused.then_some(()))
            }
            // It is not consistent yet; one that has ended never will be.
            Err(error) if !node.pid().is_some_and(process::is_alive) => Err(Error::from(error)),
            Err(error) => {
                *last = error.to_string();
                Ok(None)
            }
        }
    })
}
