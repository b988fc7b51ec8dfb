//! What a paused node says of itself.

use postgres::Client;

use super::error::{Error, Result};
use super::intents;
use super::journal::{Journal, SavedSlot, Seen, Subscription};
use super::server;

const SUBSCRIPTIONS: &str =
    "SELECT s.subname, 'pg_' || s.oid, n.node_name, s.subslotname, s.subenabled, s.subtwophasestate <> 'd',
       coalesce((to_jsonb(s) ->> 'subfailover')::boolean, false), coalesce(o.remote_lsn, '0/0'), to_jsonb(s) ->> 'suborigin'
  FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()
  LEFT JOIN spock.subscription v ON v.sub_id = s.oid LEFT JOIN spock.node n ON n.node_id = v.sub_origin
  LEFT JOIN pg_replication_origin_status o ON o.external_id = 'pg_' || s.oid
 ORDER BY 1";

const SLOT: &str =
    "SELECT slot_name, restart_lsn, confirmed_flush_lsn, snap_name FROM spock_internal.saved_recovery_slot()";

/// Asks it.
///
/// # Errors
/// If it does not answer, or names files that cannot be files of a slot.
pub fn look(journal: &Journal, client: &mut Client) -> Result<Seen> {
    let mut seen = Seen { intents: intents::look(journal, client)?, ..Seen::default() };
    for row in server::query(journal, client, SUBSCRIPTIONS)? {
        if let [
            Some(name),
            Some(origin),
            provider,
            slot,
            Some(enabled),
            Some(two_phase),
            Some(failover),
            Some(applied),
            origins,
        ] = row.as_slice()
        {
            seen.subscriptions.push(Subscription {
                name: name.clone(),
                origin: origin.clone(),
                provider: provider.clone(),
                slot: slot.clone(),
                enabled: enabled == "t",
                two_phase: two_phase == "t",
                failover: failover == "t",
                own_only: origins.as_deref() == Some("none"),
                applied: applied.parse().unwrap_or_default(),
            });
        }
    }
    for row in server::query(journal, client, SLOT)? {
        if let [Some(name), Some(restart), Some(confirmed), snap] = row.as_slice() {
            // They become names of files.
            if !is_slot_name(name) || snap.as_deref().is_some_and(|snap| !is_snap_name(snap)) {
                let reason = "a name that is saved is no name of such a file".into();
                return Err(Error::NoSlot { node: journal.node.clone(), reason });
            }
            seen.slot = Some(SavedSlot {
                name: name.clone(),
                restart: restart.parse().unwrap_or_default(),
                confirmed: confirmed.parse().unwrap_or_default(),
                snap: snap.clone(),
            });
        }
    }
    Ok(seen)
}

/// As ReplicationSlotValidateName() of slot.c has it.
fn is_slot_name(name: &str) -> bool {
    (1..64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// As SnapBuildSerialize() of snapbuild.c names it: both halves of a position.
fn is_snap_name(name: &str) -> bool {
    let is_half = |half: &str| (1..9).contains(&half.len()) && half.bytes().all(|byte| byte.is_ascii_hexdigit());
    let halves = name.strip_suffix(".snap").and_then(|stem| stem.split_once('-'));
    halves.is_some_and(|(high, low)| is_half(high) && is_half(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_leave_its_folder_is_none() {
        assert!(is_slot_name("spock_recovery_1") && is_snap_name("0-1A2B3C.snap") && is_snap_name("FF-FFFFFFFF.snap"));
        for name in ["", "..", "../x", "a/b", "A", "a b", &"a".repeat(64)] {
            assert!(!is_slot_name(name), "{name}");
        }
        for name in ["", ".snap", "0-1", "../0-1.snap", "0-1.snap/../x", "0-/1.snap", "0-123456789.snap", "0.snap"] {
            assert!(!is_snap_name(name), "{name}");
        }
    }
}
