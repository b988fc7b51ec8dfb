-- Clones of the recovery slot: what is refused, and what is told of them.
CREATE EXTENSION spock_recovery;

-- A database that is no node.
SELECT * FROM spock.clone_recovery_slot();
SELECT * FROM spock.recovery_clones();
SELECT spock_internal.claim_clone('c', '11111111-1111-4111-8111-111111111111', 'n1', 'n2');

-- A node that knows two others.
SELECT spock.node_create('n3', 'host=/nonexistent dbname=regress') IS NOT NULL AS created;
SELECT spock.peer_create('n1', 'host=/nonexistent') IS NOT NULL AND spock.peer_create('n2', 'host=/nonexistent') IS NOT NULL AS created;
SELECT spock.create_recovery_slot();

-- Who is who.
SELECT * FROM spock.clone_recovery_slot('n9');
SELECT * FROM spock.clone_recovery_slot(target_node_name => 'n9');
SELECT * FROM spock.clone_recovery_slot('n3', 'n2');
SELECT * FROM spock.clone_recovery_slot('n1', 'n3');
SELECT * FROM spock.clone_recovery_slot('n1', 'n1');

-- Not in a transaction that has written.
BEGIN;
CREATE TABLE written (i int);
SELECT * FROM spock.clone_recovery_slot('n1', 'n2');
ROLLBACK;

-- A clone, and who may use it.
SELECT cloned_slot_name ~ '^spk_recovery_regress_clone_\d{20}$' AS named, original_slot_name, restart_lsn IS NOT NULL AS restart, success
  FROM spock.clone_recovery_slot('n1', 'n2');
SELECT failed_node, target_node, intent_id, created_at <= now() AS created, confirmed_flush_lsn >= restart_lsn AS confirmed,
       active, usable, target_says
  FROM spock.recovery_clones();
SELECT plugin, slot_type, database, temporary, two_phase, failover
  FROM pg_replication_slots JOIN spock.recovery_clones() USING (slot_name);
SELECT spock_internal.claim_clone(slot_name, NULL, 'n1', 'n2') FROM spock.recovery_clones();
SELECT spock_internal.claim_clone('spk_recovery_regress', '11111111-1111-4111-8111-111111111111', 'n1', 'n2');
SELECT spock_internal.claim_clone('nothing', '11111111-1111-4111-8111-111111111111', 'n1', 'n2');
SELECT spock_internal.claim_clone(slot_name, '11111111-1111-4111-8111-111111111111', 'n1', 'n2') FROM spock.recovery_clones();
SELECT intent_id, target_says FROM spock.recovery_clones();

CREATE ROLE regress_watcher IN ROLE pg_monitor;
CREATE ROLE regress_nobody;
SET ROLE regress_watcher;
SELECT count(*) FROM spock.recovery_clones();
SELECT * FROM spock.clone_recovery_slot();
SELECT spock_internal.claim_clone('c', '11111111-1111-4111-8111-111111111111', 'n1', 'n2');
SET ROLE regress_nobody;
SELECT count(*) FROM spock.recovery_clones();
SELECT * FROM spock.clone_recovery_slot();
RESET ROLE;
DROP ROLE regress_watcher, regress_nobody;

-- The journal in the schema's label is ours.
SELECT objtype, objname, label::jsonb ? 'clones' AS clones FROM pg_seclabels WHERE provider = 'spock_recovery' AND objtype = 'schema';
SECURITY LABEL FOR spock_recovery ON SCHEMA spock IS 'mine';
SECURITY LABEL FOR spock_recovery ON SCHEMA spock IS '{"version": 1}';

-- With the node everything goes.
SELECT spock.node_drop('n3');
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
