//! Native replication from every server to every other: one publication each, one subscription per ordered pair.

use std::time::Duration;

use crate::client::{identifier, literal};
use crate::deadline;
use crate::error::{Error, Result};
use crate::server::Server;

#[derive(Debug, Clone)]
pub struct MeshOptions {
    pub database: String,
    pub publication: String,
    /// Copies what the tables hold already, which is right for one node's data only.
    pub copy_data: bool,
}

impl Default for MeshOptions {
    fn default() -> MeshOptions {
        MeshOptions { database: "postgres".into(), publication: "mesh".into(), copy_data: false }
    }
}

/// The subscription on `target` that receives from `source`, and its slot on `source`.
pub fn subscription_name(target: &str, source: &str) -> String {
    format!("sub_{target}_{source}")
}

/// Publishes all tables of each server and subscribes each to all others, with `origin = none`: nobody forwards what others wrote.
pub fn wire(servers: &[&Server], options: &MeshOptions) -> Result<()> {
    for server in servers {
        publish(server, options)?;
    }
    for target in servers {
        for source in servers.iter().filter(|source| source.name() != target.name()) {
            subscribe(target, source, options)?;
        }
    }
    Ok(())
}

pub fn publish(server: &Server, options: &MeshOptions) -> Result<()> {
    server
        .query(&options.database, &format!("CREATE PUBLICATION {} FOR ALL TABLES", identifier(&options.publication)))
        .map(drop)
}

pub fn subscribe(target: &Server, source: &Server, options: &MeshOptions) -> Result<()> {
    let statement = format!(
        "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {} WITH (origin = none, copy_data = {})",
        identifier(&subscription_name(target.name(), source.name())),
        literal(&source.dsn(&options.database)),
        identifier(&options.publication),
        options.copy_data,
    );
    target.query(&options.database, &statement).map(drop)
}

/// Makes every subscription know the tables created since, and waits until each table of each is ready.
pub fn refresh(servers: &[&Server], options: &MeshOptions, limit: Duration) -> Result<()> {
    for target in servers {
        for source in servers.iter().filter(|source| source.name() != target.name()) {
            let subscription = identifier(&subscription_name(target.name(), source.name()));
            let statement = format!(
                "ALTER SUBSCRIPTION {subscription} REFRESH PUBLICATION WITH (copy_data = {})",
                options.copy_data
            );
            target.query(&options.database, &statement)?;
        }
    }
    wait_ready(servers, options, limit)
}

/// Waits until each table of each subscription is ready.
pub fn wait_ready(servers: &[&Server], options: &MeshOptions, limit: Duration) -> Result<()> {
    for server in servers {
        let mut client = server.connect(&options.database)?;
        let unready = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'";
        let mut last = String::new();
        deadline::poll(limit, || match crate::client::query(server.name(), &mut client, unready) {
            Ok(rows) => {
                last = rows.into_iter().flatten().flatten().collect();
                (last == "0").then_some(Ok(()))
            }
            Err(error) => Some(Err(error)),
        })
        .unwrap_or_else(|| {
            let what = format!("the initial copies on \"{}\"", server.name());
            Err(Error::Timeout { what, waited: limit, last: format!("{last} tables are not ready") })
        })?;
    }
    Ok(())
}
