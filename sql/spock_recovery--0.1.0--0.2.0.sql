-- What version 0.2.0 has changed in the SQL of version 0.1.0. A released upgrade script never changes.
--
-- A function with other arguments or more columns has another C symbol: SQL of one version never calls a function of the library
-- that reads or writes more than it declares.

DO LANGUAGE plpgsql $guard$
DECLARE
    name_of pg_catalog.text;
    of_schema pg_catalog.oid;
    found pg_catalog.text;
    path pg_catalog.text := pg_catalog.current_setting('search_path'::pg_catalog.text);
BEGIN
    PERFORM pg_catalog.set_config('search_path'::pg_catalog.text, 'pg_catalog, pg_temp'::pg_catalog.text, true);
    IF to_regnamespace('spock_internal') IS NULL THEN
        CREATE SCHEMA spock_internal;
    END IF;
    FOREACH name_of IN ARRAY ARRAY['@extschema@', 'spock_internal'] LOOP
        of_schema := name_of::regnamespace;
        SELECT CASE
                 WHEN NOT o.rolsuper THEN format('it belongs to the role "%s", which is no superuser', o.rolname)
                 WHEN EXISTS (SELECT FROM aclexplode(n.nspacl) a LEFT JOIN pg_catalog.pg_roles g ON g.oid = a.grantee
                               WHERE a.privilege_type = 'CREATE' AND g.rolsuper IS NOT TRUE)
                   THEN 'others may create objects in it'
                 WHEN name_of = 'spock_internal' AND EXISTS (SELECT FROM pg_catalog.pg_depend d
                               WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = of_schema
                                 AND d.classid <> 'pg_catalog.pg_extension'::regclass)
                   THEN 'there are objects in it'
               END
          INTO found
          FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles o ON o.oid = n.nspowner
         WHERE n.oid = of_schema;
        IF found IS NOT NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = format('schema "%s" cannot be trusted', name_of),
                DETAIL = 'The extension needs the schema for itself, and ' || found || '.',
                HINT = 'Look at what is in it and who was given CREATE in it, by ALTER DEFAULT PRIVILEGES too; then revoke that, drop the schema or rename it: ALTER EXTENSION spock_recovery UPDATE makes spock_internal by itself.';
        END IF;
    END LOOP;
    PERFORM pg_catalog.set_config('search_path'::pg_catalog.text, path, true);
END
$guard$;

DO LANGUAGE plpgsql $member$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_depend d
                WHERE d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
                  AND d.objid = 'spock_internal'::pg_catalog.regnamespace AND d.deptype = 'e') THEN
        ALTER EXTENSION spock_recovery DROP SCHEMA spock_internal;
    END IF;
END
$member$;

GRANT USAGE ON SCHEMA spock_internal TO PUBLIC;

ALTER FUNCTION @extschema@.node_options_validator(text[], oid) SET SCHEMA spock_internal;
ALTER FUNCTION @extschema@.is_local_node(text[]) SET SCHEMA spock_internal;
ALTER FUNCTION @extschema@.subscription_origin(oid) SET SCHEMA spock_internal;
ALTER FUNCTION @extschema@.lag_positions() SET SCHEMA spock_internal;
ALTER FUNCTION @extschema@.rescue_subscriptions() SET SCHEMA spock_internal;
ALTER FUNCTION @extschema@.is_suspended(oid) SET SCHEMA spock_internal;
ALTER FUNCTION @extschema@.choose_recovery(text, text, text, text, text) SET SCHEMA spock_internal;
ALTER FUNCTION @extschema@.begin_recovery_at(text, name, name, name, text, pg_lsn, pg_lsn, timestamptz) SET SCHEMA spock_internal;
ALTER FUNCTION @extschema@.recovery_state_at(text, name, uuid, text) SET SCHEMA spock_internal;
ALTER FUNCTION @extschema@.abort_recovery_at(text, name, name) SET SCHEMA spock_internal;
ALTER FUNCTION @extschema@.retry_recovery_at(text, name) SET SCHEMA spock_internal;
ALTER FUNCTION @extschema@.require_caller(text, text, boolean) SET SCHEMA spock_internal;
ALTER FUNCTION @extschema@.counted(bigint, text) SET SCHEMA spock_internal;
ALTER FUNCTION @extschema@.tell_reconciled(jsonb, boolean) SET SCHEMA spock_internal;
ALTER FUNCTION @extschema@.refuse_recovery(text, text, text, text, text) SET SCHEMA spock_internal;
ALTER FUNCTION @extschema@.pause_watching(float8, text, text) SET SCHEMA spock_internal;
ALTER PROCEDURE @extschema@.await_end(text, text, text, uuid) SET SCHEMA spock_internal;
ALTER PROCEDURE @extschema@.watch_recovery(text, text, uuid, boolean, jsonb) SET SCHEMA spock_internal;
ALTER FUNCTION @extschema@.has_lost_source(jsonb, name) SET SCHEMA spock_internal;

DROP VIEW @extschema@.recovery_progress;
DROP FUNCTION @extschema@.recovery_intents();
DROP FUNCTION @extschema@.recovery_unjudged(uuid);
DROP FUNCTION @extschema@.rescue_progress();

CREATE FUNCTION spock_internal.node_identity(OUT node_name name, OUT system_identifier text, OUT database oid, OUT version text,
                              OUT timeline integer, OUT wal_end pg_lsn, OUT started_at_lsn pg_lsn,
                              OUT timeline_forks text, OUT started_at timestamptz, OUT protocol_version integer)
    RETURNS SETOF record
    LANGUAGE c STABLE ROWS 1 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'node_identity_2_wrapper';

COMMENT ON FUNCTION spock_internal.node_identity() IS
    'which node this database is, as peers ask it; no row where it is none, or a copy of one that lives elsewhere';

CREATE FUNCTION @extschema@.recovery_intents()
    RETURNS TABLE (intent_id uuid, failed_node name, source_node name, target_node name, phase text,
                   begun_at timestamptz, ended_at timestamptz, summary jsonb, error text, server_error jsonb)
    LANGUAGE c VOLATILE ROWS 20 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_intents_2_wrapper';

COMMENT ON FUNCTION @extschema@.recovery_intents() IS
    'the recoveries of which this node is the target: unfinished ones, and the last 20 that have ended; error: why one waits (superusers, REPLICATION, pg_monitor); server_error: what the server has said of that, with its rows, for superusers alone';

CREATE FUNCTION @extschema@.recovery_unjudged(intent_id uuid)
    RETURNS TABLE (relation text, key text, reason text, detail text)
    LANGUAGE c VOLATILE ROWS 10 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_unjudged_2_wrapper';

REVOKE ALL ON FUNCTION @extschema@.recovery_unjudged(uuid) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.recovery_unjudged(uuid) IS
    'the rows that a recovery has touched and that could not be compared with another node''s yet, by table and key, and why; detail: what a node that refused rows of the table has reported; they are compared again automatically; for superusers';

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

