-- Recoveries: the intents of this node, and what acts on them.

CREATE FUNCTION recovery_intents()
    RETURNS TABLE (intent_id uuid, failed_node name, source_node name, target_node name, phase text,
                   begun_at timestamptz, ended_at timestamptz, summary jsonb, error text)
    LANGUAGE c VOLATILE ROWS 20 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_intents_wrapper';
COMMENT ON FUNCTION recovery_intents() IS
    'the recoveries of which this node is the target: unfinished ones, and the last 20 that have ended; error: why one waits (superusers, REPLICATION, pg_monitor)';

CREATE FUNCTION recovery_is_open(intent_id uuid) RETURNS boolean
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_is_open_wrapper';
COMMENT ON FUNCTION recovery_is_open(uuid) IS
    'whether a recovery of that id is unfinished on this node: what a source asks before it drops a clone';

CREATE FUNCTION recover_skip(failed_node_name name, origin_lsn pg_lsn) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recover_skip_wrapper';
REVOKE ALL ON FUNCTION recover_skip(name, pg_lsn) FROM PUBLIC;
COMMENT ON FUNCTION recover_skip(name, pg_lsn) IS
    'gives up the one transaction of the failed node that its recovery cannot apply; recorded in the summary of the recovery';

CREATE FUNCTION ask_to_abort(failed_node_name name) RETURNS uuid
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'ask_to_abort_wrapper';
REVOKE ALL ON FUNCTION ask_to_abort(name) FROM PUBLIC;
COMMENT ON FUNCTION ask_to_abort(name) IS
    'asks whoever carries the recovery of a failed node to end it; use recover_abort(), which waits until that is done';
