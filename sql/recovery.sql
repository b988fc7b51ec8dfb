-- Recoveries: the intents of this node, and what acts on them.

CREATE FUNCTION recovery_intents()
    RETURNS TABLE (intent_id uuid, failed_node name, source_node name, target_node name, phase text,
                   begun_at timestamptz, ended_at timestamptz, summary jsonb, error text, server_error jsonb)
    LANGUAGE c VOLATILE ROWS 20 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_intents_2_wrapper';
COMMENT ON FUNCTION recovery_intents() IS
    'the recoveries of which this node is the target: unfinished ones, and the last 20 that have ended; error: why one waits (superusers, REPLICATION, pg_monitor); server_error: what the server has said of that, with its rows, for superusers alone';

CREATE FUNCTION spock_internal.recovery_is_open(intent_id uuid) RETURNS boolean
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_is_open_wrapper';
COMMENT ON FUNCTION spock_internal.recovery_is_open(uuid) IS
    'whether a recovery of that id is unfinished on this node: what a source asks before it drops a clone';

CREATE FUNCTION recovery_conflicts(intent_id uuid)
    RETURNS TABLE (relation regclass, kind text, resolution text, count bigint)
    LANGUAGE c VOLATILE ROWS 10 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_conflicts_wrapper';
COMMENT ON FUNCTION recovery_conflicts(uuid) IS
    'the conflicts that a recovery has met, by table, kind and resolution (apply_remote, keep_local, skip); relation is null for the tables that are not counted separately because there are too many; for superusers and roles with REPLICATION or pg_monitor';

CREATE FUNCTION recovery_unjudged(intent_id uuid)
    RETURNS TABLE (relation text, key text, reason text, detail text)
    LANGUAGE c VOLATILE ROWS 10 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_unjudged_2_wrapper';
REVOKE ALL ON FUNCTION recovery_unjudged(uuid) FROM PUBLIC;
COMMENT ON FUNCTION recovery_unjudged(uuid) IS
    'the rows that a recovery has touched and that could not be compared with another node''s yet, by table and key, and why; detail: what a node that refused rows of the table has reported; they are compared again automatically; for superusers';

