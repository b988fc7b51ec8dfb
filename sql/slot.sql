-- The recovery slot: what keeps it, what it keeps, and what peers ask.

CREATE FUNCTION node_positions(held boolean DEFAULT true)
    RETURNS TABLE (origin_node name, applied_lsn pg_lsn, passed_lsn pg_lsn, commit_timestamp timestamptz, ready boolean,
                   system_identifier bigint, timeline integer, subscription oid, origin_id oid,
                   slot_name name)
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'node_positions_wrapper';
COMMENT ON FUNCTION node_positions(boolean) IS
    'how far this node has durably applied each origin, as peers ask it; held: for a node whose recovery may still need peers'' WAL, the position before that recovery (superusers, REPLICATION, pg_monitor)';

CREATE FUNCTION spock_internal.ask_pollers() RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'ask_pollers_wrapper';
COMMENT ON FUNCTION spock_internal.ask_pollers() IS
    'has this node ask its peers now what they have to say, and not at the next spock.recovery_poll_interval: for a peer that waits for it (superusers, REPLICATION, pg_monitor)';

CREATE FUNCTION get_recovery_slot_status()
    RETURNS TABLE (slot_name text, restart_lsn pg_lsn, confirmed_flush_lsn pg_lsn, min_unacknowledged_ts timestamptz,
                   active boolean, in_recovery boolean, recovery_generation bigint, retained_bytes bigint,
                   retention_rate_bytes_per_s float8, time_left interval, blocked_reason text, unprotected_peers name[])
    LANGUAGE c VOLATILE ROWS 1 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'get_recovery_slot_status_wrapper';
COMMENT ON FUNCTION get_recovery_slot_status() IS
    'the recovery slot of this database: what it keeps, for how long it can, and why it does not advance';

CREATE FUNCTION recovery_horizon()
    RETURNS TABLE (origin_node name, peer_node name, peer_lsn pg_lsn, own_lsn pg_lsn, released_lsn pg_lsn, local_lsn pg_lsn,
                   reported_at timestamptz, blocked_reason text)
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_horizon_wrapper';
COMMENT ON FUNCTION recovery_horizon() IS
    'how far each peer has passed each origin, and how far the recovery slot may therefore advance; released_lsn FFFFFFFF/FFFFFFFF: this node can prove nothing of that origin';

CREATE FUNCTION spock_internal.lag_positions(OUT origin_name name, OUT receiver_name name, OUT commit_timestamp timestamptz,
                              OUT commit_lsn pg_lsn, OUT remote_insert_lsn pg_lsn, OUT received_lsn pg_lsn,
                              OUT passed_lsn pg_lsn)
    RETURNS SETOF record
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'lag_positions_wrapper';
COMMENT ON FUNCTION spock_internal.lag_positions() IS 'what the view lag_tracker shows';

CREATE FUNCTION create_recovery_slot() RETURNS name
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'create_recovery_slot_wrapper';
REVOKE ALL ON FUNCTION create_recovery_slot() FROM PUBLIC;
COMMENT ON FUNCTION create_recovery_slot() IS
    'creates the recovery slot now, if there is none, and waits until it is there; returns its name';

CREATE FUNCTION drop_recovery_slot() RETURNS boolean
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'drop_recovery_slot_wrapper';
REVOKE ALL ON FUNCTION drop_recovery_slot() FROM PUBLIC;
COMMENT ON FUNCTION drop_recovery_slot() IS
    'drops the recovery slot; with spock.enable_recovery_slots on the next generation is created at once';

CREATE FUNCTION advance_recovery_slot() RETURNS pg_lsn
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'advance_recovery_slot_wrapper';
REVOKE ALL ON FUNCTION advance_recovery_slot() FROM PUBLIC;
COMMENT ON FUNCTION advance_recovery_slot() IS
    'advances the recovery slot as far as the peers allow now; returns its position, and says in a NOTICE what holds it';

CREATE FUNCTION spock_internal.save_recovery_slot()
    RETURNS TABLE (slot_name name, restart_lsn pg_lsn, confirmed_flush_lsn pg_lsn, saved boolean)
    LANGUAGE c VOLATILE ROWS 1 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'save_recovery_slot_wrapper';
REVOKE ALL ON FUNCTION spock_internal.save_recovery_slot() FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.save_recovery_slot() IS
    'saves the files of the recovery slot in a large object, so that they are in every backup; saved is false if there is no usable slot; for superusers';

CREATE FUNCTION spock_internal.saved_recovery_slot()
    RETURNS TABLE (slot_name name, generation bigint, restart_lsn pg_lsn, confirmed_flush_lsn pg_lsn, state bytea, snap_name text,
                   snap bytea)
    LANGUAGE c STABLE ROWS 1 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'saved_recovery_slot_wrapper';
REVOKE ALL ON FUNCTION spock_internal.saved_recovery_slot() FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.saved_recovery_slot() IS
    'the saved files of the recovery slot, with which a restore puts it back; also on a server in recovery; for superusers';

CREATE FUNCTION quick_health_check() RETURNS TABLE (check_name text, status text, details text)
    LANGUAGE c VOLATILE ROWS 10 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'quick_health_check_wrapper';
COMMENT ON FUNCTION quick_health_check() IS
    'whether everything that a recovery will need is in order: HEALTHY, WARNING, MISSING, DISABLED or CRITICAL, and what to do';
