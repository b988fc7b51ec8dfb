//! SQL over the servers' sockets, with errors that say what PostgreSQL said.

use std::path::Path;
use std::time::Duration;

use postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::error::{Error, Result};
use crate::program;

/// What a query returned: text values, NULL as None.
pub type Rows = Vec<Vec<Option<String>>>;

/// Where a server listens, and which of its databases.
pub fn config(socket_folder: &Path, port: u16, database: &str) -> Config {
    let mut config = Config::new();
    config
        .host_path(socket_folder)
        .port(port)
        .dbname(database)
        .user("postgres")
        .application_name(program::name())
        .connect_timeout(Duration::from_secs(10));
    config
}

pub fn connect(server: &str, config: &Config) -> Result<Client> {
    config.connect(NoTls).map_err(|source| Error::Sql {
        server: server.into(),
        statement: "(connecting)".into(),
        source,
    })
}

/// Runs statements by the simple protocol; the rows of all of them.
pub fn query(server: &str, client: &mut Client, statement: &str) -> Result<Rows> {
    rows(client, statement).map_err(|source| Error::Sql { server: server.into(), statement: statement.into(), source })
}

/// Like `query`, for a statement that holds a password: an error shows what stands for it.
pub fn query_secret(server: &str, client: &mut Client, statement: &str, shown: &str) -> Result<Rows> {
    rows(client, statement).map_err(|source| Error::Sql { server: server.into(), statement: shown.into(), source })
}

/// Like `query`, but fails with the bare error, for a caller that looks into it.
pub fn rows(client: &mut Client, statement: &str) -> std::result::Result<Rows, postgres::Error> {
    let messages = client.simple_query(statement)?;
    Ok(messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        })
        .collect())
}

/// The first value of the first row; empty for NULL and where there is no row.
pub fn first(rows: Rows) -> String {
    rows.into_iter().flatten().next().flatten().unwrap_or_default()
}

/// `ERROR:  message (SQLSTATE), DETAIL: …, HINT: …`; the library's own words where the server said nothing.
pub fn describe(error: &postgres::Error) -> String {
    let Some(error) = error.as_db_error() else {
        return match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
    };
    let mut text = format!("{}:  {} ({})", error.severity(), error.message(), error.code().code());
    for (name, value) in [("DETAIL", error.detail()), ("HINT", error.hint())] {
        if let Some(value) = value {
            text.push_str(&format!(", {name}: {value}"));
        }
    }
    text
}

/// Quotes a value as a string literal. Backslashes need nothing: standard_conforming_strings is on.
pub fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// Quotes a name.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