CREATE MATERIALIZED VIEW @extschema@.recovery_kept_objects AS
    SELECT DISTINCT (o.object #>> '{}')::oid AS object
      FROM pg_catalog.pg_seclabel l,
           LATERAL (SELECT pg_catalog.jsonb_path_query(l.label::jsonb, '$.intents[*].kept_rows')
                     UNION ALL SELECT pg_catalog.jsonb_path_query(l.label::jsonb, '$.comparisons[*].progress_object')
                     UNION ALL SELECT pg_catalog.jsonb_path_query(l.label::jsonb, '$.comparisons[*].keys_object')
                     UNION ALL SELECT l.label::jsonb -> 'slot_files') o(object)
     WHERE l.provider = 'spock_recovery' AND l.classoid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND l.objsubid = 0
       AND o.object IS NOT NULL;

COMMENT ON MATERIALIZED VIEW @extschema@.recovery_kept_objects IS
    'the large objects with the rows that recovery_unjudged() shows, with what comparisons have found, and with the saved files of the recovery slot: here for vacuumlo, which removes those that nothing refers to';

REVOKE ALL ON @extschema@.recovery_kept_objects FROM PUBLIC;

GRANT SELECT ON @extschema@.recovery_kept_objects TO PUBLIC;

CREATE FUNCTION spock_internal.rescue_progress(OUT intent_id uuid, OUT failed_node name, OUT source_node name, OUT target_node name,
                                OUT phase text, OUT target_lsn pg_lsn, OUT current_lsn pg_lsn, OUT stop_lsn pg_lsn,
                                OUT transactions bigint, OUT rows bigint, OUT bytes bigint, OUT conflicts bigint,
                                OUT rows_per_second float8, OUT time_left interval, OUT started_at timestamptz,
                                OUT blocked_by text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE ROWS 1 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'rescue_progress_2_wrapper';

COMMENT ON FUNCTION spock_internal.rescue_progress() IS 'what the view recovery_progress shows';

CREATE VIEW @extschema@.recovery_progress AS SELECT * FROM spock_internal.rescue_progress();

COMMENT ON VIEW @extschema@.recovery_progress IS
    'the unfinished recovery of which this node is the target: how far it is and how long it will take; phase waiting: see recovery_intents()';

REVOKE ALL ON @extschema@.recovery_progress FROM PUBLIC;

GRANT SELECT ON @extschema@.recovery_progress TO PUBLIC;

CREATE FUNCTION spock_internal.peer_readiness(node_name name, system_identifier text, database oid) RETURNS jsonb
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'peer_readiness_wrapper';

COMMENT ON FUNCTION spock_internal.peer_readiness(name, text, oid) IS
    'what a recovery of the node that asks would need of this one, and whether this one has it as a peer: what pollers of peers ask (superusers, REPLICATION, pg_monitor)';

CREATE FUNCTION spock_internal.begin_step() RETURNS void
    LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    PERFORM pg_catalog.set_config('synchronous_commit', 'local', true);
END
$$;

COMMENT ON FUNCTION spock_internal.begin_step() IS
    'settings for each transaction of recover_run() and the other procedures: search_path is pg_catalog, and the commit does not wait for a standby';

CREATE OR REPLACE FUNCTION spock_internal.tell_reconciled(report jsonb, verb boolean) RETURNS void
    LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    done jsonb := report -> 'reconciled';
    left_out bigint := (SELECT sum(e.value::bigint) FROM jsonb_each_text(report -> 'reconciled' -> 'unjudged') e);
BEGIN
    IF (done ->> 'updated')::bigint + (done ->> 'deleted')::bigint > 0 OR verb AND jsonb_typeof(done) = 'object' THEN
        RAISE NOTICE '% compared with node "%": % brought to the later version, % deleted',
            spock_internal.counted((done ->> 'compared')::bigint, 'row'), report ->> 'source_node', done ->> 'updated', done ->> 'deleted';
    END IF;
    IF left_out > 0 THEN
        RAISE WARNING 'node "%": % could not be compared with node "%": %', report ->> 'target_node',
            spock_internal.counted(left_out, 'row'), report ->> 'source_node',
            (SELECT string_agg(e.key || ' ' || e.value, ', ' ORDER BY e.key) FROM jsonb_each_text(done -> 'unjudged') e)
                || coalesce((SELECT ' (' || string_agg(format('table %s: %s', e.key, e.value), '; ' ORDER BY e.key) || ')'
                               FROM jsonb_each_text(done -> 'refused') e), '')
            || coalesce((SELECT ' (incoming transactions cannot be applied by ' || string_agg(s, '; by ' ORDER BY s) || ')'
                           FROM jsonb_array_elements_text(done -> 'stuck') s), '')
            USING HINT = CASE WHEN (done -> 'unjudged') ?| ARRAY['source_lags', 'target_lags', 'not_replicated', 'refused', 'busy', 'source_lost']
                THEN format('They will be compared automatically as soon as that is possible. SELECT * FROM spock.recovery_unjudged(%L); on node "%s" shows those that remain.',
                            report ->> 'intent_id', report ->> 'target_node')
                ELSE format('Compare them by hand with those of node "%s".', report ->> 'source_node') END;
    END IF;
END
$$;

CREATE OR REPLACE PROCEDURE spock_internal.await_end(target_dsn text, target_node text, failed_node text, intent uuid)
    LANGUAGE plpgsql
AS $$
BEGIN
    LOOP
        PERFORM spock_internal.begin_step();
        EXIT WHEN coalesce((spock_internal.recovery_state_at(target_dsn, target_node::name, intent) ->> 'ended')::boolean, true);
        PERFORM spock_internal.pause_watching(0.02, failed_node, coalesce(target_node, ''));
        COMMIT;
        PERFORM spock_internal.begin_step();
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION spock_internal.pause_watching(seconds float8, failed_node text, target_node text) RETURNS void
    LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_sleep(seconds);
EXCEPTION WHEN query_canceled THEN
    IF failed_node = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'query_canceled',
            MESSAGE = format('stopped watching the rebuild of node "%s"', target_node),
            DETAIL = 'The rebuild itself goes on: the target carries it.',
            HINT = 'Watch it with SELECT * FROM spock.rebuild_progress; there, or CALL again. CALL spock.rebuild_abort(); there ends it.';
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'query_canceled',
        MESSAGE = format('stopped watching the recovery of node "%s" on node "%s"', failed_node, target_node),
        DETAIL = 'The recovery itself goes on: the target carries it.',
        HINT = format('Watch it with SELECT * FROM spock.recovery_progress; there, or CALL again. CALL spock.recover_abort(%L); ends it.',
                      failed_node);
END
$$;

CREATE OR REPLACE PROCEDURE spock_internal.watch_recovery(target_dsn text, target_node text, intent uuid, verb boolean, INOUT report jsonb DEFAULT NULL)
    LANGUAGE plpgsql
AS $$
DECLARE
    begun timestamptz := pg_catalog.clock_timestamp();
    told_at timestamptz := begun;
    state jsonb;
    step jsonb;
    told int := 0;
    phase text := '';
    warned text;
    -- What the server itself has said; the caller is a superuser, who may see rows.
    said jsonb;
    words text;
    known_error text;
    blocker text;
    -- The attempt after which it was told when the next one begins.
    told_attempt text;
    is_first boolean := true;
    lost_since timestamptz;
    nap float8 := 0.01;
BEGIN
    LOOP
        PERFORM spock_internal.begin_step();
        BEGIN
            state := spock_internal.recovery_state_at(target_dsn, target_node::name, intent);
            lost_since := NULL;
        EXCEPTION WHEN connection_exception OR admin_shutdown OR crash_shutdown OR cannot_connect_now THEN
            -- The target restarts, perhaps: its manager goes on by itself.
            lost_since := coalesce(lost_since, clock_timestamp());
            IF clock_timestamp() - lost_since > interval '60 s' THEN
                RAISE;
            END IF;
        END;
        IF lost_since IS NULL THEN
            IF state IS NULL THEN
                RAISE EXCEPTION USING ERRCODE = 'undefined_object',
                    MESSAGE = format('node "%s" does not know the recovery any more', target_node),
                    HINT = 'SELECT * FROM spock.recovery_intents(); there.';
            END IF;
            IF is_first THEN
                -- What has failed before this call is tried again, and is an error when it has failed again.
                is_first := false;
                known_error := state ->> 'error_at';
            END IF;
            IF verb THEN
                -- As the target has written them down: none is missed between two looks.
                FOR step IN SELECT e FROM jsonb_array_elements(state -> 'steps') WITH ORDINALITY o(e, n) WHERE n > told LOOP
                    told := told + 1;
                    phase := step ->> 'phase';
                    RAISE NOTICE '% s: %', to_char((step ->> 'seconds')::numeric, 'FM999990.000'),
                        CASE phase WHEN 'suspending' THEN CASE WHEN state -> 'rebuild' IS NOT NULL THEN 'suspending subscriptions' ELSE format('clone "%s" was created; suspending subscriptions', state ->> 'clone') END
                                   WHEN 'replaying' THEN CASE WHEN state -> 'rebuild' IS NOT NULL THEN format('the source has pinned its snapshot; bringing %s to it', spock_internal.counted((state -> 'rebuild' ->> 'tables')::bigint, 'table')) ELSE format('replaying from %s to %s', state ->> 'skip_lsn', state ->> 'stop_lsn') END
                                   WHEN 'resuming' THEN CASE WHEN state -> 'rebuild' IS NOT NULL THEN 'all tables are ready' ELSE 'all transactions are replayed' END || '; resuming subscriptions'
                                   WHEN 'reconciling' THEN CASE WHEN state -> 'rebuild' IS NOT NULL THEN 'the source''s pin is released' ELSE 'comparing the rows that were touched' END
                                   ELSE phase END;
                END LOOP;
            END IF;
            EXIT WHEN (state ->> 'ended')::boolean;
            -- Who is in the way is told once, whether somebody asked for the steps or not, and whatever else he does meanwhile.
            IF coalesce(state ->> 'blockers', state ->> 'blocked_by') <> coalesce(blocker, '') THEN
                blocker := coalesce(state ->> 'blockers', state ->> 'blocked_by');
                RAISE NOTICE '% s: waits for a lock: %', to_char(extract(epoch FROM clock_timestamp() - begun), 'FM999990.000'),
                    state ->> 'blocked_by';
            END IF;
            -- While it waits, for a lock or for its next attempt, nothing changes.
            IF verb AND phase = 'replaying' AND NOT (state ->> 'waiting')::boolean AND state ->> 'blocked_by' IS NULL
               AND state ->> 'rows_per_second' IS NOT NULL AND clock_timestamp() - told_at >= interval '1 s' THEN
                told_at := clock_timestamp();
                RAISE NOTICE '% s: %, %, % rows/s, % left',
                    to_char(extract(epoch FROM told_at - begun), 'FM999990.000'),
                    spock_internal.counted((state ->> 'transactions')::bigint, 'transaction'),
                    spock_internal.counted((state ->> 'rows')::bigint, 'row'),
                    round((state ->> 'rows_per_second')::numeric),
                    coalesce(round((state ->> 'seconds_left')::numeric, 1)::text || ' s', 'unknown time');
            END IF;
            IF verb AND state -> 'rebuild' ->> 'table' IS NOT NULL AND clock_timestamp() - told_at >= interval '1 s' THEN
                told_at := clock_timestamp();
                RAISE NOTICE '% s: table %, % of % chunks, %, % different', to_char(extract(epoch FROM told_at - begun), 'FM999990.000'),
                    state -> 'rebuild' ->> 'table', state -> 'rebuild' ->> 'chunks_done', state -> 'rebuild' ->> 'chunks_total',
                    spock_internal.counted((state -> 'rebuild' ->> 'rows')::bigint, 'row'), state -> 'rebuild' ->> 'differing';
            END IF;
            IF verb AND state -> 'rebuild' IS NULL AND phase = 'reconciling' AND clock_timestamp() - told_at >= interval '1 s' THEN
                told_at := clock_timestamp();
                RAISE NOTICE '% s: % of % compared', to_char(extract(epoch FROM told_at - begun), 'FM999990.000'),
                    state ->> 'compared', spock_internal.counted((state ->> 'touched')::bigint, 'row');
            END IF;
            IF state ->> 'error_at' IS DISTINCT FROM known_error AND state ->> 'error' IS DISTINCT FROM warned THEN
                said := state -> 'server_error';
                words := CASE WHEN said ->> 'message' IS NULL THEN NULL
                    ELSE concat_ws(E'\n', CASE WHEN said ->> 'node' IS NULL THEN said ->> 'message'
                                               ELSE format('Node "%s" says: %s', said ->> 'node', said ->> 'message') END,
                                         said ->> 'detail', said ->> 'hint', said ->> 'context') END;
                IF (state -> 'watch' ->> 'waits_for_a_person')::boolean THEN
                    IF state -> 'rebuild' IS NOT NULL THEN
                        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
                            MESSAGE = format('rebuild of node "%s" from node "%s" waits: %s', target_node, state ->> 'source_node', state ->> 'error'),
                            DETAIL = concat_ws(E'\n', words, 'Tables that are ready are kept. The subscriptions run again, unless a table is being copied.'),
                            HINT = concat_ws(' ', coalesce(CASE WHEN said ->> 'node' IS NULL THEN said ->> 'hint' END, 'Fix the cause and CALL again.'), 'CALL spock.rebuild_abort(); on the target ends the rebuild.');
                    END IF;
                    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
                        MESSAGE = format('recovery of node "%s" on node "%s" waits: %s',
                                                    state ->> 'failed_node', target_node, state ->> 'error'),
                        DETAIL = concat_ws(E'\n', words, 'Transactions that were applied are kept, the other subscriptions run again, and the recovery continues by itself once the cause is fixed. The log of the target has the server''s own message.'),
                        HINT = state -> 'watch' ->> 'mend_hint';
                ELSIF NOT (state ->> 'must_be_mended')::boolean THEN
                    -- Also where the next attempt has begun already.
                    warned := state ->> 'error';
                    IF words IS NULL THEN
                        RAISE WARNING 'the recovery waits: %', warned USING HINT = coalesce(state ->> 'advice', '');
                    ELSE
                        RAISE WARNING USING MESSAGE = format('the recovery waits: %s', warned), DETAIL = words,
                            HINT = coalesce(state ->> 'advice', '');
                    END IF;
                END IF;
            END IF;
            IF state ->> 'next_attempt_seconds' IS NOT NULL AND state ->> 'error_at' IS DISTINCT FROM told_attempt THEN
                told_attempt := state ->> 'error_at';
                RAISE NOTICE '% s: the next attempt begins in % s%', to_char(extract(epoch FROM clock_timestamp() - begun), 'FM999990.000'),
                    state ->> 'next_attempt_seconds', coalesce('; the lock was held by ' || (state ->> 'held_by'), '');
            END IF;
            IF (state -> 'watch' ->> 'was_tried_often')::boolean THEN
                IF state -> 'rebuild' IS NOT NULL THEN
                    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
                        MESSAGE = format('rebuild of node "%s" from node "%s" waits: %s', target_node, state ->> 'source_node', state ->> 'error'),
                        DETAIL = concat_ws(E'\n', words, 'It was tried several times, and continues by itself once the cause is fixed. Tables that are ready are kept. The subscriptions run again, unless a table is being copied.'),
                        HINT = concat_ws(' ', coalesce(CASE WHEN said ->> 'node' IS NULL THEN said ->> 'hint' END, state ->> 'advice'), 'CALL again to watch; CALL spock.rebuild_abort(); on the target ends the rebuild.');
                END IF;
                RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
                    MESSAGE = format('recovery of node "%s" on node "%s" waits: %s',
                                                state ->> 'failed_node', target_node, state ->> 'error'),
                    DETAIL = concat_ws(E'\n', words, 'The recovery was tried several times, and continues by itself once the cause is fixed.'),
                    HINT = state -> 'watch' ->> 'retry_hint';
            END IF;
        END IF;
        -- Nothing is held between two looks.
        COMMIT;
        PERFORM spock_internal.begin_step();
        PERFORM spock_internal.pause_watching(nap, CASE WHEN state -> 'rebuild' IS NULL THEN coalesce(state ->> 'failed_node', '') ELSE '' END, target_node);
        nap := least(nap * 1.07, 0.2);
        COMMIT;
        PERFORM spock_internal.begin_step();
    END LOOP;
    report := state - 'watch' || jsonb_build_object('seconds',
        round(extract(epoch FROM clock_timestamp() - begun), 3));
    IF state ->> 'phase' = 'aborted' THEN
        IF state -> 'rebuild' IS NOT NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'operator_intervention',
                MESSAGE = format('rebuild of node "%s" from node "%s" was aborted', target_node, state ->> 'source_node'),
                DETAIL = format('Tables that were ready before are kept: %s.', spock_internal.counted((state -> 'rebuild' ->> 'ready')::bigint, 'table')),
                HINT = 'CALL spock.rebuild_run() again begins anew.';
        END IF;
        RAISE EXCEPTION USING ERRCODE = 'operator_intervention',
            MESSAGE = format('recovery of node "%s" on node "%s" was aborted', state ->> 'failed_node', target_node),
            DETAIL = format('Transactions that were applied before are kept: %s.', spock_internal.counted((state ->> 'transactions')::bigint, 'transaction')),
            HINT = 'CALL spock.recover_run() again goes on from there.';
    END IF;
    PERFORM spock_internal.tell_reconciled(report, verb);
END
$$;

CREATE OR REPLACE FUNCTION spock_internal.has_lost_source(running jsonb, best name) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT
    RETURN (running -> 'watch' ->> 'waits_for_source')::boolean AND running ->> 'source_node' <> best::text;

CREATE OR REPLACE PROCEDURE @extschema@.recover_run(failed_node_name text, source_node_name text DEFAULT NULL, source_dsn text DEFAULT NULL,
                             target_node_name text DEFAULT NULL, target_dsn text DEFAULT NULL,
                             stop_lsn pg_lsn DEFAULT NULL, skip_lsn pg_lsn DEFAULT NULL,
                             stop_timestamp timestamptz DEFAULT NULL, verb boolean DEFAULT false,
                             INOUT report jsonb DEFAULT NULL)
    LANGUAGE plpgsql
AS $$
DECLARE
    begun timestamptz := pg_catalog.clock_timestamp();
    chosen record;
    target name;
    running jsonb;
    intent uuid;
    note text;
BEGIN
    PERFORM spock_internal.require_caller('recover_run', failed_node_name);
    PERFORM spock_internal.begin_step();
    verb := coalesce(verb, false);
    SELECT * INTO STRICT chosen
      FROM spock_internal.choose_recovery(failed_node_name, source_node_name, source_dsn, target_node_name, target_dsn);
    -- One that has replayed all lags no more, and may not have ended yet.
    target := coalesce(chosen.target_node, target_node_name::name, (SELECT n.node_name FROM @extschema@.node n WHERE n.is_local));
    running := spock_internal.recovery_state_at(target_dsn, target, NULL);
    IF running ->> 'failed_node' <> failed_node_name THEN
        RAISE EXCEPTION USING ERRCODE = 'object_in_use',
            MESSAGE = format('a recovery of node "%s" is running on node "%s"', running ->> 'failed_node', target),
            DETAIL = format('It is intent %s, with source node "%s"; one recovery runs at a time.', running ->> 'intent_id', running ->> 'source_node'),
            HINT = format('CALL spock.recover_run(%L); joins it; wait until it has ended.', running ->> 'failed_node');
    END IF;
    IF running IS NOT NULL THEN
        -- One whose source is lost is ended where it stands, and goes on from another source from there.
        IF spock_internal.has_lost_source(running, chosen.source_node) AND chosen.outcome = 'catch_up' THEN
            RAISE NOTICE 'the recovery from node "%" has lost its source, and goes on from node "%"',
                running ->> 'source_node', chosen.source_node;
            intent := spock_internal.abort_recovery_at(target_dsn, target, failed_node_name::name);
            COMMIT;
            PERFORM spock_internal.begin_step();
            CALL spock_internal.await_end(target_dsn, target, failed_node_name, intent);
            PERFORM spock_internal.begin_step();
            intent := NULL;
            SELECT * INTO STRICT chosen
              FROM spock_internal.choose_recovery(failed_node_name, source_node_name, source_dsn, target_node_name, target_dsn);
        ELSE
            intent := (running ->> 'intent_id')::uuid;
            -- Who calls again has mended what it waits for.
            PERFORM spock_internal.retry_recovery_at(target_dsn, target);
            RAISE NOTICE 'joining the recovery of node "%" on node "%" that is running, from node "%"',
                failed_node_name, target, running ->> 'source_node';
        END IF;
    END IF;
    IF intent IS NULL THEN
        IF chosen.outcome = 'zero_gap' THEN
            RAISE NOTICE 'nothing of node "%" is missing%', failed_node_name,
                coalesce(' on node "' || chosen.target_node || '"', ' on any survivor');
            FOR note IN SELECT jsonb_array_elements_text(chosen.plan -> 'notes') LOOP
                RAISE NOTICE '%', note;
            END LOOP;
            report := jsonb_build_object('failed_node', failed_node_name, 'target_node', chosen.target_node,
                'source_node', chosen.source_node, 'outcome', 'zero_gap', 'transactions', 0, 'rows', 0,
                'seconds', round(extract(epoch FROM clock_timestamp() - begun), 3));
            RETURN;
        ELSIF chosen.outcome <> 'catch_up' THEN
            PERFORM spock_internal.refuse_recovery(failed_node_name, chosen.target_node, chosen.reason, chosen.finding, chosen.advice);
        END IF;
        IF verb THEN
            RAISE NOTICE 'node "%" lacks % of node "%"''s WAL, which node "%" has: % to %', chosen.target_node,
                spock_internal.counted(chosen.gap_bytes, 'byte'), failed_node_name, chosen.source_node, chosen.target_lsn, chosen.source_lsn;
        END IF;
        FOR note IN SELECT jsonb_array_elements_text(chosen.plan -> 'notes') LOOP
            RAISE WARNING '%', note;
        END LOOP;
        intent := spock_internal.begin_recovery_at(target_dsn, failed_node_name::name, chosen.source_node, chosen.target_node,
                                                source_dsn, skip_lsn, stop_lsn, stop_timestamp);
    END IF;
    COMMIT;
    PERFORM spock_internal.begin_step();
    CALL spock_internal.watch_recovery(target_dsn, target::text, intent, verb, report);
    PERFORM spock_internal.begin_step();
    report := report || jsonb_build_object('outcome', 'catch_up',
        'seconds', round(extract(epoch FROM clock_timestamp() - begun), 3));
    RAISE NOTICE 'node "%" is recovered on node "%": %, % from node "%", up to %, in % s',
        failed_node_name, report ->> 'target_node', spock_internal.counted((report ->> 'transactions')::bigint, 'transaction'),
        spock_internal.counted((report ->> 'rows')::bigint, 'row'), report ->> 'source_node', report ->> 'final_lsn',
        report ->> 'seconds';
END
$$;

DROP PROCEDURE @extschema@.recover_failed_node(text, boolean, jsonb);
CREATE PROCEDURE @extschema@.recover_failed_node(failed_node_name text, verb boolean DEFAULT false, INOUT report jsonb DEFAULT NULL,
                                     rebuild boolean DEFAULT false)
    LANGUAGE plpgsql
AS $$
DECLARE
    begun timestamptz := pg_catalog.clock_timestamp();
    survivor record;
    survivors jsonb := '[]';
    intents jsonb := '[]';
    entry jsonb;
    one jsonb;
    state jsonb;
    failures int := 0;
    intent uuid;
    plans jsonb;
    note text;
    is_a_warning boolean;
    unknown text[];
    left_out text[] := '{}';
BEGIN
    PERFORM spock_internal.require_caller('recover_failed_node', failed_node_name);
    PERFORM spock_internal.begin_step();
    verb := coalesce(verb, false);
    plans := (SELECT jsonb_agg(p ORDER BY p.target_node) FROM @extschema@.recover_plan(failed_node_name::name) p);
    -- Those that have lost their source, or its WAL, are ended where they stand, and go on from another source or by a rebuild.
    FOR survivor IN SELECT * FROM jsonb_to_recordset(plans) p(target_node name, source_node name, outcome text) LOOP
        BEGIN
            state := spock_internal.recovery_state_at(NULL, survivor.target_node, NULL);
            IF state ->> 'failed_node' = failed_node_name AND survivor.outcome = 'catch_up'
               AND spock_internal.has_lost_source(state, survivor.source_node)
            THEN
                RAISE NOTICE 'node "%": the recovery from node "%" has lost its source, and goes on from node "%"',
                    survivor.target_node, state ->> 'source_node', survivor.source_node;
                intent := spock_internal.abort_recovery_at(NULL, survivor.target_node, failed_node_name::name);
                intents := intents || jsonb_build_object('target_node', survivor.target_node, 'intent_id', intent);
            ELSIF state ->> 'failed_node' = failed_node_name AND survivor.outcome = 'needs_rebuild' AND rebuild
                  AND state -> 'rebuild' IS NULL AND state ->> 'error' IS NOT NULL
            THEN
                RAISE NOTICE 'node "%": the recovery from node "%" finds no WAL any more, and is followed by a rebuild',
                    survivor.target_node, state ->> 'source_node';
                intent := spock_internal.abort_recovery_at(NULL, survivor.target_node, failed_node_name::name);
                intents := intents || jsonb_build_object('target_node', survivor.target_node, 'intent_id', intent);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            -- Told below, where it is asked again.
        END;
    END LOOP;
    IF intents <> '[]' THEN
        COMMIT;
        PERFORM spock_internal.begin_step();
        FOR entry IN SELECT e FROM pg_catalog.jsonb_array_elements(intents) e LOOP
            CALL spock_internal.await_end(NULL, (entry ->> 'target_node')::name, failed_node_name, (entry ->> 'intent_id')::uuid);
            PERFORM spock_internal.begin_step();
        END LOOP;
        PERFORM spock_internal.begin_step();
        intents := '[]';
        plans := (SELECT jsonb_agg(p ORDER BY p.target_node) FROM @extschema@.recover_plan(failed_node_name::name) p);
    END IF;
    -- Nodes that the survivors know, or that ask them, and that this one does not know: nobody has looked at them.
    unknown := ARRAY(SELECT DISTINCT u FROM pg_catalog.jsonb_array_elements(plans) p,
                            pg_catalog.jsonb_array_elements_text(p -> 'plan' -> 'unknown_nodes') u ORDER BY u);
    FOR i IN 1 .. pg_catalog.cardinality(unknown) LOOP
        RAISE WARNING 'node "%" is not known here, and is left out: it may subscribe to node "%" as well', unknown[i], failed_node_name
            USING HINT = format('SELECT spock.peer_create(%L, ''host=… port=5432 dbname=…''); and call again.', unknown[i]);
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(plans) p
                    WHERE p ->> 'outcome' IS NOT NULL OR p ->> 'reason' = 'target_not_subscribed') THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('nothing can be planned for the survivors of node "%s"', failed_node_name),
            DETAIL = (SELECT pg_catalog.string_agg(format('Node "%s": %s.', p ->> 'target_node', p ->> 'reason'), ' ')
                        FROM pg_catalog.jsonb_array_elements(plans) p),
            HINT = format('SELECT target_node, reason, plan ->> ''advice'' FROM spock.recover_plan(%L); says what each of them needs.', failed_node_name);
    END IF;
    -- What a plan has to tell besides is told, once where several say the same.
    FOR note, is_a_warning IN
        SELECT n, pg_catalog.bool_or(p ->> 'outcome' = 'catch_up')
          FROM pg_catalog.jsonb_array_elements(plans) p, pg_catalog.jsonb_array_elements_text(p -> 'plan' -> 'notes') n
         WHERE p ->> 'outcome' IS NOT NULL
         GROUP BY n ORDER BY n
    LOOP
        IF is_a_warning THEN
            RAISE WARNING '%', note;
        ELSE
            RAISE NOTICE '%', note;
        END IF;
    END LOOP;
    -- All are begun first: they run side by side, each carried by its own node.
    FOR survivor IN
        SELECT * FROM jsonb_to_recordset(plans) p(target_node name, source_node name, outcome text, reason text)
    LOOP
        one := jsonb_build_object('target_node', survivor.target_node, 'source_node', survivor.source_node,
                                  'outcome', survivor.outcome, 'reason', survivor.reason);
        IF survivor.outcome IS NULL THEN
            RAISE WARNING 'node "%" is left out: %', survivor.target_node, survivor.reason;
            IF survivor.reason <> 'target_not_subscribed' THEN
                left_out := left_out || survivor.target_node::text;
            END IF;
        ELSIF survivor.outcome = 'needs_rebuild' AND NOT coalesce(rebuild, false) THEN
            failures := failures + 1;
            RAISE WARNING 'node "%" cannot be recovered: %', survivor.target_node, survivor.reason;
        ELSE
            BEGIN
                -- One that has replayed all lags no more, and may not have ended yet.
                state := spock_internal.recovery_state_at(NULL, survivor.target_node, NULL);
                IF state ->> 'failed_node' = failed_node_name THEN
                    -- Who calls again has mended what it waits for.
                    PERFORM spock_internal.retry_recovery_at(NULL, survivor.target_node);
                    one := one || jsonb_build_object('intent_id', state ->> 'intent_id', 'source_node', state ->> 'source_node',
                                                     'error_at', state ->> 'error_at');
                ELSIF survivor.outcome = 'catch_up' THEN
                    intent := spock_internal.begin_recovery_at(NULL, failed_node_name::name, survivor.source_node,
                                                            survivor.target_node, NULL, NULL, NULL, NULL);
                    one := one || jsonb_build_object('intent_id', intent);
                ELSIF survivor.outcome = 'needs_rebuild' THEN
                    survivor.source_node := coalesce(survivor.source_node,
                        spock_internal.source_of_rebuild(survivor.target_node, failed_node_name::name));
                    intent := spock_internal.begin_rebuild_at(survivor.source_node, survivor.target_node, failed_node_name::name, NULL, 'auto');
                    one := one || jsonb_build_object('intent_id', intent, 'source_node', survivor.source_node);
                END IF;
                IF verb AND one ? 'intent_id' THEN
                    RAISE NOTICE 'node "%" is % from node "%"', survivor.target_node,
                        CASE WHEN survivor.outcome = 'needs_rebuild' THEN 'rebuilt' ELSE 'recovered' END, one ->> 'source_node';
                END IF;
            EXCEPTION WHEN OTHERS THEN
                failures := failures + 1;
                one := one || jsonb_build_object('error', SQLERRM);
                RAISE WARNING 'node "%" could not be recovered: %', survivor.target_node, SQLERRM;
            END;
        END IF;
        IF one ? 'intent_id' THEN
            intents := intents || one;
        ELSE
            survivors := survivors || one;
        END IF;
    END LOOP;
    COMMIT;
    PERFORM spock_internal.begin_step();
    FOR entry IN SELECT e FROM pg_catalog.jsonb_array_elements(intents) e LOOP
        PERFORM spock_internal.begin_step();
        LOOP
            PERFORM spock_internal.begin_step();
            state := NULL;
            BEGIN
                state := spock_internal.recovery_state_at(NULL, (entry ->> 'target_node')::name, (entry ->> 'intent_id')::uuid);
            EXCEPTION WHEN connection_exception OR admin_shutdown OR crash_shutdown OR cannot_connect_now THEN
                RAISE WARNING 'node "%" does not answer: %', entry ->> 'target_node', SQLERRM;
                entry := entry || jsonb_build_object('error', SQLERRM);
                EXIT;
            END;
            EXIT WHEN state IS NULL OR (state ->> 'ended')::boolean;
            -- What has failed before this call is tried again, and counts when it has failed again.
            IF state ->> 'error_at' IS DISTINCT FROM entry ->> 'error_at'
               AND ((state -> 'watch' ->> 'waits_for_a_person')::boolean OR (state -> 'watch' ->> 'was_tried_often')::boolean)
            THEN
                entry := entry || jsonb_build_object('error', state ->> 'error');
                EXIT;
            END IF;
            COMMIT;
            PERFORM spock_internal.begin_step();
            PERFORM spock_internal.pause_watching(0.05, failed_node_name, entry ->> 'target_node');
        END LOOP;
        IF state IS NULL OR state ->> 'phase' <> 'completed' THEN
            failures := failures + 1;
            RAISE WARNING 'node "%" is not recovered yet: %', entry ->> 'target_node',
                coalesce(entry ->> 'error', state ->> 'error', state ->> 'phase', 'its recovery is gone');
        ELSE
            entry := entry || (state - 'watch');
            PERFORM spock_internal.tell_reconciled(state, verb);
        END IF;
        IF state -> 'rebuild' IS NOT NULL AND state ->> 'phase' = 'completed' THEN
            RAISE NOTICE 'node "%" is rebuilt: % from node "%"', entry ->> 'target_node',
                spock_internal.counted((state -> 'rebuild' ->> 'tables')::bigint, 'table'), entry ->> 'source_node';
        ELSIF state ->> 'phase' = 'completed' THEN
            RAISE NOTICE 'node "%" is recovered: % from node "%", up to %', entry ->> 'target_node',
                spock_internal.counted((entry ->> 'transactions')::bigint, 'transaction'), entry ->> 'source_node', entry ->> 'final_lsn';
        END IF;
        survivors := survivors || entry;
        COMMIT;
        PERFORM spock_internal.begin_step();
    END LOOP;
    PERFORM spock_internal.begin_step();
    report := jsonb_build_object('failed_node', failed_node_name, 'survivors', survivors, 'failures', failures,
        'unknown_nodes', pg_catalog.to_jsonb(unknown), 'seconds', round(extract(epoch FROM clock_timestamp() - begun), 3));
    IF failures > 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('%s of the survivors of node "%s" could not be recovered', failures, failed_node_name),
            DETAIL = report::text,
            HINT = format('SELECT * FROM spock.recover_plan(%L); says why, and what each still lacks.', failed_node_name);
    END IF;
    RAISE NOTICE 'node "%" is recovered on every survivor that is known here%, in % s', failed_node_name,
        CASE WHEN left_out || unknown <> '{}'
             THEN format(' and has a plan; nothing was done for: %s', pg_catalog.array_to_string(left_out || unknown, ', ')) ELSE '' END,
        report ->> 'seconds';
END
$$;
REVOKE ALL ON PROCEDURE @extschema@.recover_failed_node(text, boolean, jsonb, boolean) FROM PUBLIC;
COMMENT ON PROCEDURE @extschema@.recover_failed_node(text, boolean, jsonb, boolean) IS
    'recovers the failed node on every survivor that lags and answers, each from its best source; rebuild: rebuilds those that no WAL can recover; an error at the end if one of them failed';

CREATE OR REPLACE PROCEDURE @extschema@.recover_phase_clone(failed_node_name text, source_node_name text, source_dsn text, target_node_name text,
                                     target_dsn text, stop_lsn pg_lsn DEFAULT NULL, skip_lsn pg_lsn DEFAULT NULL,
                                     stop_timestamp timestamptz DEFAULT NULL, verb boolean DEFAULT false,
                                     INOUT cloned_slot_name text DEFAULT NULL)
    LANGUAGE plpgsql
AS $$
DECLARE
    chosen record;
    state jsonb;
    intent uuid;
BEGIN
    PERFORM spock_internal.require_caller('recover_phase_clone', failed_node_name);
    PERFORM spock_internal.begin_step();
    SELECT * INTO STRICT chosen
      FROM spock_internal.choose_recovery(failed_node_name, source_node_name, source_dsn, target_node_name, target_dsn);
    IF chosen.outcome = 'needs_rebuild' THEN
        PERFORM spock_internal.refuse_recovery(failed_node_name, chosen.target_node, chosen.reason, chosen.finding, chosen.advice);
    ELSIF chosen.outcome = 'zero_gap' THEN
        RAISE NOTICE 'nothing of node "%" is missing%', failed_node_name,
            coalesce(' on node "' || chosen.target_node || '"', ' on any survivor');
        RETURN;
    END IF;
    intent := spock_internal.begin_recovery_at(target_dsn, failed_node_name::name, chosen.source_node, chosen.target_node,
                                            source_dsn, skip_lsn, stop_lsn, stop_timestamp);
    COMMIT;
    PERFORM spock_internal.begin_step();
    LOOP
        PERFORM spock_internal.begin_step();
        state := spock_internal.recovery_state_at(target_dsn, chosen.target_node, intent);
        EXIT WHEN state ->> 'clone' IS NOT NULL OR (state ->> 'ended')::boolean OR (state ->> 'waiting')::boolean;
        PERFORM spock_internal.pause_watching(0.02, failed_node_name, chosen.target_node);
        COMMIT;
        PERFORM spock_internal.begin_step();
    END LOOP;
    cloned_slot_name := state ->> 'clone';
    IF cloned_slot_name IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('no clone could be made on node "%s": %s', chosen.source_node, state ->> 'error'),
            DETAIL = 'It is tried again until it succeeds.',
            HINT = format('CALL spock.recover_abort(%L); on node "%s" ends it.', failed_node_name, chosen.target_node);
    END IF;
    IF coalesce(verb, false) THEN
        RAISE NOTICE 'node "%" replays from clone "%" on node "%"', chosen.target_node, cloned_slot_name, chosen.source_node;
    END IF;
END
$$;

CREATE OR REPLACE PROCEDURE @extschema@.recover_finalize(target_dsn text, target_node_name text, failed_node_name text, source_dsn text,
                                  cloned_slot_name text, verb boolean DEFAULT false)
    LANGUAGE plpgsql
AS $$
DECLARE
    state jsonb;
    report jsonb;
BEGIN
    PERFORM spock_internal.require_caller('recover_finalize', failed_node_name);
    PERFORM spock_internal.begin_step();
    IF target_node_name IS NULL OR cloned_slot_name IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed',
            MESSAGE = CASE WHEN target_node_name IS NULL THEN 'target_node_name' ELSE 'cloned_slot_name' END || ' must not be null',
            HINT = 'CALL spock.recover_finalize(NULL, ''n2'', ''n1'', NULL, ''spk_recovery_db_clone_…''); with the clone that recover_phase_clone() has named.';
    END IF;
    state := spock_internal.recovery_state_at(target_dsn, target_node_name::name, NULL, cloned_slot_name);
    IF state IS NULL OR state ->> 'failed_node' <> failed_node_name THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('node "%s" knows no recovery of node "%s" from clone "%s"', target_node_name, failed_node_name, cloned_slot_name),
            HINT = 'SELECT * FROM spock.recovery_intents(); on that node shows its recoveries.';
    END IF;
    COMMIT;
    PERFORM spock_internal.begin_step();
    CALL spock_internal.watch_recovery(target_dsn, target_node_name, (state ->> 'intent_id')::uuid, coalesce(verb, false), report);
    PERFORM spock_internal.begin_step();
    RAISE NOTICE 'node "%" is recovered on node "%": %, up to %', failed_node_name, target_node_name,
        spock_internal.counted((report ->> 'transactions')::bigint, 'transaction'), report ->> 'final_lsn';
END
$$;

CREATE OR REPLACE PROCEDURE @extschema@.recover_abort(failed_node_name text, target_node_name text DEFAULT NULL)
    LANGUAGE plpgsql
AS $$
DECLARE
    asked uuid;
BEGIN
    PERFORM spock_internal.require_caller('recover_abort', failed_node_name);
    PERFORM spock_internal.begin_step();
    asked := spock_internal.abort_recovery_at(NULL, target_node_name::name, failed_node_name::name);
    COMMIT;
    PERFORM spock_internal.begin_step();
    CALL spock_internal.await_end(NULL, target_node_name, failed_node_name, asked);
    PERFORM spock_internal.begin_step();
END
$$;

CREATE OR REPLACE PROCEDURE @extschema@.recover_precheck(failed_node_name text, source_node_name text DEFAULT NULL, source_dsn text DEFAULT NULL,
                                  target_node_name text DEFAULT NULL, target_dsn text DEFAULT NULL, verb boolean DEFAULT false,
                                  INOUT recovery_needed boolean DEFAULT NULL)
    LANGUAGE plpgsql
AS $$
DECLARE
    chosen record;
    condition jsonb;
    path text := pg_catalog.current_setting('search_path');
BEGIN
    PERFORM spock_internal.require_caller('recover_precheck', failed_node_name, commits => false);
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    SELECT * INTO STRICT chosen
      FROM spock_internal.choose_recovery(failed_node_name, source_node_name, source_dsn, target_node_name, target_dsn);
    IF coalesce(verb, false) THEN
        FOR condition IN SELECT c FROM pg_catalog.jsonb_array_elements(chosen.plan -> 'proof') c LOOP
            RAISE NOTICE '%: % (%)', condition ->> 'name',
                CASE WHEN (condition ->> 'holds')::boolean THEN 'holds' ELSE 'FAILS' END, condition ->> 'finding';
        END LOOP;
    END IF;
    recovery_needed := chosen.outcome <> 'zero_gap';
    IF chosen.outcome = 'needs_rebuild' THEN
        PERFORM spock_internal.refuse_recovery(failed_node_name, chosen.target_node, chosen.reason, chosen.finding, chosen.advice);
    ELSIF recovery_needed THEN
        RAISE NOTICE 'node "%" can be recovered on node "%" from node "%": % to %', failed_node_name, chosen.target_node,
            chosen.source_node, chosen.target_lsn, chosen.source_lsn;
    ELSE
        RAISE NOTICE 'nothing of node "%" is missing%', failed_node_name,
            coalesce(' on node "' || chosen.target_node || '"', ' on any survivor');
    END IF;
    PERFORM pg_catalog.set_config('search_path', path, true);
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.recover_status()
    RETURNS TABLE (intent_id uuid, failed_node name, source_node name, target_node name, step integer, phase text,
                   state text, details text)
    LANGUAGE sql VOLATILE ROWS 5 SET search_path = pg_catalog, pg_temp
AS $$
    WITH phases(step, phase) AS (
        VALUES (1, 'begun'), (2, 'suspending'), (3, 'replaying'), (4, 'resuming'), (5, 'reconciling')
    )
    SELECT (s.now ->> 'intent_id')::uuid, (s.now ->> 'failed_node')::name, (s.now ->> 'source_node')::name,
           (s.now ->> 'target_node')::name, p.step, p.phase,
           CASE WHEN p.step < c.step THEN 'done' WHEN p.step > c.step THEN 'pending'
                WHEN (s.now ->> 'waiting')::boolean THEN 'waiting' ELSE 'running' END,
           CASE WHEN p.step <> c.step THEN NULL
                WHEN (s.now ->> 'waiting')::boolean THEN s.now ->> 'error'
                WHEN s.now ->> 'blocked_by' IS NOT NULL THEN 'waits for a lock: ' || (s.now ->> 'blocked_by')
                WHEN p.phase = 'replaying' THEN format('%s, %s, at %s of %s',
                    spock_internal.counted((s.now ->> 'transactions')::bigint, 'transaction'),
                    spock_internal.counted((s.now ->> 'rows')::bigint, 'row'), s.now ->> 'current_lsn', s.now ->> 'stop_lsn')
           END
      FROM (SELECT spock_internal.recovery_state() AS now) s
      CROSS JOIN phases p
      JOIN phases c ON c.phase = s.now ->> 'phase'
     WHERE s.now IS NOT NULL
     ORDER BY p.step
$$;

-- What nodes of version 0.1.0 ask for stays where it is, until version 0.3.0; those of this version ask for the same in spock_internal.

CREATE FUNCTION spock_internal.recovery_is_open(intent_id uuid) RETURNS boolean
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_is_open_wrapper';

COMMENT ON FUNCTION spock_internal.recovery_is_open(uuid) IS
    'whether a recovery of that id is unfinished on this node: what a source asks before it drops a clone';

CREATE FUNCTION spock_internal.recovery_facts(failed_node_name name) RETURNS jsonb
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_facts_wrapper';

COMMENT ON FUNCTION spock_internal.recovery_facts(name) IS
    'what this node says of itself and of a failed node, durable when it returns: what plans are made of (superusers, REPLICATION, pg_monitor)';

CREATE FUNCTION spock_internal.clone_for_recovery(intent_id uuid, begun_at bigint, failed_node name, target_node name)
    RETURNS TABLE (cloned_slot_name text, message text)
    LANGUAGE c VOLATILE ROWS 1 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'clone_for_recovery_wrapper';

COMMENT ON FUNCTION spock_internal.clone_for_recovery(uuid, bigint, name, name) IS
    'makes the clone of a recovery, the same one when asked again; called by the target (superusers, REPLICATION)';

CREATE FUNCTION spock_internal.claim_clone(slot_name text, intent_id uuid, failed_node name, target_node name) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'claim_clone_wrapper';

COMMENT ON FUNCTION spock_internal.claim_clone(text, uuid, name, name) IS
    'ties a clone to the recovery on the target that uses it, until that has ended; called by the target (superusers, REPLICATION)';

CREATE FUNCTION spock_internal.release_clone(slot_name text, intent_id uuid) RETURNS boolean
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'release_clone_wrapper';

COMMENT ON FUNCTION spock_internal.release_clone(text, uuid) IS
    'drops the clone of a recovery that no longer needs it; called by the target (superusers, REPLICATION)';

CREATE FUNCTION spock_internal.touched_rows(question text) RETURNS text
    LANGUAGE c STABLE STRICT SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'touched_rows_wrapper';

COMMENT ON FUNCTION spock_internal.touched_rows(text) IS
    'rows of a table by their keys, as a recovery on another node asks for them: as many as an answer takes, and long values as hashes; the caller needs SELECT on the table, which is read as its owner (superusers, REPLICATION)';

CREATE FUNCTION spock_internal.begin_recovery(failed_node name, source_node name, target_node name, source_dsn text DEFAULT NULL,
                               skip_lsn pg_lsn DEFAULT NULL, stop_lsn pg_lsn DEFAULT NULL,
                               stop_timestamp timestamptz DEFAULT NULL)
    RETURNS uuid
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'begin_recovery_wrapper';

REVOKE ALL ON FUNCTION spock_internal.begin_recovery(name, name, name, text, pg_lsn, pg_lsn, timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION spock_internal.begin_recovery(name, name, name, text, pg_lsn, pg_lsn, timestamptz) IS
    'begins a recovery of which this node is the target, at the caller''s commit, and returns its id without waiting; what recover_run() calls on the target';

CREATE FUNCTION spock_internal.recovery_state(intent_id uuid DEFAULT NULL, clone text DEFAULT NULL) RETURNS jsonb
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_state_wrapper';

COMMENT ON FUNCTION spock_internal.recovery_state(uuid, text) IS
    'the state of a recovery of which this node is the target, by its id or its clone; without either, of the unfinished one (superusers, REPLICATION, pg_monitor)';

CREATE FUNCTION spock_internal.ask_to_abort(failed_node_name name) RETURNS uuid
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'ask_to_abort_wrapper';

REVOKE ALL ON FUNCTION spock_internal.ask_to_abort(name) FROM PUBLIC;

COMMENT ON FUNCTION spock_internal.ask_to_abort(name) IS
    'asks the worker that carries the recovery of a failed node to end it; use recover_abort(), which waits until that is done';

CREATE FUNCTION spock_internal.retry_recovery() RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'retry_recovery_wrapper';

REVOKE ALL ON FUNCTION spock_internal.retry_recovery() FROM PUBLIC;

COMMENT ON FUNCTION spock_internal.retry_recovery() IS
    'starts the next attempt of the waiting recovery of this node now, before it is due';

COMMENT ON FUNCTION @extschema@.node_identity() IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.node_identity(). It goes with version 0.3.0.';
COMMENT ON FUNCTION @extschema@.recovery_is_open(uuid) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.recovery_is_open(). It goes with version 0.3.0.';
COMMENT ON FUNCTION @extschema@.recovery_facts(name) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.recovery_facts(). It goes with version 0.3.0.';
COMMENT ON FUNCTION @extschema@.clone_for_recovery(uuid, bigint, name, name) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.clone_for_recovery(). It goes with version 0.3.0.';
COMMENT ON FUNCTION @extschema@.claim_clone(text, uuid, name, name) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.claim_clone(). It goes with version 0.3.0.';
COMMENT ON FUNCTION @extschema@.release_clone(text, uuid) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.release_clone(). It goes with version 0.3.0.';
COMMENT ON FUNCTION @extschema@.touched_rows(text) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.touched_rows(). It goes with version 0.3.0.';
COMMENT ON FUNCTION @extschema@.begin_recovery(name, name, name, text, pg_lsn, pg_lsn, timestamptz) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.begin_recovery(). It goes with version 0.3.0.';
COMMENT ON FUNCTION @extschema@.recovery_state(uuid, text) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.recovery_state(). It goes with version 0.3.0.';
COMMENT ON FUNCTION @extschema@.ask_to_abort(name) IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.ask_to_abort(). It goes with version 0.3.0.';
COMMENT ON FUNCTION @extschema@.retry_recovery() IS
    'what nodes of version 0.1.0 ask for here; those of this version ask spock_internal.retry_recovery(). It goes with version 0.3.0.';

COMMENT ON FUNCTION spock_internal.require_caller(text, text, boolean) IS
    'raises an error if the caller is not a superuser, if failed_node is null, or if the procedure commits and is called inside a transaction block';
COMMENT ON FUNCTION spock_internal.tell_reconciled(jsonb, boolean) IS
    'reports in a NOTICE which rows a recovery has reconciled, and in a WARNING which could not be compared';
COMMENT ON FUNCTION @extschema@.recovery_conflicts(uuid) IS
    'the conflicts that a recovery has met, by table, kind and resolution (apply_remote, keep_local, skip); relation is null for the tables that are not counted separately because there are too many; for superusers and roles with REPLICATION or pg_monitor';
COMMENT ON FUNCTION @extschema@.clone_recovery_slot(name, name) IS
    'copies the recovery slot for a recovery of the failed node on the target, and advances the copy to where the target needs it; not in a transaction that has written (superusers, REPLICATION)';
COMMENT ON FUNCTION @extschema@.node_positions(boolean) IS
    'how far this node has durably applied each origin, as peers ask it; held: for a node whose recovery may still need peers'' WAL, the position before that recovery (superusers, REPLICATION, pg_monitor)';
COMMENT ON FUNCTION @extschema@.recovery_horizon() IS
    'how far each peer has passed each origin, and how far the recovery slot may therefore advance; released_lsn FFFFFFFF/FFFFFFFF: this node can prove nothing of that origin';
COMMENT ON FUNCTION @extschema@.quick_health_check() IS
    'whether everything that a recovery will need is in order: HEALTHY, WARNING, MISSING, DISABLED or CRITICAL, and what to do';

CREATE FUNCTION spock_internal.ask_pollers() RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'ask_pollers_wrapper';
COMMENT ON FUNCTION spock_internal.ask_pollers() IS
    'has this node ask its peers now what they have to say, and not at the next spock.recovery_poll_interval: for a peer that waits for it (superusers, REPLICATION, pg_monitor)';

-- Restore points: one moment of the whole mesh, by name.

CREATE FUNCTION @extschema@.create_restore_point(restore_point name, lease interval DEFAULT '1 s', drain boolean DEFAULT true)
    RETURNS TABLE (restore_point name, node_name name, lsn pg_lsn, timeline int, held_ms float8, quality text)
    LANGUAGE c VOLATILE ROWS 3 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'create_restore_point_wrapper';
REVOKE ALL ON FUNCTION @extschema@.create_restore_point(name, interval, boolean) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.create_restore_point(name, interval, boolean) IS
    'names this moment on all nodes, so that all of them can be restored to it together; commits are held back for some milliseconds, and never for longer than the lease; quality: drained (nothing is on its way between nodes), cut (no node has more of another one than that one itself), loose (not proved); drain false: do not wait for the first, and leave out nodes that do not answer';

CREATE FUNCTION @extschema@.restore_points()
    RETURNS TABLE (restore_point name, created_at timestamptz, quality text, nodes name[], lsns pg_lsn[],
                   base_backup_before timestamptz)
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'restore_points_wrapper';
COMMENT ON FUNCTION @extschema@.restore_points() IS
    'the restore points of the mesh, the oldest first; lsns: the position on each of the nodes; base_backup_before: when the base backups began from which it can be restored, null if spockctl has noted none (superusers, REPLICATION, pg_monitor)';

CREATE FUNCTION @extschema@.drop_restore_point(restore_point name) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'drop_restore_point_wrapper';
REVOKE ALL ON FUNCTION @extschema@.drop_restore_point(name) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.drop_restore_point(name) IS
    'removes a restore point from the lists of all nodes that answer; its record in WAL stays, and its name cannot be used again';

CREATE FUNCTION spock_internal.restore_point_step(step text, argument text) RETURNS text
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'restore_point_step_wrapper';
REVOKE ALL ON FUNCTION spock_internal.restore_point_step(text, text) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.restore_point_step(text, text) IS
    'does one step of a restore point on this node, as a superuser; grant it to the role with which peers connect, if that is none';

CREATE FUNCTION spock_internal.restore_point_list() RETURNS text
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'restore_point_list_wrapper';
COMMENT ON FUNCTION spock_internal.restore_point_list() IS
    'the list of restore points as it is stored, for spockctl (superusers, REPLICATION, pg_monitor)';

CREATE FUNCTION spock_internal.note_base_backup(node_name name, begun_at timestamptz, stop_lsn pg_lsn) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'note_base_backup_wrapper';
REVOKE ALL ON FUNCTION spock_internal.note_base_backup(name, timestamptz, pg_lsn) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.note_base_backup(name, timestamptz, pg_lsn) IS
    'notes a base backup of a node, for base_backup_before of restore_points()';

DROP FUNCTION @extschema@.recover_plan(name, name);
CREATE FUNCTION @extschema@.recover_plan(failed_node_name name, target_node_name name DEFAULT NULL)
    RETURNS TABLE (target_node name, source_node name, outcome text, reason text, target_lsn pg_lsn, source_lsn pg_lsn,
                   released_lsn pg_lsn, gap_bytes bigint, plan jsonb, rebuild jsonb)
    LANGUAGE c VOLATILE ROWS 3 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recover_plan_2_wrapper';
COMMENT ON FUNCTION @extschema@.recover_plan(name, name) IS
    'a plan for each survivor of a failed node: zero_gap, catch_up or needs_rebuild, from which source, and why; outcome null: nothing can be said of it; plan: the proof, condition by condition, and what it takes; rebuild: the ways to rebuild a target that needs it, with estimated seconds and why not; asks all nodes and changes nothing (superusers, REPLICATION, pg_monitor)';

-- Comparing tables with those of another node.

CREATE FUNCTION spock_internal.range_hashes(question text) RETURNS text
    LANGUAGE c STABLE STRICT SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'range_hashes_wrapper';
COMMENT ON FUNCTION spock_internal.range_hashes(text) IS
    'hashes over ranges of a table''s keys, as a comparison on another node asks for them; the caller needs SELECT on the table, which is read as its owner (superusers, REPLICATION)';

CREATE FUNCTION spock_internal.require_comparer() RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'require_comparer_wrapper';
COMMENT ON FUNCTION spock_internal.require_comparer() IS
    'raises an error if the caller of compare() is not a superuser, or has called it inside a transaction block';

CREATE FUNCTION spock_internal.begin_comparison(other_node name, tables oid[], repair boolean) RETURNS jsonb
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'begin_comparison_wrapper';
REVOKE ALL ON FUNCTION spock_internal.begin_comparison(name, oid[], boolean) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.begin_comparison(name, oid[], boolean) IS
    'begins a comparison, or goes on with the last one if that was broken off; takes effect with the commit';

CREATE FUNCTION spock_internal.comparison_state(run_id uuid, pace_mb_per_s int) RETURNS jsonb
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'comparison_state_wrapper';
REVOKE ALL ON FUNCTION spock_internal.comparison_state(uuid, int) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.comparison_state(uuid, int) IS
    'the state of a comparison, whose worker is thereby started and kept going';

CREATE FUNCTION spock_internal.stop_comparison(run_id uuid) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'stop_comparison_wrapper';
REVOKE ALL ON FUNCTION spock_internal.stop_comparison(uuid) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.stop_comparison(uuid) IS 'asks the worker of a comparison to end';

-- Waits for a while. A cancel ends the comparison, and says so.
CREATE FUNCTION spock_internal.pause_comparing(seconds float8, run_id uuid) RETURNS void
    LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_sleep(seconds);
EXCEPTION WHEN query_canceled THEN
    PERFORM spock_internal.stop_comparison(run_id);
    RAISE EXCEPTION USING ERRCODE = 'query_canceled',
        MESSAGE = 'canceled the comparison',
        DETAIL = format('What it has found so far is kept: SELECT * FROM spock.compare_differences(%L);', run_id),
        HINT = 'CALL it with the same arguments again: it goes on where it stopped.';
END
$$;
REVOKE ALL ON FUNCTION spock_internal.pause_comparing(float8, uuid) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.pause_comparing(float8, uuid) IS 'waits between two looks at a comparison';

CREATE FUNCTION spock_internal.tell_compared(one jsonb, verb boolean) RETURNS void
    LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF one ->> 'outcome' = 'not_comparable' THEN
        RAISE WARNING 'table %: not comparable: %', one ->> 'relation', one ->> 'reason';
    ELSIF verb OR one ->> 'outcome' <> 'equal' THEN
        RAISE NOTICE 'table %: %, % (%)', one ->> 'relation', one ->> 'outcome',
            spock_internal.counted((one ->> 'rows')::bigint, 'row'),
            format('%s missing here, %s missing there, %s different, %s repaired%s', one ->> 'missing_here', one ->> 'missing_there',
                   one ->> 'different', one ->> 'repaired',
                   coalesce((SELECT ', undecided: ' || string_agg(e.key || ' ' || e.value, ', ' ORDER BY e.key)
                               FROM jsonb_each_text(one -> 'undecided') e), ''));
    END IF;
END
$$;
REVOKE ALL ON FUNCTION spock_internal.tell_compared(jsonb, boolean) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.tell_compared(jsonb, boolean) IS 'reports what has become of one table of a comparison';

-- Neither SECURITY DEFINER nor with SET clauses: it commits.
CREATE PROCEDURE @extschema@.compare(other_node_name text, tables regclass[] DEFAULT NULL, repair boolean DEFAULT false,
                         pace_mb_per_s int DEFAULT 0, verb boolean DEFAULT false, INOUT report jsonb DEFAULT NULL)
    LANGUAGE plpgsql
AS $$
DECLARE
    begun timestamptz := pg_catalog.clock_timestamp();
    run jsonb;
    state jsonb;
    one jsonb;
    told text[] := '{}';
    told_at timestamptz := begun;
    is_verbose boolean := coalesce(verb, false);
    nap float8 := 0.01;
BEGIN
    PERFORM spock_internal.require_comparer();
    PERFORM spock_internal.begin_step();
    run := spock_internal.begin_comparison(other_node_name::name, tables::oid[], repair);
    COMMIT;
    PERFORM spock_internal.begin_step();
    LOOP
        PERFORM spock_internal.begin_step();
        state := spock_internal.comparison_state((run ->> 'run_id')::uuid, pace_mb_per_s);
        IF (run ->> 'goes_on')::boolean THEN
            run := run || '{"goes_on": false, "went_on": true}';
            RAISE NOTICE 'goes on with the comparison that was broken off: % of % are done',
                (SELECT count(*) FROM jsonb_array_elements(state -> 'tables') e WHERE e ->> 'outcome' NOT IN ('waiting', 'running')),
                spock_internal.counted(jsonb_array_length(state -> 'tables'), 'table');
        END IF;
        FOR one IN SELECT e FROM jsonb_array_elements(state -> 'tables') WITH ORDINALITY o(e, n)
                    WHERE e ->> 'outcome' NOT IN ('waiting', 'running') AND e ->> 'relation' <> ALL (told) ORDER BY n LOOP
            told := told || (one ->> 'relation');
            PERFORM spock_internal.tell_compared(one, is_verbose);
        END LOOP;
        EXIT WHEN (state ->> 'ended')::boolean;
        IF is_verbose AND state -> 'running' <> 'null' AND clock_timestamp() - told_at >= interval '1 s' THEN
            told_at := clock_timestamp();
            one := state -> 'running';
            RAISE NOTICE '% s: table % (% of %): % of about % ranges, % MB, % left',
                to_char(extract(epoch FROM told_at - begun), 'FM999990.000'), one ->> 'relation',
                (one ->> 'tables_done')::int + 1, one ->> 'tables', one ->> 'ranges_done', one ->> 'ranges_total',
                (one ->> 'bytes')::bigint / 1048576,
                coalesce(((one ->> 'seconds_left') || ' s')::interval::text, 'unknown time');
        END IF;
        COMMIT;
        PERFORM spock_internal.begin_step();
        PERFORM spock_internal.pause_comparing(nap, (run ->> 'run_id')::uuid);
        nap := least(2 * nap, 0.2);
    END LOOP;
    report := (state - 'running' - 'ended') || jsonb_build_object('went_on', run ? 'went_on',
        'seconds', round(extract(epoch FROM clock_timestamp() - begun), 3));
    IF (state ->> 'differing')::bigint > 0 THEN
        RAISE WARNING '% with node "%"', spock_internal.counted((state ->> 'differing')::bigint, 'difference'), other_node_name
            USING HINT = format('SELECT * FROM spock.compare_differences(%L);', state ->> 'run_id');
    ELSIF (state ->> 'undecided')::bigint = 0 AND (state ->> 'not_comparable')::bigint = 0 THEN
        RAISE NOTICE '% compared with node "%", of %: no difference%', spock_internal.counted((state ->> 'rows')::bigint, 'row'),
            other_node_name, spock_internal.counted(jsonb_array_length(state -> 'tables'), 'table'),
            CASE WHEN (state ->> 'repaired')::bigint > 0 THEN ' is left' ELSE '' END;
    END IF;
END
$$;
REVOKE ALL ON PROCEDURE @extschema@.compare(text, regclass[], boolean, int, boolean, jsonb) FROM PUBLIC;
COMMENT ON PROCEDURE @extschema@.compare(text, regclass[], boolean, int, boolean, jsonb) IS
    'compares tables of this node with those of another one while both are written to; repair: brings rows of this node to the other one''s later versions; goes on with the last comparison if that was broken off';

CREATE FUNCTION @extschema@.compare_differences(run_id uuid)
    RETURNS TABLE (relation regclass, key jsonb, kind text, here_author name, here_at timestamptz, there_author name,
                   there_at timestamptz, verdict text)
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'compare_differences_wrapper';
REVOKE ALL ON FUNCTION @extschema@.compare_differences(uuid) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.compare_differences(uuid) IS
    'the keys in which two nodes differed when they were compared; kind: missing_here, missing_there, different; verdict: which node has the later version, repaired, or why that cannot be told (superusers)';

CREATE FUNCTION spock_internal.comparisons()
    RETURNS TABLE (run_id uuid, other_node name, is_automatic boolean, begun_at timestamptz, ended_at timestamptz,
                   is_running boolean, tables bigint, tables_done bigint, rows_compared bigint, differing bigint,
                   repaired bigint, undecided bigint, not_comparable bigint)
    LANGUAGE c VOLATILE ROWS 5 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'comparisons_wrapper';
COMMENT ON FUNCTION spock_internal.comparisons() IS 'serves the view comparisons (superusers, REPLICATION, pg_monitor)';

CREATE VIEW @extschema@.comparisons AS SELECT * FROM spock_internal.comparisons();
COMMENT ON VIEW @extschema@.comparisons IS
    'the last comparisons of tables with each other node: the one that a session has called, and the one that was begun by spock.compare_interval';
REVOKE ALL ON @extschema@.comparisons FROM PUBLIC;
GRANT SELECT ON @extschema@.comparisons TO PUBLIC;

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

CREATE FUNCTION spock_internal.copy_layout(table_schema name, table_name name, publications text[])
    RETURNS TABLE (kind text, name text, part text, blocks bigint, chunk_blocks bigint)
    LANGUAGE c STABLE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'copy_layout_wrapper';
COMMENT ON FUNCTION spock_internal.copy_layout(name, name, text[]) IS
    'what a copy of a table consists of: the columns that these publications send, and its parts with their sizes; called by the target (whoever may read the table)';

CREATE FUNCTION spock_internal.copy_rows(table_schema name, table_name name, publications text[], part_schema name,
                                         part_name name, columns text[], from_block bigint, to_block bigint)
    RETURNS SETOF bytea
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'copy_rows_wrapper';
COMMENT ON FUNCTION spock_internal.copy_rows(name, name, text[], name, name, text[], bigint, bigint) IS
    'the rows in these blocks of a part of a table, in pieces with a checksum at the end; called by the target (whoever may read the table)';

CREATE FUNCTION spock_internal.copy_table(intent_id uuid, source_node name, "table" regclass, pin jsonb,
                                          publications text[] DEFAULT '{}', streams int DEFAULT 1,
                                          written_at timestamptz DEFAULT NULL)
    RETURNS jsonb
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'copy_table_wrapper';
REVOKE ALL ON FUNCTION spock_internal.copy_table(uuid, name, regclass, jsonb, text[], int, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.copy_table(uuid, name, regclass, jsonb, text[], int, timestamptz) IS
    'empties a parked table and copies it from the pin of the source, or goes on with such a copy; pin: what pin_tables() has answered; written_at: the commit time of the rows';

CREATE FUNCTION spock_internal.copy_manifest(intent_id uuid)
    RETURNS TABLE (table_schema text, table_name text, chunk int, chunks int, part_schema text, part_name text,
                   from_block bigint, to_block bigint, rows bigint, bytes bigint, checksum text, applied_at timestamptz)
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'copy_manifest_wrapper';
COMMENT ON FUNCTION spock_internal.copy_manifest(uuid) IS
    'the chunks that the copies of a rebuild have brought; chunks: how many the table has (superusers, REPLICATION, pg_monitor)';

CREATE FUNCTION spock_internal.forget_manifest(intent_id uuid) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'forget_manifest_wrapper';
REVOKE ALL ON FUNCTION spock_internal.forget_manifest(uuid) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.forget_manifest(uuid) IS 'removes the manifest of a rebuild that is over';

CREATE FUNCTION spock_internal.refuse_writes() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'object_in_use',
        MESSAGE = format('table %I.%I is being copied from another node', TG_TABLE_SCHEMA, TG_TABLE_NAME),
        DETAIL = 'Until it is complete, nothing can be written to it here.',
        HINT = 'Write on another node, or wait: SELECT * FROM spock.rebuild_progress; shows it. If that shows nothing, the copy was ended: CALL spock.rebuild_run();';
END
$$;
COMMENT ON FUNCTION spock_internal.refuse_writes() IS 'the trigger function of parked tables: refuses writes';

CREATE FUNCTION spock_internal.park_tables(tables oid[]) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'park_tables_wrapper';
REVOKE ALL ON FUNCTION spock_internal.park_tables(oid[]) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.park_tables(oid[]) IS
    'refuses the writes of users to these tables and their partitions, while they are being copied';

CREATE FUNCTION spock_internal.unpark_tables(tables oid[]) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'unpark_tables_wrapper';
REVOKE ALL ON FUNCTION spock_internal.unpark_tables(oid[]) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.unpark_tables(oid[]) IS 'lets users write to these tables again';

-- Rebuilding the tables of a node from another one.

CREATE FUNCTION spock_internal.rebuild_tables(OUT intent_id uuid, OUT target_node name, OUT source_node name, OUT relation regclass,
                                              OUT method text, OUT phase text, OUT chunks_done bigint, OUT chunks_total bigint,
                                              OUT rows_done bigint, OUT rows_differing bigint, OUT bytes bigint, OUT time_left interval)
    RETURNS SETOF record
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'rebuild_tables_wrapper';
COMMENT ON FUNCTION spock_internal.rebuild_tables() IS 'what the view rebuild_progress shows';

CREATE VIEW @extschema@.rebuild_progress AS SELECT * FROM spock_internal.rebuild_tables();
COMMENT ON VIEW @extschema@.rebuild_progress IS
    'the unfinished rebuild of which this node is the target, table by table: waiting, copying, comparing or ready; how far it is and how long the table will take';
REVOKE ALL ON @extschema@.rebuild_progress FROM PUBLIC;
GRANT SELECT ON @extschema@.rebuild_progress TO PUBLIC;

CREATE FUNCTION spock_internal.begin_rebuild(source_node name, target_node name, failed_node name, tables text, method text) RETURNS uuid
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'begin_rebuild_wrapper';
REVOKE ALL ON FUNCTION spock_internal.begin_rebuild(name, name, name, text, text) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.begin_rebuild(name, name, name, text, text) IS
    'records a rebuild whose target is this node, which is carried out when the caller has committed; tables: schema and name of each, null: all that come from the source';

CREATE FUNCTION spock_internal.begin_rebuild_at(source_node name, target_node name, failed_node name, tables text, method text) RETURNS uuid
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'begin_rebuild_at_wrapper';
REVOKE ALL ON FUNCTION spock_internal.begin_rebuild_at(name, name, name, text, text) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.begin_rebuild_at(name, name, name, text, text) IS 'begin_rebuild() on the target, which may be another node';

CREATE FUNCTION spock_internal.ask_to_abort_rebuild() RETURNS uuid
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'ask_to_abort_rebuild_wrapper';
REVOKE ALL ON FUNCTION spock_internal.ask_to_abort_rebuild() FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.ask_to_abort_rebuild() IS 'asks the workers of this node to end its rebuild';

CREATE FUNCTION spock_internal.abort_rebuild_at(target_node name) RETURNS uuid
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'abort_rebuild_at_wrapper';
REVOKE ALL ON FUNCTION spock_internal.abort_rebuild_at(name) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.abort_rebuild_at(name) IS 'ask_to_abort_rebuild() on the target, which may be another node';

-- The node from which a target is rebuilt, if the caller names none: with a failed node the survivor that has the most of it, else the
-- first node by name that answers.
CREATE FUNCTION spock_internal.source_of_rebuild(target name, failed name) RETURNS name
    LANGUAGE plpgsql
AS $$
DECLARE
    local name := (SELECT n.node_name FROM @extschema@.node n WHERE n.is_local);
    source name;
BEGIN
    IF failed IS NOT NULL THEN
        SELECT f.source_node_name INTO source FROM @extschema@.find_rescue_source(failed::text) f WHERE f.source_node_name <> target;
        source := coalesce(source, (SELECT p.source_node FROM @extschema@.recover_plan(failed, target) p LIMIT 1));
    END IF;
    IF source IS NULL THEN
        SELECT s.node_name INTO source
          FROM (SELECT local AS node_name WHERE local <> target
                UNION SELECT p.node_name FROM @extschema@.peer_status() p
                       WHERE p.state = 'connected' AND p.node_name <> target AND p.node_name IS DISTINCT FROM failed) s
         ORDER BY s.node_name LIMIT 1;
    END IF;
    IF source IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('there is no node from which node "%s" can be rebuilt', target),
            DETAIL = 'No other node answers.',
            HINT = 'SELECT * FROM spock.peer_status(); shows the nodes and why they do not answer.';
    END IF;
    RETURN source;
END
$$;
REVOKE ALL ON FUNCTION spock_internal.source_of_rebuild(name, name) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.source_of_rebuild(name, name) IS 'the node from which a target is rebuilt if the caller names none';

CREATE PROCEDURE @extschema@.rebuild_run(target_node_name text DEFAULT NULL, source_node_name text DEFAULT NULL, failed_node_name text DEFAULT NULL,
                             tables regclass[] DEFAULT NULL, method text DEFAULT 'auto', verb boolean DEFAULT false,
                             INOUT report jsonb DEFAULT NULL)
    LANGUAGE plpgsql
AS $$
DECLARE
    begun timestamptz := pg_catalog.clock_timestamp();
    target name;
    source name;
    named jsonb;
    intent uuid;
    running jsonb;
BEGIN
    PERFORM spock_internal.require_caller('rebuild_run', '');
    PERFORM spock_internal.begin_step();
    verb := coalesce(verb, false);
    target := coalesce(target_node_name::name, (SELECT n.node_name FROM @extschema@.node n WHERE n.is_local));
    IF tables IS NOT NULL THEN
        named := (SELECT jsonb_agg(jsonb_build_array(n.nspname, c.relname) ORDER BY n.nspname, c.relname)
                    FROM unnest(tables) t(oid) JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace);
        IF named IS NULL OR jsonb_array_length(named) <> (SELECT count(DISTINCT t) FROM unnest(tables) t) THEN
            RAISE EXCEPTION USING ERRCODE = 'undefined_table', MESSAGE = 'tables names none, or one that does not exist',
                HINT = 'CALL spock.rebuild_run(tables := ARRAY[''orders''::regclass]);';
        END IF;
    END IF;
    running := spock_internal.recovery_state_at(NULL, target, NULL);
    IF running -> 'rebuild' IS NOT NULL THEN
        intent := (running ->> 'intent_id')::uuid;
        source := running ->> 'source_node';
        PERFORM spock_internal.retry_recovery_at(NULL, target);
        RAISE NOTICE 'joining the rebuild of node "%" from node "%" that is running', target, source;
    ELSE
        source := coalesce(source_node_name::name, spock_internal.source_of_rebuild(target, failed_node_name::name));
        intent := spock_internal.begin_rebuild_at(source, target, failed_node_name::name, named::text, method);
        IF verb THEN
            RAISE NOTICE 'node "%" is rebuilt from node "%"', target, source;
        END IF;
    END IF;
    COMMIT;
    PERFORM spock_internal.begin_step();
    CALL spock_internal.watch_recovery(NULL, target::text, intent, verb, report);
    PERFORM spock_internal.begin_step();
    report := report || jsonb_build_object('seconds', round(extract(epoch FROM clock_timestamp() - begun), 3));
    RAISE NOTICE 'node "%" is rebuilt from node "%": %, % compared or copied, % of them different, in % s', target, source,
        spock_internal.counted((report -> 'rebuild' ->> 'tables')::bigint, 'table'),
        spock_internal.counted((report -> 'rebuild' ->> 'rows')::bigint, 'row'), report -> 'rebuild' ->> 'differing',
        report ->> 'seconds';
    IF tables IS NOT NULL THEN
        RAISE NOTICE 'only some tables were rebuilt: slots that were lost and the positions of lost nodes stay as they were, until CALL spock.rebuild_run(%);',
            quote_literal(target);
    END IF;
END
$$;
REVOKE ALL ON PROCEDURE @extschema@.rebuild_run(text, text, text, regclass[], text, boolean, jsonb) FROM PUBLIC;
COMMENT ON PROCEDURE @extschema@.rebuild_run(text, text, text, regclass[], text, boolean, jsonb) IS
    'brings the target''s tables to what the source has, by comparing or copying, and replaces slots that were lost; without target: this node; without tables: all that it receives from the source; failed_node_name: a node that is gone, of which the target then has what the source has; goes on if the session ends; calling again joins';

CREATE PROCEDURE @extschema@.rebuild_abort(target_node_name text DEFAULT NULL)
    LANGUAGE plpgsql
AS $$
DECLARE
    asked uuid;
BEGIN
    PERFORM spock_internal.require_caller('rebuild_abort', '');
    PERFORM spock_internal.begin_step();
    asked := spock_internal.abort_rebuild_at(target_node_name::name);
    COMMIT;
    PERFORM spock_internal.begin_step();
    CALL spock_internal.await_end(NULL, target_node_name, '', asked);
    PERFORM spock_internal.begin_step();
END
$$;
REVOKE ALL ON PROCEDURE @extschema@.rebuild_abort(text) FROM PUBLIC;
COMMENT ON PROCEDURE @extschema@.rebuild_abort(text) IS
    'ends the rebuild of this node, or of the one named: tables that are ready stay so, the others are as they were, subscriptions run again';

CREATE FUNCTION @extschema@.rebuild_manifest(intent_id uuid)
    RETURNS TABLE (relation regclass, chunk int, from_block bigint, to_block bigint, rows bigint, checksum text, applied_at timestamptz)
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT to_regclass(format('%I.%I', m.table_schema, m.table_name)), m.chunk, m.from_block, m.to_block, m.rows, m.checksum, m.applied_at
      FROM spock_internal.copy_manifest(intent_id) m ORDER BY 1, 2
$$;
COMMENT ON FUNCTION @extschema@.rebuild_manifest(uuid) IS
    'the chunks that an unfinished rebuild has copied: the blocks of the source, how many rows, and their checksum (superusers, REPLICATION, pg_monitor)';

-- Whoever was given, or was denied, by hand what peers ask for has, or lacks, the functions in spock_internal as well.
DO LANGUAGE plpgsql $acl$
DECLARE
    pair record;
    grantee pg_catalog.oid;
BEGIN
    FOR pair IN
        SELECT old.proacl, old.proowner, new.oid::pg_catalog.regprocedure AS function
          FROM pg_catalog.pg_proc old
          JOIN pg_catalog.pg_proc new ON new.proname OPERATOR(pg_catalog.=) old.proname
               AND new.pronamespace OPERATOR(pg_catalog.=) 'spock_internal'::pg_catalog.regnamespace
         WHERE old.pronamespace OPERATOR(pg_catalog.=) '@extschema@'::pg_catalog.regnamespace AND old.proacl IS NOT NULL
    LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.aclexplode(pair.proacl) a WHERE a.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid) THEN
            EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', pair.function);
        END IF;
        FOR grantee IN
            SELECT a.grantee FROM pg_catalog.aclexplode(pair.proacl) a
             WHERE a.grantee OPERATOR(pg_catalog.<>) 0::pg_catalog.oid AND a.grantee OPERATOR(pg_catalog.<>) pair.proowner
        LOOP
            EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %s', pair.function, grantee::pg_catalog.regrole);
        END LOOP;
    END LOOP;
END
$acl$;
