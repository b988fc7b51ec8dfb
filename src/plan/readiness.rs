//! What a node needs so that others can be recovered from it, whichever node fails. It is reported in advance, and
//! judged as a plan would judge it (pure).
//!
//! These are the conditions and pins that do not depend on which node has failed. The proof and this check share the
//! functions here.

use super::facts::{AskerFacts, CapacityFacts, Limit, SettingsFacts};
use super::outcome::Reason;
use super::{Plan, advice};
use crate::health::judge;
use serde::{Deserialize, Serialize};

/// The result of a condition: what was found, as Ok if the condition holds and as Err if not.
pub type Finding = Result<String, String>;

/// How many things a finding names at most.
const NAMED: usize = 5;

/// What a node reports about itself to the node that calls its peer_readiness(). A later version may report more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Readiness {
    pub node: String,
    /// The version of the extension.
    pub extension: String,
    pub settings: SettingsFacts,
    pub capacity: CapacityFacts,
    /// The role with which the node was asked, which a recovery from it would use as well.
    pub asked_by: AskerFacts,
    /// Replicated tables that this role may not read.
    pub unreadable: Vec<String>,
    /// Whether the node has the asking node as a peer, and keeps WAL for it.
    pub knows_asker: bool,
}

/// A requirement of a recovery that is not met, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lack {
    pub finding: String,
    pub advice: String,
}

/// What would prevent a recovery of node `target` from the node that has reported this, whichever node fails.
pub fn lacks(target: &str, extension: &str, source: &Readiness) -> Vec<Lack> {
    let node = &source.node;
    let Readiness { settings, capacity, asked_by, .. } = source;
    let conditions = [
        (Reason::VersionDiffers, same_version((target, extension), (node, &source.extension))),
        (Reason::WalLevel, wal_level_is_logical(node, settings)),
        (Reason::PluginNotListed, plugin_is_listed(node, settings)),
        (Reason::SourceRoleLacksRights, role_may_replicate(node, asked_by)),
        (Reason::SourceRoleLacksRights, role_may_read(node, asked_by, &source.unreadable)),
        (Reason::NoFreeSlot, is_free(node, 1, &capacity.slots)),
        (Reason::NoFreeWalsender, is_free(node, 1, &capacity.walsenders)),
    ];
    let mut lacks: Vec<Lack> = conditions
        .into_iter()
        .filter_map(|(reason, found)| {
            Some(Lack { finding: found.err()?, advice: advice(target, node, reason, source) })
        })
        .collect();
    if !settings.track_commit_timestamp {
        lacks.push(Lack {
            finding: format!(
                "track_commit_timestamp is off on node \"{node}\": rows that a recovery has touched are not compared with it"
            ),
            advice: format!("On node \"{node}\": ALTER SYSTEM SET track_commit_timestamp = on; and restart."),
        });
    }
    lacks
}

