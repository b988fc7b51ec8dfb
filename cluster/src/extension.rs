//! What makes a server a node of the extension.

use crate::client::literal;
use crate::error::Result;
use crate::server::Server;

/// Makes a database of the server a node that has the server's name.
pub fn create_node(server: &Server, database: &str) -> Result<()> {
    server.query(database, "CREATE EXTENSION spock_recovery")?;
    let (name, dsn) = (literal(server.name()), literal(&server.dsn(database)));
    server.query(database, &format!("SELECT spock.node_create({name}, {dsn})")).map(drop)
}

/// The question whether a node can prove what it keeps of another one: its slot is there, every peer has reported, and what
/// the slot may have let go is known, which the first transaction that arrives settles.
pub fn vouches_for(origin: &str) -> String {
    format!(
        "SELECT count(*) > 0 AND bool_and(released_lsn < 'FFFFFFFF/FFFFFFFF' AND peer_lsn IS NOT NULL)
           FROM spock.recovery_horizon() WHERE origin_node = {}",
        literal(origin)
    )
}