-- What is kept of those rows is in large objects, as are the saved files of the recovery slot, and vacuumlo removes each to which
-- nothing refers that it looks at. No publication takes a materialized view along. Its rows are kept up to date as the label
-- changes; REFRESH finds the same.
CREATE MATERIALIZED VIEW recovery_kept_objects AS
    SELECT DISTINCT (o.object #>> '{}')::oid AS object
      FROM pg_catalog.pg_seclabel l,
           LATERAL (SELECT pg_catalog.jsonb_path_query(l.label::jsonb, '$.intents[*].kept_rows')
                     UNION ALL SELECT pg_catalog.jsonb_path_query(l.label::jsonb, '$.comparisons[*].progress_object')
                     UNION ALL SELECT pg_catalog.jsonb_path_query(l.label::jsonb, '$.comparisons[*].keys_object')
                     UNION ALL SELECT l.label::jsonb -> 'slot_files') o(object)
     WHERE l.provider = 'spock_recovery' AND l.classoid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND l.objsubid = 0
       AND o.object IS NOT NULL;
COMMENT ON MATERIALIZED VIEW recovery_kept_objects IS
    'the large objects with the rows that recovery_unjudged() shows, with what comparisons have found, and with the saved files of the recovery slot: here for vacuumlo, which removes those that nothing refers to';
REVOKE ALL ON recovery_kept_objects FROM PUBLIC;
GRANT SELECT ON recovery_kept_objects TO PUBLIC;

CREATE FUNCTION spock_internal.touched_rows(question text) RETURNS text
    LANGUAGE c STABLE STRICT SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'touched_rows_wrapper';
COMMENT ON FUNCTION spock_internal.touched_rows(text) IS
    'rows of a table by their keys, as a recovery on another node asks for them: as many as an answer takes, and long values as hashes; the caller needs SELECT on the table, which is read as its owner (superusers, REPLICATION)';

CREATE FUNCTION recover_skip(failed_node_name name, origin_lsn pg_lsn) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recover_skip_wrapper';
REVOKE ALL ON FUNCTION recover_skip(name, pg_lsn) FROM PUBLIC;
COMMENT ON FUNCTION recover_skip(name, pg_lsn) IS
    'gives up the one transaction of the failed node that its recovery cannot apply; recorded in the summary of the recovery';

CREATE FUNCTION spock_internal.ask_to_abort(failed_node_name name) RETURNS uuid
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'ask_to_abort_wrapper';
REVOKE ALL ON FUNCTION spock_internal.ask_to_abort(name) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.ask_to_abort(name) IS
    'asks the worker that carries the recovery of a failed node to end it; use recover_abort(), which waits until that is done';

CREATE FUNCTION create_rescue_subscription(target_node name, source_node name, cloned_slot text,
                                           skip_lsn pg_lsn DEFAULT NULL, stop_lsn pg_lsn DEFAULT NULL,
                                           stop_timestamp timestamptz DEFAULT NULL, failed_node name DEFAULT NULL)
    RETURNS oid
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'create_rescue_subscription_wrapper';
REVOKE ALL ON FUNCTION create_rescue_subscription(name, name, text, pg_lsn, pg_lsn, timestamptz, name) FROM PUBLIC;
COMMENT ON FUNCTION create_rescue_subscription(name, name, text, pg_lsn, pg_lsn, timestamptz, name) IS
    'replays on this node, from a clone on the source, the transactions of the failed node that this node lacks: after skip_lsn, up to stop_lsn, before the first that committed after stop_timestamp; begins when the caller commits, and goes on whatever becomes of the session; returns the oid of the rescue subscription';

CREATE FUNCTION spock_internal.rescue_progress(OUT intent_id uuid, OUT failed_node name, OUT source_node name, OUT target_node name,
                                OUT phase text, OUT target_lsn pg_lsn, OUT current_lsn pg_lsn, OUT stop_lsn pg_lsn,
                                OUT transactions bigint, OUT rows bigint, OUT bytes bigint, OUT conflicts bigint,
                                OUT rows_per_second float8, OUT time_left interval, OUT started_at timestamptz,
                                OUT blocked_by text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 1 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'rescue_progress_2_wrapper';
COMMENT ON FUNCTION spock_internal.rescue_progress() IS 'what the view recovery_progress shows';

CREATE VIEW recovery_progress AS SELECT * FROM spock_internal.rescue_progress();
COMMENT ON VIEW recovery_progress IS
    'the unfinished recovery of which this node is the target: how far it is and how long it will take; phase waiting: see recovery_intents()';
REVOKE ALL ON recovery_progress FROM PUBLIC;
GRANT SELECT ON recovery_progress TO PUBLIC;

CREATE FUNCTION spock_internal.rescue_subscriptions(OUT sub_id oid, OUT sub_name name, OUT source_node name, OUT slot_name name,
                                     OUT stop_lsn pg_lsn, OUT stop_time timestamptz, OUT cleanup_pending boolean,
                                     OUT failed boolean)
    RETURNS SETOF record
    LANGUAGE c STABLE ROWS 1 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'rescue_subscriptions_wrapper';
COMMENT ON FUNCTION spock_internal.rescue_subscriptions() IS 'the running rescues, as the view subscription shows them';

CREATE FUNCTION spock_internal.is_suspended(subscription oid) RETURNS boolean
    LANGUAGE c STABLE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'is_suspended_wrapper';
COMMENT ON FUNCTION spock_internal.is_suspended(oid) IS
    'whether a recovery keeps this subscription disabled: it will be enabled again when all is replayed, or when the failed node is back';

CREATE FUNCTION clone_recovery_slot(failed_node_name name DEFAULT NULL, target_node_name name DEFAULT NULL)
    RETURNS TABLE (cloned_slot_name text, original_slot_name text, restart_lsn pg_lsn, success boolean, message text)
    LANGUAGE c VOLATILE ROWS 1 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'clone_recovery_slot_wrapper';
COMMENT ON FUNCTION clone_recovery_slot(name, name) IS
    'copies the recovery slot for a recovery of the failed node on the target, and advances the copy to where the target needs it; not in a transaction that has written (superusers, REPLICATION)';

CREATE FUNCTION recovery_clones()
    RETURNS TABLE (slot_name text, failed_node name, target_node name, intent_id uuid, created_at timestamptz,
                   restart_lsn pg_lsn, confirmed_flush_lsn pg_lsn, active boolean, usable boolean, target_says text)
    LANGUAGE c VOLATILE ROWS 2 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_clones_wrapper';
COMMENT ON FUNCTION recovery_clones() IS
    'the clones of the recovery slot; target_says: whether the recovery that a clone belongs to is unfinished or has ended, or silent (superusers, REPLICATION, pg_monitor)';

CREATE FUNCTION spock_internal.claim_clone(slot_name text, intent_id uuid, failed_node name, target_node name) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'claim_clone_wrapper';
COMMENT ON FUNCTION spock_internal.claim_clone(text, uuid, name, name) IS
    'ties a clone to the recovery on the target that uses it, until that has ended; called by the target (superusers, REPLICATION)';

CREATE FUNCTION spock_internal.clone_for_recovery(intent_id uuid, begun_at bigint, failed_node name, target_node name)
    RETURNS TABLE (cloned_slot_name text, message text)
    LANGUAGE c VOLATILE ROWS 1 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'clone_for_recovery_wrapper';
COMMENT ON FUNCTION spock_internal.clone_for_recovery(uuid, bigint, name, name) IS
    'makes the clone of a recovery, the same one when asked again; called by the target (superusers, REPLICATION)';

CREATE FUNCTION spock_internal.release_clone(slot_name text, intent_id uuid) RETURNS boolean
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'release_clone_wrapper';
COMMENT ON FUNCTION spock_internal.release_clone(text, uuid) IS
    'drops the clone of a recovery that no longer needs it; called by the target (superusers, REPLICATION)';
