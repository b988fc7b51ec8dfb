//! The closed server becomes the new node: its name, its subscriptions with their positions, and a slot for every peer.

use std::time::Duration;

use postgres::Client;
use spock_recovery_cluster::client::{self, identifier, literal};
use spock_recovery_cluster::deadline;

use super::closed;
use super::error::{Error, Result};
use super::journal::{Journal, Terms};
use super::site::Site;
use crate::backup::conninfo::Conninfo;
use crate::restore::server;

/// How long the recovery slot may take, which nobody writes beside.
const SLOT: Duration = Duration::from_secs(60);

/// Each part looks whether it was done before.
pub fn wire(site: &Site, dsn: &Conninfo) -> Result<()> {
    let mut mesh = site.mesh()?;
    let source = mesh.source()?.conninfo.clone();
    let registered = mesh.members.iter().find(|member| member.is_local).and_then(|member| member.conninfo.clone());
    let mut client = closed::start(site, &site.journal.libraries)?;
    let session = &mut Session { journal: &site.journal, client: &mut client };
    session.take_subscriptions_over()?;
    session.subscribe_to_source(&registered.unwrap_or(source))?;
    session.verify_positions()?;
    session.become_node(dsn)?;
    session.make_slots()?;
    if !session.await_recovery_slot() {
        site.say("its recovery slot is not there yet; spock.quick_health_check() will say why");
    }
    drop(client);
    closed::stop(site)
}

/// SQL on the closed server.
struct Session<'a> {
    journal: &'a Journal,
    client: &'a mut Client,
}

