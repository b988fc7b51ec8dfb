//! The servers of a scenario: nodes whose tables are the same from the beginning, and who receives from whom.
//!
//! n1 is the node that fails, n2 the target, n3 the source; n4 stands to all others as n2 does, and catches up natively.

use std::path::Path;
use std::time::Duration;

use spockctl::client::{identifier, literal};
use spockctl::deadline;
use spockctl::error::{Error, Result};
use spockctl::mesh::{self, MeshOptions, subscription_name};
use spockctl::server::Server;
use spockctl::{RunFolder, ServerOptions, Shutdown};

use crate::{Bench, wait};

pub const DATABASE: &str = "postgres";

const LIMIT: Duration = Duration::from_secs(120);

/// What a server in earnest has: it survives the crash of its machine, and its cache holds what it works on.
const SETTINGS: [(&str, &str); 3] = [("shared_buffers", "256MB"), ("max_wal_size", "4GB"), ("log_checkpoints", "off")];

/// Servers are ended and the folder removed when it is dropped.
pub struct Cluster {
    // Before the folder: servers end before their files go.
    servers: Vec<Server>,
    _folder: RunFolder,
}

/// Sockets lie in the folder: ports are names alone.
const FIRST_PORT: u16 = 5432;

impl Cluster {
    /// Starts the named servers, and does in each what is to be there before anything replicates.
    pub fn start(
        bench: &Bench,
        names: &[&str],
        with_extension: bool,
        prepare: impl Fn(&Server) -> Result<()>,
    ) -> Result<Cluster> {
        Cluster::start_with(bench, names, with_extension, &[], prepare)
    }

    /// With other settings than the usual ones.
    pub fn start_with(
        bench: &Bench,
        names: &[&str],
        with_extension: bool,
        settings: &[(&str, &str)],
        prepare: impl Fn(&Server) -> Result<()>,
    ) -> Result<Cluster> {
        let folder = RunFolder::create(&bench.user)?;
        let mut cluster = Cluster { servers: Vec::new(), _folder: folder };
        for (name, port) in names.iter().zip(FIRST_PORT..) {
            let mut options = ServerOptions::new(name, port);
            options.durable = true;
            options.preloads_extension = with_extension;
            let settings = SETTINGS.iter().chain(settings);
            options.settings = settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let path: &Path = cluster._folder.path();
            cluster.servers.push(Server::create(&bench.installation, &bench.user, path, options)?);
        }
        cluster.servers.iter_mut().try_for_each(Server::launch)?;
        for server in &mut cluster.servers {
            server.wait_ready()?;
        }
        for node in &cluster.servers {
            // Who waits for the first transaction of a node to arrive writes it here.
            wait::sql(
                node,
                "CREATE TABLE first (id bigint GENERATED ALWAYS AS IDENTITY, node text, PRIMARY KEY (node, id))",
            )?;
            prepare(node)?;
            publish(node, DATABASE, with_extension)?;
        }
        Ok(cluster)
    }

    /// Each target receives from its source.
    pub fn subscribe(&self, pairs: &[(&str, &str)]) -> Result<()> {
        for (target, source) in pairs {
            mesh::subscribe(self.node(target)?, self.node(source)?, &options(DATABASE))?;
        }
        mesh::wait_ready(&self.nodes(), &options(DATABASE), LIMIT)
    }

    /// Returns when the source can vouch for what it keeps of the failed node for each of its peers.
    pub fn wait_vouched(&self, failed: &str, source: &str) -> Result<()> {
        let (failed, source) = (self.node(failed)?, self.node(source)?);
        let vouched = format!(
            "SELECT count(*) > 0 AND bool_and(released_lsn < 'FFFFFFFF/FFFFFFFF' AND peer_lsn IS NOT NULL)
               FROM spock.recovery_horizon() WHERE origin_node = {}",
            literal(failed.name())
        );
        let look = || -> Result<bool> {
            // An origin that moves before its subscription was looked at is not seen to move.
            wait::sql(failed, &format!("INSERT INTO first (node) VALUES ({})", literal(failed.name())))?;
            Ok(wait::value(source, &vouched)? == "t")
        };
        deadline::poll(LIMIT, || look().map(|is_so| is_so.then_some(())).transpose()).unwrap_or_else(|| {
            let last = source.query(DATABASE, "SELECT * FROM spock.recovery_horizon()").map(|rows| format!("{rows:?}"));
            Err(Error::Timeout { what: "the recovery slots".into(), waited: LIMIT, last: last.unwrap_or_default() })
        })
    }

    pub fn nodes(&self) -> Vec<&Server> {
        self.servers.iter().collect()
    }

    pub fn node(&self, name: &str) -> Result<&Server> {
        self.servers.iter().find(|node| node.name() == name).ok_or_else(|| Error::NoNode(name.into()))
    }