/// The advice that a plan with that reason would give, with the name of the role.
fn advice(target: &str, node: &str, reason: Reason, source: &Readiness) -> String {
    if reason == Reason::SourceRoleLacksRights {
        let role = identifier(&source.asked_by.role);
        let mut commands = String::new();
        if !source.asked_by.may_replicate {
            commands.push_str(&format!(" ALTER ROLE {role} REPLICATION;"));
        }
        if !source.unreadable.is_empty() {
            commands.push_str(&format!(" GRANT pg_read_all_data TO {role};"));
        }
        return format!("On node \"{node}\":{commands} or use another connection string.");
    }
    let plan = Plan { source: Some(node.to_owned()), ..Plan::without_source("…", target, None, reason) };
    advice::of(&plan)
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(super) fn found(holds: bool, finding: String) -> Finding {
    if holds { Ok(finding) } else { Err(finding) }
}

/// The first of several names, quoted.
pub(super) fn named(names: &[String]) -> String {
    let mut text = names.iter().take(NAMED).map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        text.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    text
}

pub(super) fn same_version((target, ours): (&str, &str), (source, theirs): (&str, &str)) -> Finding {
    found(ours == theirs, format!("version {ours} on node \"{target}\", {theirs} on node \"{source}\""))
}

pub(super) fn wal_level_is_logical(node: &str, settings: &SettingsFacts) -> Finding {
    let wal_level = &settings.wal_level;
    found(wal_level == "logical", format!("wal_level = {wal_level} on node \"{node}\""))
}

pub(super) fn plugin_is_listed(node: &str, settings: &SettingsFacts) -> Finding {
    let settings = judge::ServerSettings {
        output_plugin_libraries: settings.output_plugin_libraries.clone(),
        ..judge::ServerSettings::default()
    };
    let verdict = judge::output_plugin(&settings);
    let finding = format!("output_plugin_libraries of node \"{node}\": {}", verdict.details);
    found(verdict.status == judge::Status::Healthy, finding)
}

pub(super) fn role_may_replicate(node: &str, asker: &AskerFacts) -> Finding {
    let has = if asker.may_replicate { "has" } else { "does not have" };
    found(asker.may_replicate, format!("role \"{}\" on node \"{node}\" {has} REPLICATION", asker.role))
}

pub(super) fn role_may_read(node: &str, asker: &AskerFacts, hidden: &[String]) -> Finding {
    if hidden.is_empty() {
        return Ok(format!("role \"{}\" may read the tables on node \"{node}\"", asker.role));
    }
    Err(format!("role \"{}\" has no SELECT on {} on node \"{node}\"", asker.role, named(hidden)))
}

/// Whether `count` more of a limited resource are available.
pub(super) fn is_free(node: &str, count: i64, limit: &Limit) -> Finding {
    let Limit { setting, used, limit } = limit;
    if count == 0 {
        return Ok("it is there".to_owned());
    }
    let free = (limit - used).max(0);
    found(used + count <= *limit, format!("{free} of {setting} = {limit} on node \"{node}\" are free"))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn ready() -> Readiness {
        let facts = sample::node("n3", 90);
        Readiness {
            node: facts.node,
            extension: facts.extension,
            settings: facts.settings,
            capacity: facts.capacity,
            asked_by: facts.asked_by,
            unreadable: Vec::new(),
            knows_asker: true,
        }
    }

    fn lack(source: &Readiness) -> (String, String) {
        let lacks = lacks("n2", "1.0", source);
        let [one] = lacks.as_slice() else { panic!("not one: {lacks:?}") };
        (one.finding.clone(), one.advice.clone())
    }

    #[test]
    fn a_node_in_order_lacks_nothing() {
        assert_eq!(lacks("n2", "1.0", &ready()), []);
    }

    #[test]
    fn each_lack_is_told_with_its_node_and_the_command() {
        let changed = |change: &dyn Fn(&mut Readiness)| {
            let mut source = ready();
            change(&mut source);
            lack(&source)
        };
        type Change = dyn Fn(&mut Readiness);
        let cases: [(&Change, &str, &str); 8] = [
            (
                &|source| source.extension = "2.0".to_owned(),
                "2.0 on node \"n3\"",
                "ALTER EXTENSION spock_recovery UPDATE",
            ),
            (
                &|source| source.settings.wal_level = "replica".to_owned(),
                "wal_level = replica",
                "SET wal_level = logical",
            ),
            (
                &|source| source.settings.output_plugin_libraries = Some("pgoutput".to_owned()),
                "ALTER SYSTEM SET output_plugin_libraries = pgoutput, spock_recovery",
                "On node \"n3\"",
            ),
            (
                &|source| source.asked_by.may_replicate = false,
                "does not have REPLICATION",
                "ALTER ROLE \"postgres\" REPLICATION;",
            ),
            (
                &|source| source.unreadable = vec!["public.t".to_owned()],
                "no SELECT on \"public.t\" on node \"n3\"",
                "GRANT pg_read_all_data TO \"postgres\";",
            ),
            (
                &|source| source.capacity.slots.used = 10,
                "0 of max_replication_slots = 10",
                "max_replication_slots and restart",
            ),
            (&|source| source.capacity.walsenders.used = 11, "0 of max_wal_senders = 10", "raise max_wal_senders"),
            (
                &|source| source.settings.track_commit_timestamp = false,
                "is off on node \"n3\"",
                "track_commit_timestamp = on",
            ),
        ];
        for (change, finding, advice) in cases {
            let (found, advised) = changed(change);
            assert!(found.contains(finding), "{finding} in {found}");
            assert!(advised.contains(advice), "{advice} in {advised}");
        }
    }
}