impl Session<'_> {
    fn run(&mut self, statement: &str) -> Result<()> {
        Ok(server::query(self.journal, self.client, statement).map(drop)?)
    }

    fn run_secret(&mut self, statement: &str, shown: &str) -> Result<()> {
        Ok(client::query_secret(&self.journal.name, self.client, statement, shown).map(drop)?)
    }

    fn value(&mut self, question: &str) -> Result<String> {
        Ok(server::value(self.journal, self.client, question)?)
    }

    fn values(&mut self, question: &str) -> Result<Vec<String>> {
        Ok(server::query(self.journal, self.client, question)?.into_iter().flatten().flatten().collect())
    }

    fn has(&mut self, table: &str, column: &str, name: &str) -> Result<bool> {
        Ok(self.value(&format!("SELECT count(*) FROM {table} WHERE {column} = {}", literal(name)))? != "0")
    }

    /// The living node's subscriptions get the new node's names and slots; their origins come along. All others are the living node's
    /// alone, and go without a word to their providers.
    fn take_subscriptions_over(&mut self) -> Result<()> {
        let own = "SELECT subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()";
        let links = &self.journal.links;
        let is_kept = |name: &String| {
            links.iter().any(|link| link.inherited.as_ref() == Some(name) || link.subscription == *name)
        };
        for name in self.values(own)?.into_iter().filter(|name| !is_kept(name)) {
            let name = identifier(&name);
            self.run(&format!("ALTER SUBSCRIPTION {name} DISABLE"))?;
            self.run(&format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)"))?;
            self.run(&format!("DROP SUBSCRIPTION {name}"))?;
        }
        for link in links {
            let Some(inherited) = &link.inherited else { continue };
            let (before, now) = (identifier(inherited), identifier(&link.subscription));
            if before != now && !self.has("pg_subscription", "subname", &link.subscription)? {
                self.run(&format!("ALTER SUBSCRIPTION {before} RENAME TO {now}"))?;
            }
            self.run(&format!("ALTER SUBSCRIPTION {now} SET (slot_name = {})", literal(&link.slot)))?;
        }
        Ok(())
    }

    /// From where the base backup ends: what lies before that is in it.
    fn subscribe_to_source(&mut self, source: &Conninfo) -> Result<()> {
        let Some(link) = self.journal.links.iter().find(|link| link.inherited.is_none()) else { return Ok(()) };
        let end = self.journal.end.unwrap_or_default();
        if !self.has("pg_subscription", "subname", &link.subscription)? {
            let [create, shown] = create_subscription(&link.subscription, source, &link.slot, &link.terms);
            let advance = format!(
                "SELECT pg_replication_origin_advance('pg_' || oid, '{end}') FROM pg_subscription WHERE subname = {}",
                literal(&link.subscription)
            );
            self.run_secret(&format!("{create}; {advance}"), &format!("{shown}; {advance}"))?;
        }
        Ok(())
    }

    /// Each origin stands where the base backup had it, or the new node would lack something, or apply it twice.
    fn verify_positions(&mut self) -> Result<()> {
        for link in &self.journal.links {
            let wanted = match link.inherited {
                Some(_) => self.journal.vector.get(&link.peer).copied(),
                None => self.journal.end,
            };
            let position = format!(
                "SELECT coalesce((SELECT remote_lsn FROM pg_replication_origin_status WHERE external_id = 'pg_' || s.oid), '0/0')
                   FROM pg_subscription s WHERE subname = {} AND subslotname = {}",
                literal(&link.subscription),
                literal(&link.slot)
            );
            if self.value(&position)?.parse().ok() != wanted {
                return Err(Error::Subscription {
                    subscription: link.subscription.clone(),
                    provider: link.peer.clone(),
                });
            }
        }
        Ok(())
    }

    /// In one transaction: what the copy says of the living node goes, and the node takes its own name.
    fn become_node(&mut self, dsn: &Conninfo) -> Result<()> {
        let name = &self.journal.name;
        if self.value("SELECT node_name FROM spock.node WHERE is_local")? == *name {
            return Ok(());
        }
        let mut told = vec![("node_create", name, dsn.clone())];
        for peer in &self.journal.known_peers {
            let known = format!(
                "SELECT if_dsn FROM spock.node_interface
                  WHERE if_name = {0} AND if_nodeid = (SELECT node_id FROM spock.node WHERE node_name = {0})",
                literal(peer)
            );
            if let Some(known) = self.values(&known)?.first() {
                told.push(("peer_create", peer, Conninfo::parse(known)?));
            }
        }
        let statements = |dsn: fn(&Conninfo) -> String| {
            let begin = format!("SELECT spock.node_drop({}, true)", literal(&self.journal.source));
            told.iter().fold(begin, |text, (function, name, conninfo)| {
                format!("{text}; SELECT spock.{function}({}, {})", literal(name), literal(&dsn(conninfo)))
            })
        };
        let (statement, shown) = (statements(Conninfo::secret), statements(Conninfo::to_string));
        self.run_secret(&statement, &shown)
    }

    fn make_slots(&mut self) -> Result<()> {
        for link in &self.journal.links {
            if !self.has("pg_replication_slots", "slot_name", &link.their_slot)? {
                let (slot, failover) = (literal(&link.their_slot), link.their_terms.failover);
                self.run(&format!(
                    "SELECT pg_create_logical_replication_slot({slot}, 'pgoutput', false, false, {failover})"
                ))?;
            }
        }
        Ok(())
    }

    fn await_recovery_slot(&mut self) -> bool {
        let active = "SELECT current_setting('spock.enable_recovery_slots') = 'off' OR EXISTS (SELECT FROM spock.get_recovery_slot_status() WHERE active)";
        deadline::poll(SLOT, || self.value(active).is_ok_and(|active| active == "t").then_some(())).is_some()
    }
}

/// The statement for a subscription that uses a slot that is there, with the owner that the mesh's subscriptions have; and the same
/// without the password.
pub fn create_subscription(name: &str, provider: &Conninfo, slot: &str, terms: &Terms) -> [String; 2] {
    let (name, slot, owner) = (identifier(name), literal(slot), identifier(&terms.owner));
    let Terms { publications, options, .. } = terms;
    [provider.secret(), provider.to_string()].map(|conninfo| {
        format!(
            "CREATE SUBSCRIPTION {name} CONNECTION {} PUBLICATION {publications}
               WITH (create_slot = false, copy_data = false, slot_name = {slot}, {options}); ALTER SUBSCRIPTION {name} OWNER TO {owner}",
            literal(&conninfo)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_in_the_statement_alone() {
        let options = "origin = 'none'".to_owned();
        let terms = Terms { publications: "mesh".into(), options, owner: "o\"r".into(), failover: false };
        let provider = Conninfo::parse("host=h password=secret").expect("a connection string");
        let [statement, shown] = create_subscription("s", &provider, "slot", &terms);
        assert!(statement.contains("password=secret") && !shown.contains("secret"));
        assert!(shown.contains("slot_name = 'slot', origin = 'none'") && shown.contains("OWNER TO \"o\"\"r\""));
    }
}