    fn node_mut(&mut self, name: &str) -> Result<&mut Server> {
        self.servers.iter_mut().find(|node| node.name() == name).ok_or_else(|| Error::NoNode(name.into()))
    }

    /// kill -9, as a failing machine would.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.node_mut(name)?.kill()
    }

    pub fn start_again(&mut self, name: &str) -> Result<()> {
        self.node_mut(name)?.start()
    }

    pub fn stop(mut self) -> Result<()> {
        self.servers.iter_mut().try_for_each(|server| server.stop(Shutdown::Fast))
    }

    pub fn enable(&self, target: &str, source: &str) -> Result<()> {
        let name = identifier(&subscription_name(target, source));
        wait::sql(self.node(target)?, &format!("ALTER SUBSCRIPTION {name} ENABLE"))
    }

    /// DISABLE returns before the worker has gone, which may still apply something.
    pub fn disable(&self, target: &str, source: &str) -> Result<()> {
        let name = subscription_name(target, source);
        let node = self.node(target)?;
        wait::sql(node, &format!("ALTER SUBSCRIPTION {} DISABLE", identifier(&name)))?;
        wait::until(
            node,
            &format!("SELECT count(*) = 0 FROM pg_stat_subscription WHERE subname = '{name}' AND pid IS NOT NULL"),
        )
    }

    /// The target has all that the source has written until now, and has flushed it.
    pub fn wait_arrived(&self, target: &str, source: &str) -> Result<()> {
        let source = self.node(source)?;
        wait::sql(source, "SELECT pg_logical_emit_message(true, 'flush', '')")?;
        let end = wait::value(source, "SELECT pg_current_wal_flush_lsn()")?;
        wait::until(
            source,
            &format!(
                "SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name = '{}'",
                subscription_name(target, source.name())
            ),
        )
    }

    /// How far a node has applied another.
    pub fn applied(&self, target: &str, source: &str) -> Result<String> {
        wait::value(self.node(target)?, &applied_question(target, source))
    }

    /// What asks for the process of a native subscription.
    pub fn apply_worker(target: &str, source: &str) -> String {
        let name = subscription_name(target, source);
        format!("SELECT pid FROM pg_stat_subscription WHERE subname = '{name}' AND worker_type = 'apply'")
    }

    /// What asks whether a node has applied another as far as `end`.
    pub fn has_applied(target: &str, source: &str, end: &str) -> String {
        format!("SELECT coalesce(({}) >= '{end}', false)", applied_question(target, source))
    }

    /// Nobody has anything left to send, so that it would be sent while something else is measured; and the recovery slot
    /// of the source has moved up, as it has in a cluster that is not measured every few seconds.
    pub fn settle(&self, source: &str, enabled: &[(&str, &str)]) -> Result<()> {
        for (target, from) in enabled {
            self.wait_arrived(target, from)?;
        }
        let source = self.node(source)?;
        let end = wait::value(source, "SELECT pg_current_wal_flush_lsn()")?;
        let look = || -> Result<bool> {
            wait::sql(source, "SELECT pg_log_standby_snapshot()")?;
            wait::sql(source, "SELECT spock.advance_recovery_slot()")?;
            // Decoding begins where it restarts: what lies before is not to be read again.
            let question = format!(
                "SELECT bool_and(confirmed_flush_lsn >= '{end}' AND restart_lsn >= '{end}')
                   FROM spock.get_recovery_slot_status()"
            );
            Ok(wait::value(source, &question)? == "t")
        };
        deadline::poll(LIMIT, || look().map(|is_so| is_so.then_some(())).transpose()).unwrap_or_else(|| {
            let last = source
                .query(DATABASE, "SELECT * FROM spock.get_recovery_slot_status()")
                .map(|rows| format!("{rows:?}"));
            Err(Error::Timeout {
                what: "the recovery slot to move".into(),
                waited: LIMIT,
                last: last.unwrap_or_default(),
            })
        })
    }
}

fn applied_question(target: &str, source: &str) -> String {
    format!(
        "SELECT pg_replication_origin_progress('pg_' || oid, false) FROM pg_subscription WHERE subname = '{}'",
        subscription_name(target, source)
    )
}

/// Makes a database one that others can subscribe to, and a node where the extension is wanted.
pub fn publish(server: &Server, database: &str, with_extension: bool) -> Result<()> {
    if with_extension {
        server.query(database, "CREATE EXTENSION spock_recovery")?;
        let (name, dsn) = (literal(server.name()), literal(&server.dsn(database)));
        server.query(database, &format!("SELECT spock.node_create({name}, {dsn})"))?;
    }
    mesh::publish(server, &options(database))
}

fn options(database: &str) -> MeshOptions {
    MeshOptions { database: database.into(), ..MeshOptions::default() }
}
