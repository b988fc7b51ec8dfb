//! Would it work? Everything is looked at before anything is touched; what does not fit is a line each.

mod machine;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use spock_recovery_cluster::client::literal;
use spock_recovery_cluster::{ServerUser, system_identifier};

use super::create::Options;
use super::error::{Error, Result};
use super::facts::{Facts, Subscription};
use super::journal::{self, Journal, Link, Step, Terms};
use super::mesh::Mesh;
use super::names::{self, Known, Pattern};
use super::settings;
use crate::backup::conninfo::Conninfo;
use crate::backup::nodes::{Live, Place, Registered};
use crate::lsn::Lsn;

/// What is to be made, and what stands in its way.
pub struct Prepared {
    pub journal: Journal,
    pub user: ServerUser,
    /// How the others reach the new node.
    pub dsn: Conninfo,
    pub findings: Vec<String>,
    pub remarks: Vec<String>,
    /// Of the living node's databases.
    pub bytes: u64,
}

/// The nodes with what they have said.
struct Ground<'a> {
    options: &'a Options,
    mesh: Mesh,
    facts: BTreeMap<String, Facts>,
    source: String,
    findings: Vec<String>,
}

/// Asks everybody, and changes nothing.
///
/// # Errors
/// What makes it senseless to look further: a command line that cannot be right, or a living node that does not answer.
pub fn prepare(options: &Options) -> Result<Prepared> {
    let from = Conninfo::parse(&options.from)?;
    let without: Vec<&str> = options.replaces.as_deref().into_iter().collect();
    let mut mesh = Mesh::meet(&from, &options.from, &without)?;
    let source = mesh.source()?.name().to_owned();
    let mut facts = BTreeMap::new();
    for live in &mut mesh.nodes {
        facts.insert(live.name().to_owned(), Facts::ask(live)?);
    }
    let mut ground = Ground { options, mesh, facts, source, findings: Vec::new() };
    let dsn = ground.dsn(&from)?;
    let patterns = ground.patterns()?;
    ground.judge_members();
    let links = ground.links(&patterns);
    let old_slots = ground.old_slots(&patterns[1])?;
    ground.judge_source();
    ground.judge_limits();
    ground.judge_names(&links);
    let beyond = ground.judge_loss()?;
    ground.judge_address(&dsn);
    let (user, bin_folder) = ground.judge_machine(&from)?;
    let tablespaces = ground.judge_tablespaces()?;
    let made = ground.journal(&dsn, bin_folder, links)?;
    let journal = Journal { tablespaces, old_slots, beyond, ..made };
    ground.prepared(journal, user, dsn)
}

