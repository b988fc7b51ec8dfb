//! SQL on a server: each statement in a session of its own, or in one that the caller keeps.

use std::time::Duration;

use postgres::{Client, Config};

use super::Server;
use crate::client::{self, Rows};
use crate::deadline;
use crate::error::Result;

impl Server {
    /// What another server or psql connects with.
    pub fn dsn(&self, database: &str) -> String {
        format!("host={} port={} dbname={database} user=postgres", self.socket_folder.display(), self.port)
    }

    pub fn config(&self, database: &str) -> Config {
        client::config(&self.socket_folder, self.port, database)
    }

    pub fn connect(&self, database: &str) -> Result<Client> {
        client::connect(self.name(), &self.config(database))
    }

    /// Runs statements in a session of their own.
    pub fn query(&self, database: &str, statement: &str) -> Result<Rows> {
        client::query(self.name(), &mut self.connect(database)?, statement)
    }

    /// The first value of the first row; empty for NULL and where there is no row.
    pub fn value(&self, database: &str, question: &str) -> Result<String> {
        Ok(client::first(self.query(database, question)?))
    }

    /// Waits until the question is answered with true; `what` says of a failure what was waited for.
    pub fn wait_until(&self, database: &str, what: &str, question: &str, limit: Duration) -> Result<()> {
        let mut session = self.connect(database)?;
        deadline::wait(&format!("{what} on \"{}\"", self.name), limit, |last| {
            *last = client::first(client::query(&self.name, &mut session, question)?);
            Ok((last == "t").then_some(()))
        })
    }
}
