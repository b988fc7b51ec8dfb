//! spockctl node create, beside the base backup of the same node alone.

use std::fs;
use std::time::Duration;

use spock_recovery_cluster::pid_file::PidFile;
use spock_recovery_cluster::{Cluster, Server, Shutdown, command, deadline, process};
use spockctl::node::{Options, create};

use crate::bench::Bench;
use crate::cluster;
use crate::error::Result;
use crate::measure::{Figure, alternating, timed};
use crate::report;
use crate::said::quietly;
use crate::wait;
use crate::whole_call::CONTENT;

/// A row of 1 kB, which is not compressed.
const ROW_BYTES: u64 = 1_024;

pub fn node_create(bench: &Bench) -> Result<Vec<Figure>> {
    let rows = bench.size(2 << 30, 200 << 20) / ROW_BYTES;
    let mut figure = Figure::new("node_create");
    for pair in 0..bench.pairs() {
        // A mesh of its own each time: the new node would be one of the nodes of the next.
        let mesh = Mesh::start(bench, rows)?;
        let both = alternating(pair, || mesh.create(), || mesh.back_up(bench))?;
        report::allowed(bench, &mut figure, both, "the base backup", 1.05);
        mesh.stop()?;
    }
    Ok(vec![figure])
}

/// Two nodes, and the place of a third one, whose server is nobody's child.
struct Mesh {
    cluster: Cluster,
}

impl Mesh {
    fn start(bench: &Bench, rows: u64) -> Result<Mesh> {
        let fill = format!(
            "CREATE TABLE t (id bigint PRIMARY KEY, v text NOT NULL);
             INSERT INTO t SELECT g, rpad(md5(g::text), 960, md5((g + 1)::text)) FROM generate_series(1, {rows}) g"
        );
        let mut cluster = cluster::start(bench, &["n1", "n2"], true, |node| {
            wait::sql(node, &fill)?;
            wait::sql(node, "VACUUM ANALYZE t")
        })?;
        cluster.subscribe(&cluster.pairs())?;
        cluster.add_place()?;
        wait::sql(cluster.node("n1")?, "CHECKPOINT")?;
        Ok(Mesh { cluster })
    }

    /// Seconds of the command, after which the mesh has one node more, which replicates with all others.
    fn create(&self) -> Result<f64> {
        let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| self.cluster.node(name));
        let (n1, n2, n3) = (n1?, n2?, n3?);
        let options = Options {
            from: n1.dsn(wait::DATABASE),
            pgdata: n3.data().to_owned(),
            name: n3.name().to_owned(),
            dsn: Some(n3.dsn(wait::DATABASE)),
            ..Options::default()
        };
        let taken = timed(|| quietly(|screen| create::run(&options, screen)))?;
        wait::sql(n1, "UPDATE t SET v = 'of n1' WHERE id = 1")?;
        wait::sql(n3, "UPDATE t SET v = 'of n3' WHERE id = 2")?;
        for node in [n1, n2, n3] {
            wait::until(node, "SELECT count(*) = 2 FROM t WHERE (id, v) IN ((1, 'of n1'), (2, 'of n3'))")?;
        }
        wait::same(&[n1, n2, n3], CONTENT)?;
        Ok(taken.as_secs_f64())
    }

    /// Seconds of what `node create` begins with.
    fn back_up(&self, bench: &Bench) -> Result<f64> {
        let folder = self.cluster.path().join("backup");
        let mut backup = bench.user.command(&bench.installation.bindir.join("pg_basebackup"));
        backup.arg("--pgdata").arg(&folder).arg("--dbname").arg(self.cluster.node("n1")?.dsn(wait::DATABASE));
        backup.args(["--checkpoint=fast", "--wal-method=stream"]);
        let taken = timed(|| command::run(&mut backup))?;
        let _ = fs::remove_dir_all(&folder);
        Ok(taken.as_secs_f64())
    }

    fn stop(self) -> Result<()> {
        Ok(self.cluster.servers().iter().try_for_each(|server| server.stop(Shutdown::Fast))?)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let new = self.cluster.node("n3").map(Server::data);
        if let Some(pid) = new.ok().and_then(PidFile::read).map(|file| file.pid) {
            let _ = process::kill_all(pid);
            // Its files go when it has ended.
            deadline::poll(Duration::from_secs(20), || process::status(pid).is_none().then_some(()));
        }
    }
}