impl Ground<'_> {
    fn find(&mut self, finding: impl Into<String>) {
        self.findings.push(finding.into());
    }

    fn live(&mut self) -> Result<&mut Live> {
        self.mesh.source()
    }

    fn own(&self) -> &Facts {
        &self.facts[&self.source]
    }

    /// As the user says; else the address of the node that it replaces; else that of the living node with another port, on its host.
    fn dsn(&mut self, from: &Conninfo) -> Result<Conninfo> {
        if let Some(dsn) = &self.options.dsn {
            return Ok(Conninfo::parse(dsn)?);
        }
        let old =
            self.options.replaces.as_ref().and_then(|old| self.mesh.members.iter().find(|member| member.name == *old));
        if let Some(conninfo) = old.and_then(|old| old.conninfo.clone()) {
            return Ok(conninfo);
        }
        let beside = matches!(self.live()?.place, Place::Here(_));
        match self.options.port {
            Some(port) if beside => Ok(from.clone().with("port", &port.to_string())),
            _ => Err(Error::NoDsn),
        }
    }

    /// Of subscriptions, and of their slots.
    fn patterns(&self) -> Result<[Pattern; 2]> {
        let of_mesh: Vec<(&str, &str, &Subscription)> = self
            .facts
            .iter()
            .flat_map(|(node, facts)| facts.subscriptions.iter().map(move |known| (node.as_str(), known)))
            .filter_map(|(node, known)| Some((node, known.provider.as_deref()?, known)))
            .collect();
        let subscriptions: Vec<Known<'_>> =
            of_mesh.iter().map(|(node, provider, known)| (*node, *provider, known.name.as_str())).collect();
        let slots: Vec<Known<'_>> = of_mesh
            .iter()
            .filter_map(|(node, provider, known)| Some((*node, *provider, known.slot.as_deref()?)))
            .collect();
        let chosen = |what, option, given: &Option<String>, known: &[Known<'_>]| match given {
            Some(text) => Pattern::parse(text).ok_or_else(|| Error::Pattern { option, text: text.clone() }),
            None => Pattern::derive(known).ok_or(Error::NoPattern { what, option }),
        };
        Ok([
            chosen("subscriptions", "--subscription-names", &self.options.subscription_names, &subscriptions)?,
            chosen("slots", "--slot-names", &self.options.slot_names, &slots)?,
        ])
    }

    /// All answer, know each other, and are at rest.
    fn judge_members(&mut self) {
        let (name, old) = (self.options.name.clone(), self.options.replaces.clone());
        for (silent, reason) in self.mesh.silent.clone() {
            self.find(format!(
                "node \"{silent}\" does not answer ({reason}): start it; or, if it is lost for good, recover it and take it out of the mesh, \
                 or give it to --replaces"
            ));
        }
        let known: BTreeSet<String> = self.mesh.members.iter().map(|member| member.name.clone()).collect();
        if known.contains(&name) && old.as_ref() != Some(&name) {
            self.find(format!(
                "there is a node \"{name}\" already: choose another --name, or give it to --replaces if it is lost"
            ));
        }
        if let Some(old) = &old {
            if *old == self.source {
                self.find(format!("node \"{old}\" cannot replace itself: name another living node with --from"));
            } else if !known.contains(old) {
                self.find(format!(
                    "node \"{}\" knows no node \"{old}\": --replaces takes the name of a lost node",
                    self.source
                ));
            }
        }
        let mut findings = Vec::new();
        for (node, facts) in &self.facts {
            for other in facts.nodes().filter(|other| !known.contains(*other)) {
                findings.push(format!(
                    "node \"{node}\" knows node \"{other}\", and node \"{}\" does not: it would have no connection with the new node; \
                     connect the two, or take it out with spock.node_drop('{other}')",
                    self.source
                ));
            }
            if !facts.setting("recovering").is_empty() {
                findings.push(format!(
                    "a recovery of {} is under way on node \"{node}\": wait for its end (SELECT * FROM spock.recover_status())",
                    facts.setting("recovering")
                ));
            }
            if facts.setting("is_superuser") != "on" {
                findings.push(format!(
                    "the connection to node \"{node}\" is not that of a superuser: correct it with spock.peer_create"
                ));
            }
        }
        self.findings.extend(findings);
    }

    fn links(&mut self, [subscriptions, slots]: &[Pattern; 2]) -> Vec<Link> {
        let (new, source) = (self.options.name.clone(), self.source.clone());
        let mut links = Vec::new();
        for peer in self.facts.keys().cloned().collect::<Vec<_>>() {
            let (inherited, terms) = match peer == source {
                true => (None, self.terms_to(&source, &source)),
                false => match self.inherited(&peer) {
                    Some(known) => (Some(known.name.clone()), known.terms),
                    None => continue,
                },
            };
            let their_terms = self.terms_to(&peer, &source);
            let (Some(terms), Some(their_terms)) =
                (Some(terms).filter(|terms| !terms.publications.is_empty()), Some(their_terms))
            else {
                continue;
            };
            links.push(Link {
                subscription: subscriptions.name(&new, &peer),
                slot: slots.name(&new, &peer),
                inherited,
                terms,
                their_subscription: subscriptions.name(&peer, &new),
                their_slot: slots.name(&peer, &new),
                their_terms,
                begins: None,
                peer,
            });
        }
        links
    }

    /// The slots from which the replaced node received. In use, they belong to somebody who lives.
    fn old_slots(&self, slots: &Pattern) -> Result<BTreeMap<String, String>> {
        let mut found = BTreeMap::new();
        for (node, facts) in &self.facts {
            let Some(slot) = self.options.replaces.as_ref().map(|old| slots.name(old, node)) else { continue };
            match facts.slots.get(&slot) {
                Some(true) => return Err(Error::SlotInUse { slot, node: node.clone() }),
                Some(false) => drop(found.insert(node.clone(), slot)),
                None => {}
            }
        }
        Ok(found)
    }

    /// The living node's subscription to a peer, which becomes the new node's.
    fn inherited(&mut self, peer: &str) -> Option<Subscription> {
        let source = self.source.clone();
        let found: Vec<Subscription> = self.own().to(peer).cloned().collect();
        let problem = match found.as_slice() {
            [one] if !one.enabled || one.slot.is_none() => {
                format!("its subscription \"{}\" is disabled: enable it", one.name)
            }
            [one] if !one.own_only => format!(
                "its subscription \"{}\" forwards what others wrote (origin = any): a mesh that this command extends has origin = none",
                one.name
            ),
            [one] if one.two_phase => format!(
                "its subscription \"{}\" has two_phase, of which a base backup holds halves: choose another living node",
                one.name
            ),
            [one] => return Some(one.clone()),
            [] => {
                "it has no subscription to it: subscribe it, or name a node that receives from all with --from".into()
            }
            _ => "it has more than one subscription to it, of which no copy can be made".into(),
        };
        self.find(format!("node \"{source}\" cannot hand on what it has of node \"{peer}\": {problem}"));
        None
    }

    /// How `target` is to subscribe to the new node or to the living one: as it, or else anybody, subscribes to the living one; else as
    /// the living one subscribes.
    fn terms_to(&self, target: &str, source: &str) -> Terms {
        let of_target = self.facts.get(target).and_then(|facts| facts.to(source).next());
        let of_anybody = || self.facts.values().find_map(|facts| facts.to(source).next());
        let found = of_target
            .or_else(of_anybody)
            .or_else(|| self.own().subscriptions.iter().find(|known| known.provider.is_some()));
        found.map(|found| found.terms.clone()).unwrap_or_default()
    }

    fn judge_source(&mut self) {
        let source = self.source.clone();
        let facts = self.own().clone();
        if facts.setting("wal_level") != "logical" {
            self.find(format!("node \"{source}\" has wal_level = {}: it must be logical", facts.setting("wal_level")));
        }
        if !facts.setting("elsewhere").is_empty() {
            self.find(format!(
                "the server of node \"{source}\" has subscriptions in other databases ({}): their copies would use the same slots; \
                 name another living node with --from",
                facts.setting("elsewhere")
            ));
        }
        if facts.subscriptions.iter().all(|known| known.provider.is_none()) && self.facts.len() > 1 {
            self.find(format!("node \"{source}\" receives from nobody: name another living node with --from"));
        }
    }

    /// Each node gets a slot, a sender, an origin and a worker more; the living one a slot and two senders more for the backup. What the
    /// replaced node leaves is used again.
    fn judge_limits(&mut self) {
        let mut findings = Vec::new();
        for (node, facts) in &self.facts {
            let replaced = self.options.replaces.as_deref().map_or(0, |old| facts.to(old).count() as u64);
            let backup = u64::from(*node == self.source);
            let limits = [
                ("slots", "max_slots", 1 + backup, 0, "max_replication_slots"),
                ("senders", "max_senders", 1 + 2 * backup, 0, "max_wal_senders"),
                ("origins", "max_origins", 1, replaced, "max_replication_slots (18: max_active_replication_origins)"),
                ("subscriptions", "max_appliers", 1, replaced, "max_logical_replication_workers"),
            ];
            for (used, limit, more, less, setting) in limits {
                let (used, limit) = (facts.number(used).saturating_sub(less), facts.number(limit));
                if used + more > limit {
                    findings.push(format!("node \"{node}\" has {used} of {limit} in use, and {more} more are needed: raise {setting} there, and restart it"));
                }
            }
        }
        self.findings.extend(findings);
    }

    /// Names that the new node and its peers will use are free, but for those of the replaced node.
    fn judge_names(&mut self, links: &[Link]) {
        let old = self.options.replaces.as_deref();
        let mut findings = Vec::new();
        let option = "--slot-names and --subscription-names choose others";
        for link in links {
            for slot in [&link.slot, &link.their_slot] {
                if !names::is_slot_name(slot) {
                    findings.push(format!("\"{slot}\" is no name of a slot: {option}"));
                }
            }
            let facts = &self.facts[&link.peer];
            let is_replaced = old == Some(self.options.name.as_str());
            if facts.slots.contains_key(&link.slot) && !is_replaced {
                findings
                    .push(format!("node \"{}\" has a slot \"{}\" already: drop it, or {option}", link.peer, link.slot));
            }
            let taken = facts.subscriptions.iter().find(|known| known.name == link.their_subscription);
            if taken.is_some_and(|known| known.provider.as_deref() != old || old.is_none()) {
                findings.push(format!(
                    "node \"{}\" has a subscription \"{}\" already: drop it, or {option}",
                    link.peer, link.their_subscription
                ));
            }
        }
        self.findings.extend(findings);
    }

    /// The replaced node's loss is recovered everywhere. Returns the greatest position that anybody has of it.
    fn judge_loss(&mut self) -> Result<Lsn> {
        let Some(old) = self.options.replaces.clone() else { return Ok(Lsn(0)) };
        let conninfo =
            self.mesh.members.iter().find(|member| member.name == old).and_then(|member| member.conninfo.clone());
        if conninfo.is_some_and(|conninfo| Live::meet(&Registered { name: old.clone(), conninfo }).is_ok()) {
            return Err(Error::Alive { old });
        }
        let findings = super::clear::unrecovered(&mut self.mesh, &old)?;
        self.findings.extend(findings);
        let mut beyond = Lsn(0);
        let known = format!(
            "SELECT coalesce(max(greatest(applied_lsn, passed_lsn)), '0/0') FROM spock.node_positions() WHERE origin_node = {}",
            literal(&old)
        );
        for live in &mut self.mesh.nodes {
            beyond = beyond.max(live.value(&known)?.parse().unwrap_or_default());
        }
        Ok(beyond)
    }

    /// Nobody listens where the new node is to be.
    fn judge_address(&mut self, dsn: &Conninfo) {
        let registered = Registered { name: self.options.name.clone(), conninfo: dsn.clone() };
        if Live::meet(&registered).is_ok() {
            self.find(format!(
                "a server answers where the new node is to be ({dsn}): stop it, or choose another address with --dsn"
            ));
        }
    }

    fn journal(&mut self, dsn: &Conninfo, bin_folder: PathBuf, links: Vec<Link>) -> Result<Journal> {
        let options = self.options;
        let facts = self.own().clone();
        let port = options.port.or_else(|| dsn.get("port").and_then(|port| port.parse().ok())).unwrap_or(5432);
        let segment_bytes = self.live()?.node.wal_segment_bytes;
        let known = "SELECT s.srvname FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw
                       JOIN pg_user_mapping m ON m.umserver = s.oid AND m.umuser = 0 WHERE w.fdwname = 'spock_node'";
        let known: Vec<String> = self.live()?.query(known)?.into_iter().flatten().flatten().collect();
        let is_peer = |name: &String| links.iter().any(|link| link.peer == *name && link.inherited.is_some());
        let config = options.config_file.iter();
        let config = config.flat_map(|file| ["-c".to_owned(), format!("config_file={}", file.display())]);
        Ok(Journal {
            version: journal::VERSION,
            name: options.name.clone(),
            replaces: options.replaces.clone(),
            step: Step::Planned,
            source: self.source.clone(),
            from: Conninfo::parse(&options.from)?.without_password().to_string(),
            database: self.mesh.database.clone(),
            superuser: facts.setting("user").to_owned(),
            log: options.log.clone().unwrap_or_else(|| journal::paths(&options.pgdata).log()),
            pgdata: options.pgdata.clone(),
            bin_folder,
            port,
            dsn: dsn.without_password().to_string(),
            options: config.collect(),
            settings: settings::own(port, options.socket.as_deref(), options.listen.as_deref(), &options.settings),
            libraries: facts.setting("libraries").to_owned(),
            tablespaces: Vec::new(),
            system_identifier: system_identifier::fresh(),
            segment_bytes,
            known_peers: known.into_iter().filter(is_peer).collect(),
            links,
            old_slots: BTreeMap::new(),
            beyond: Lsn(0),
            end: None,
            timeline: 0,
            vector: BTreeMap::new(),
            cancelled_at: None,
            begun_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            seconds: BTreeMap::new(),
            bytes: 0,
        })
    }

    fn prepared(mut self, journal: Journal, user: ServerUser, dsn: Conninfo) -> Result<Prepared> {
        let mut remarks = Vec::new();
        for live in &mut self.mesh.nodes {
            if live.value("SELECT count(*) FROM pg_prepared_xacts")? != "0" {
                remarks.push(format!("{}: its slot waits for the prepared transactions that it has now", live.name()));
            }
        }
        let bytes = self.own().number("bytes");
        Ok(Prepared { journal, user, dsn, findings: self.findings, remarks, bytes })
    }
}
