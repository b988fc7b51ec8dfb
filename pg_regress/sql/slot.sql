-- The recovery slot's functions: what they refuse, and what they answer before there is anything to tell.
CREATE EXTENSION spock_recovery;

-- A database that is no node.
SELECT count(*) FROM spock.get_recovery_slot_status();
SELECT count(*) FROM spock.recovery_horizon();
SELECT count(*) FROM spock.node_positions();
SELECT * FROM spock.quick_health_check();
SELECT count(*) FROM spock.lag_tracker;
SELECT spock.create_recovery_slot();
SELECT spock.drop_recovery_slot();
SELECT spock.advance_recovery_slot();

-- A node. create_recovery_slot() waits until the slot is there.
SELECT spock.node_create('n1', 'host=/nonexistent dbname=regress') IS NOT NULL AS created;
SELECT spock.create_recovery_slot();
SELECT spock.create_recovery_slot();
SELECT slot_name, restart_lsn IS NOT NULL AS restart, confirmed_flush_lsn >= restart_lsn AS confirmed, min_unacknowledged_ts,
       active, in_recovery, recovery_generation, retained_bytes >= 0 AS retained, retention_rate_bytes_per_s >= 0 AS rate,
       time_left, unprotected_peers
  FROM spock.get_recovery_slot_status();
SELECT slot_name, plugin, slot_type, database, temporary, two_phase, failover FROM pg_replication_slots;
SELECT spock.advance_recovery_slot() >= confirmed_flush_lsn AS advanced FROM spock.get_recovery_slot_status();
SELECT origin_node, peer_node FROM spock.recovery_horizon();
SELECT origin_node FROM spock.node_positions();
SELECT check_name, status FROM spock.quick_health_check() ORDER BY check_name COLLATE "C";

-- Restore points: what is refused, and what the list shows.
SELECT spock.create_restore_point('');
SELECT spock.create_restore_point(NULL);
SELECT spock.create_restore_point('p', lease := '2 min');
SELECT spock.drop_restore_point('p');
SELECT restore_point, node_name, lsn IS NOT NULL AS lsn, timeline, held_ms > 0 AS held, quality FROM spock.create_restore_point('p');
SELECT spock.create_restore_point('p');
SELECT restore_point, quality, nodes, base_backup_before FROM spock.restore_points();
SELECT spock.drop_restore_point('p');
SELECT spock.create_restore_point('p');
SELECT count(*) FROM spock.restore_points();

-- Not in a transaction that has written: the slot would wait for it.
BEGIN;
CREATE TABLE written (i int);
SELECT spock.create_recovery_slot();
ROLLBACK;
BEGIN;
CREATE TABLE written (i int);
SELECT spock.advance_recovery_slot();
ROLLBACK;
BEGIN;
CREATE TABLE written (i int);
SELECT spock.drop_recovery_slot();
ROLLBACK;

-- Who may read, and who may change.
CREATE ROLE regress_watcher IN ROLE pg_monitor;
CREATE ROLE regress_nobody;
SET ROLE regress_watcher;
SELECT slot_name FROM spock.get_recovery_slot_status();
SELECT count(*) FROM spock.recovery_horizon();
SELECT count(*) > 0 AS checks FROM spock.quick_health_check();
SELECT count(*) FROM spock.node_positions();
SELECT count(*) FROM spock.lag_tracker;
SELECT spock.create_recovery_slot();
RESET ROLE;
SET ROLE regress_nobody;
SELECT slot_name FROM spock.get_recovery_slot_status();
SELECT count(*) FROM spock.recovery_horizon();
SELECT count(*) FROM spock.quick_health_check();
SELECT count(*) FROM spock.node_positions();
SELECT count(*) FROM spock.lag_tracker;
RESET ROLE;
GRANT EXECUTE ON FUNCTION spock.create_recovery_slot(), spock.drop_recovery_slot(), spock.advance_recovery_slot() TO regress_watcher;
SET ROLE regress_watcher;
SELECT spock.create_recovery_slot();
SELECT spock.drop_recovery_slot();
SELECT spock.advance_recovery_slot();
RESET ROLE;

-- The record in the database's label is ours.
SELECT label::jsonb->>'slot' AS slot, label::jsonb->>'generation' AS generation FROM pg_seclabels
 WHERE provider = 'spock_recovery' AND objtype = 'database';
SECURITY LABEL FOR spock_recovery ON DATABASE regress IS 'mine';
SECURITY LABEL FOR spock_recovery ON DATABASE regress IS '{"version": 1}';

-- Switched off.
SET spock.enable_recovery_slots = off;

-- The end: the slot of a node that is none any more goes.
DROP OWNED BY regress_watcher;
DROP ROLE regress_watcher, regress_nobody;
SELECT spock.node_drop('n1');
DO $$
BEGIN
    FOR i IN 1 .. 1000 LOOP
        EXIT WHEN NOT EXISTS (SELECT FROM pg_replication_slots)
              AND NOT EXISTS (SELECT FROM pg_seclabels WHERE provider = 'spock_recovery');
        PERFORM pg_sleep(0.02);
    END LOOP;
END
$$;
SELECT count(*) FROM pg_replication_slots;
SELECT count(*) FROM pg_seclabels WHERE provider = 'spock_recovery';
DROP EXTENSION spock_recovery;
