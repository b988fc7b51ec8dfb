-- What a node of version 0.1.0 asks its peers for, by the names that it knows. The functions that are asked since are in spock_internal.
-- Two neighbouring versions may run in one mesh, so these go with version 0.3.0.

CREATE FUNCTION node_identity(OUT node_name name, OUT system_identifier text, OUT database oid, OUT version text,
                              OUT timeline integer, OUT wal_end pg_lsn, OUT started_at_lsn pg_lsn,
                              OUT timeline_forks text, OUT started_at timestamptz)
    RETURNS SETOF record
    LANGUAGE c STABLE ROWS 1 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'node_identity_wrapper';
COMMENT ON FUNCTION node_identity() IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.node_identity(). It goes with version 0.3.0.';

CREATE FUNCTION recovery_is_open(intent_id uuid) RETURNS boolean
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_is_open_wrapper';
COMMENT ON FUNCTION recovery_is_open(uuid) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.recovery_is_open(). It goes with version 0.3.0.';

CREATE FUNCTION recovery_facts(failed_node_name name) RETURNS jsonb
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_facts_wrapper';
COMMENT ON FUNCTION recovery_facts(name) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.recovery_facts(). It goes with version 0.3.0.';

CREATE FUNCTION clone_for_recovery(intent_id uuid, begun_at bigint, failed_node name, target_node name)
    RETURNS TABLE (cloned_slot_name text, message text)
    LANGUAGE c VOLATILE ROWS 1 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'clone_for_recovery_wrapper';
COMMENT ON FUNCTION clone_for_recovery(uuid, bigint, name, name) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.clone_for_recovery(). It goes with version 0.3.0.';

CREATE FUNCTION claim_clone(slot_name text, intent_id uuid, failed_node name, target_node name) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'claim_clone_wrapper';
COMMENT ON FUNCTION claim_clone(text, uuid, name, name) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.claim_clone(). It goes with version 0.3.0.';

CREATE FUNCTION release_clone(slot_name text, intent_id uuid) RETURNS boolean
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'release_clone_wrapper';
COMMENT ON FUNCTION release_clone(text, uuid) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.release_clone(). It goes with version 0.3.0.';

CREATE FUNCTION touched_rows(question text) RETURNS text
    LANGUAGE c STABLE STRICT SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'touched_rows_wrapper';
COMMENT ON FUNCTION touched_rows(text) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.touched_rows(). It goes with version 0.3.0.';

CREATE FUNCTION begin_recovery(failed_node name, source_node name, target_node name, source_dsn text DEFAULT NULL,
                               skip_lsn pg_lsn DEFAULT NULL, stop_lsn pg_lsn DEFAULT NULL,
                               stop_timestamp timestamptz DEFAULT NULL)
    RETURNS uuid
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'begin_recovery_wrapper';
REVOKE ALL ON FUNCTION begin_recovery(name, name, name, text, pg_lsn, pg_lsn, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION begin_recovery(name, name, name, text, pg_lsn, pg_lsn, timestamptz) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.begin_recovery(). It goes with version 0.3.0.';

CREATE FUNCTION recovery_state(intent_id uuid DEFAULT NULL, clone text DEFAULT NULL) RETURNS jsonb
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_state_wrapper';
COMMENT ON FUNCTION recovery_state(uuid, text) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.recovery_state(). It goes with version 0.3.0.';

CREATE FUNCTION ask_to_abort(failed_node_name name) RETURNS uuid
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'ask_to_abort_wrapper';
REVOKE ALL ON FUNCTION ask_to_abort(name) FROM PUBLIC;
COMMENT ON FUNCTION ask_to_abort(name) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.ask_to_abort(). It goes with version 0.3.0.';

CREATE FUNCTION retry_recovery() RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'retry_recovery_wrapper';
REVOKE ALL ON FUNCTION retry_recovery() FROM PUBLIC;
COMMENT ON FUNCTION retry_recovery() IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.retry_recovery(). It goes with version 0.3.0.';
