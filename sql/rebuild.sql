-- Rebuild: tables of a target are brought to the state of a source where WAL cannot.

CREATE FUNCTION spock_internal.pin_tables(intent_id uuid, target_node name, tables text[], lease interval DEFAULT '1 s',
                                          lifetime interval DEFAULT NULL)
    RETURNS jsonb
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'pin_tables_wrapper';
COMMENT ON FUNCTION spock_internal.pin_tables(uuid, name, text[], interval, interval) IS
    'has a worker take a snapshot of these tables, with the positions of all nodes in it, and hold it for the rebuild of the target; a second call for the intent returns the same snapshot; commits are held back for some milliseconds, and never for longer than the lease (superusers, REPLICATION)';

CREATE FUNCTION spock_internal.release_pin(intent_id uuid) RETURNS boolean
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'release_pin_wrapper';
COMMENT ON FUNCTION spock_internal.release_pin(uuid) IS
    'releases the snapshot that pin_tables() has taken for an intent; false: there is none (superusers, REPLICATION)';

CREATE FUNCTION spock_internal.pins()
    RETURNS TABLE (intent_id uuid, target_node name, since timestamptz, snapshot_age bigint, tables text[], worker_pid int,
                   target_says text, silent_for interval)
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'pins_wrapper';
COMMENT ON FUNCTION spock_internal.pins() IS
    'the snapshots that this node holds for the rebuilds of other nodes; snapshot_age: in transactions (superusers, REPLICATION, pg_monitor)';
