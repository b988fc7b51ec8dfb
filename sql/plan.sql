-- What can be done for the survivors of a failed node, and why.

CREATE FUNCTION spock_internal.recovery_facts(failed_node_name name) RETURNS jsonb
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_facts_wrapper';
COMMENT ON FUNCTION spock_internal.recovery_facts(name) IS
    'what this node says of itself and of a failed node, durable when it returns: what plans are made of (superusers, REPLICATION, pg_monitor)';

CREATE FUNCTION spock_internal.peer_readiness(node_name name, system_identifier text, database oid) RETURNS jsonb
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'peer_readiness_wrapper';
COMMENT ON FUNCTION spock_internal.peer_readiness(name, text, oid) IS
    'what a recovery of the node that asks would need of this one, and whether this one has it as a peer: what pollers of peers ask (superusers, REPLICATION, pg_monitor)';

CREATE FUNCTION recover_plan(failed_node_name name, target_node_name name DEFAULT NULL)
    RETURNS TABLE (target_node name, source_node name, outcome text, reason text, target_lsn pg_lsn, source_lsn pg_lsn,
                   released_lsn pg_lsn, gap_bytes bigint, plan jsonb, rebuild jsonb)
    LANGUAGE c VOLATILE ROWS 3 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recover_plan_2_wrapper';
COMMENT ON FUNCTION recover_plan(name, name) IS
    'a plan for each survivor of a failed node: zero_gap, catch_up or needs_rebuild, from which source, and why; outcome null: nothing can be said of it; plan: the proof, condition by condition, and what it takes; rebuild: the ways to rebuild a target that needs it, with estimated seconds and why not; asks all nodes and changes nothing (superusers, REPLICATION, pg_monitor)';

CREATE FUNCTION find_rescue_source(failed_node_name text)
    RETURNS TABLE (origin_node_id oid, source_node_id oid, last_lsn pg_lsn, last_commit_timestamp timestamptz,
                   confidence_level text, source_node_name name)
    LANGUAGE c VOLATILE ROWS 1 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'find_rescue_source_wrapper';
COMMENT ON FUNCTION find_rescue_source(text) IS
    'the survivor that has the most of a failed node and can supply it: confidence HIGH when every survivor has answered, MEDIUM when some have not, LOW when only one could be asked; all null for an unknown node (superusers, REPLICATION, pg_monitor)';

CREATE FUNCTION spock_internal.choose_recovery(failed text, source text, source_dsn text, target text, target_dsn text,
                                OUT target_node name, OUT source_node name, OUT outcome text, OUT reason text,
                                OUT finding text, OUT advice text, OUT target_lsn pg_lsn, OUT source_lsn pg_lsn,
                                OUT gap_bytes bigint, OUT plan jsonb)
    RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 1 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'choose_recovery_wrapper';
REVOKE ALL ON FUNCTION spock_internal.choose_recovery(text, text, text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.choose_recovery(text, text, text, text, text) IS
    'the target, the source and the plan that recover_run() goes by; target null: nobody lags';
