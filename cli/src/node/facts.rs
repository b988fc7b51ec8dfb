//! What one node of the mesh says of itself: its subscriptions, slots and limits.

use std::collections::BTreeMap;

use super::error::Result;
use super::journal::Terms;
use crate::backup::nodes::Live;

const SUBSCRIPTIONS: &str =
    "SELECT s.subname, n.node_name, s.subslotname, s.subenabled, s.suborigin, s.subtwophasestate,
       (SELECT string_agg(quote_ident(p), ', ' ORDER BY o) FROM unnest(s.subpublications) WITH ORDINALITY u (p, o)),
       concat_ws(', ', 'origin = ' || quote_literal(s.suborigin), 'binary = ' || s.subbinary,
                 'streaming = ' || CASE s.substream WHEN 'f' THEN 'off' WHEN 't' THEN 'on' ELSE 'parallel' END,
                 'disable_on_error = ' || s.subdisableonerr, 'password_required = ' || s.subpasswordrequired,
                 'run_as_owner = ' || s.subrunasowner, 'synchronous_commit = ' || quote_literal(s.subsynccommit),
                 'failover = ' || s.subfailover),
       pg_get_userbyid(s.subowner), s.subfailover
  FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()
  LEFT JOIN spock.subscription v ON v.sub_id = s.oid AND NOT v.sub_rescue_temporary
  LEFT JOIN spock.node n ON n.node_id = v.sub_origin
 ORDER BY 1";

/// A name for each; numbers as text.
const SETTINGS: &str = "SELECT * FROM (VALUES
       ('user', current_user::text), ('is_superuser', current_setting('is_superuser')),
       ('wal_level', current_setting('wal_level')),
       ('slots', (SELECT count(*) FROM pg_replication_slots)::text), ('max_slots', current_setting('max_replication_slots')),
       ('senders', (SELECT count(*) FROM pg_stat_replication)::text), ('max_senders', current_setting('max_wal_senders')),
       ('origins', (SELECT count(*) FROM pg_replication_origin)::text),
       ('max_origins', coalesce(current_setting('max_active_replication_origins', true), current_setting('max_replication_slots'))),
       ('subscriptions', (SELECT count(*) FROM pg_subscription WHERE subenabled)::text),
       ('max_appliers', current_setting('max_logical_replication_workers')),
       ('libraries', current_setting('shared_preload_libraries')),
       ('hba_file', current_setting('hba_file')),
       ('elsewhere', (SELECT string_agg(DISTINCT quote_ident(d.datname), ', ') FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
                       WHERE d.datname <> current_database())),
       ('recovering', (SELECT string_agg(DISTINCT failed_node::text, ', ') FROM spock.recovery_intents() WHERE ended_at IS NULL)),
       ('bytes', (SELECT sum(pg_database_size(oid)) FROM pg_database)::text),
       ('nodes', (SELECT string_agg(node_name::text, E'\\n') FROM spock.node WHERE NOT is_local))
     ) v (name, value)";

#[derive(Debug, Clone)]
pub struct Subscription {
    pub name: String,
    /// The node it receives from; None: of no node of the mesh, or not known.
    pub provider: Option<String>,
    pub slot: Option<String>,
    pub enabled: bool,
    /// Only what the provider's own users write.
    pub own_only: bool,
    pub two_phase: bool,
    pub terms: Terms,
}

#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub subscriptions: Vec<Subscription>,
    /// All slots, and whether each is in use.
    pub slots: BTreeMap<String, bool>,
    settings: BTreeMap<String, String>,
}

impl Facts {
    pub fn ask(live: &mut Live) -> Result<Facts> {
        let mut facts = Facts::default();
        for row in live.query(SUBSCRIPTIONS)? {
            let mut columns = row.into_iter();
            let mut next = || columns.next().flatten();
            let (Some(name), provider, slot, enabled) = (next(), next(), next(), next()) else { continue };
            let (origin, two_phase) = (next(), next());
            let (publications, options, owner, failover) = (next(), next(), next(), next());
            let terms = Terms {
                publications: publications.unwrap_or_default(),
                options: options.unwrap_or_default(),
                owner: owner.unwrap_or_default(),
                failover: failover.as_deref() == Some("t"),
            };
            facts.subscriptions.push(Subscription {
                name,
                provider,
                slot,
                enabled: enabled.as_deref() == Some("t"),
                own_only: origin.as_deref() == Some("none"),
                two_phase: two_phase.as_deref() != Some("d"),
                terms,
            });
        }
        for row in live.query("SELECT slot_name, active FROM pg_replication_slots")? {
            if let [Some(name), active] = row.as_slice() {
                facts.slots.insert(name.clone(), active.as_deref() == Some("t"));
            }
        }
        for row in live.query(SETTINGS)? {
            if let [Some(name), Some(value)] = row.as_slice() {
                facts.settings.insert(name.clone(), value.clone());
            }
        }
        Ok(facts)
    }

    /// Empty where the node has nothing to say.
    pub fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    pub fn number(&self, name: &str) -> u64 {
        self.setting(name).parse().unwrap_or(0)
    }

    /// Its subscriptions to one node.
    pub fn to<'a>(&'a self, provider: &'a str) -> impl Iterator<Item = &'a Subscription> {
        self.subscriptions.iter().filter(move |known| known.provider.as_deref() == Some(provider))
    }

    /// The nodes that it knows beside itself.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.setting("nodes").lines()
    }
}
