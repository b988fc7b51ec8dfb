//! Native replication between the nodes of a cluster: one publication of each node, one subscription for each pair of target
//! and source.

use crate::client::{self, identifier, literal};
use crate::cluster::Cluster;
use crate::deadline;
use crate::error::Result;
use crate::server::Server;

/// The publication of each node: all its tables.
pub const PUBLICATION: &str = "mesh";

/// The subscription on `target` that receives from `source`, and its slot on `source`.
pub fn subscription_name(target: &str, source: &str) -> String {
    format!("sub_{target}_{source}")
}

/// Publishes all tables of a database.
pub fn publish(server: &Server, database: &str) -> Result<()> {
    server.query(database, &format!("CREATE PUBLICATION {PUBLICATION} FOR ALL TABLES")).map(drop)
}

/// What is needed of a mesh: who publishes, who receives from whom, and when all is ready.
impl Cluster {
    /// Each node as target with each other one as its source.
    pub fn pairs(&self) -> Vec<(&str, &str)> {
        let names = || self.servers().iter().map(|server| server.name());
        names()
            .flat_map(|target| names().filter(move |source| *source != target).map(move |source| (target, source)))
            .collect()
    }

    /// Publishes all tables of each node.
    pub fn publish(&self) -> Result<()> {
        self.servers().iter().try_for_each(|server| publish(server, self.database()))
    }

    /// Subscribes each target to its source, with `origin = none`, so that nobody forwards what others wrote, and without copies
    /// of what the tables hold already; returns when every table of each subscription is ready.
    pub fn subscribe(&self, pairs: &[(&str, &str)]) -> Result<()> {
        self.subscribe_with(pairs, false)
    }

    /// Like `subscribe`, with copies of what the tables hold already, which is right for the rows of one node only.
    pub fn subscribe_copying(&self, pairs: &[(&str, &str)]) -> Result<()> {
        self.subscribe_with(pairs, true)
    }

    fn subscribe_with(&self, pairs: &[(&str, &str)], copy_data: bool) -> Result<()> {
        for (target, source) in pairs {
            let statement = format!(
                "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {PUBLICATION} WITH (origin = none, copy_data = {copy_data})",
                identifier(&subscription_name(target, source)),
                literal(&self.node(source)?.dsn(self.database())),
            );
            self.node(target)?.query(self.database(), &statement)?;
        }
        self.wait_tables_ready()
    }

    /// Makes every subscription of a mesh know the tables that were created since; returns when all are ready.
    pub fn refresh(&self) -> Result<()> {
        for (target, source) in self.pairs() {
            let subscription = identifier(&subscription_name(target, source));
            let statement = format!("ALTER SUBSCRIPTION {subscription} REFRESH PUBLICATION WITH (copy_data = false)");
            self.node(target)?.query(self.database(), &statement)?;
        }
        self.wait_tables_ready()
    }

    fn wait_tables_ready(&self) -> Result<()> {
        for server in self.servers() {
            let mut session = server.connect(self.database())?;
            let unready = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'";
            deadline::wait(&format!("every table to be ready on \"{}\"", server.name()), self.limit(), |last| {
                let count = client::first(client::query(server.name(), &mut session, unready)?);
                *last = format!("{count} tables are not ready");
                Ok((count == "0").then_some(()))
            })?;
        }
        Ok(())
    }

    pub fn enable(&self, target: &str, source: &str) -> Result<()> {
        let subscription = identifier(&subscription_name(target, source));
        let statement = format!("ALTER SUBSCRIPTION {subscription} ENABLE");
        self.node(target)?.query(self.database(), &statement).map(drop)
    }

    /// Returns when the worker has gone: DISABLE returns before that, and the worker may still apply something.
    pub fn disable(&self, target: &str, source: &str) -> Result<()> {
        let name = subscription_name(target, source);
        let node = self.node(target)?;
        node.query(self.database(), &format!("ALTER SUBSCRIPTION {} DISABLE", identifier(&name)))?;
        let gone = format!(
            "SELECT count(*) = 0 FROM pg_stat_subscription WHERE subname = {} AND pid IS NOT NULL",
            literal(&name)
        );
        node.wait_until(self.database(), "the end of a subscription's worker", &gone, self.limit())
    }

    /// Returns when the target has flushed all that the source has written until now.
    pub fn wait_arrived(&self, target: &str, source: &str) -> Result<()> {
        let source = self.node(source)?;
        source.query(self.database(), "SELECT pg_logical_emit_message(true, 'flush', '')")?;
        let end = source.value(self.database(), "SELECT pg_current_wal_flush_lsn()")?;
        let confirmed = format!(
            "SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name = {}",
            literal(&subscription_name(target, source.name()))
        );
        source.wait_until(self.database(), &format!("\"{target}\" to confirm {end}"), &confirmed, self.limit())
    }
}
