-- The main job: recover_run() and its sisters. They begin a recovery on its target and watch it; the target's manager
-- carries it, whatever becomes of the session that called. None is SECURITY DEFINER or has SET clauses: they commit.

CREATE FUNCTION spock_internal.recovery_state(intent_id uuid DEFAULT NULL, clone text DEFAULT NULL) RETURNS jsonb
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_state_wrapper';
COMMENT ON FUNCTION spock_internal.recovery_state(uuid, text) IS
    'the state of a recovery of which this node is the target, by its id or its clone; without either, of the unfinished one (superusers, REPLICATION, pg_monitor)';

CREATE FUNCTION spock_internal.begin_recovery(failed_node name, source_node name, target_node name, source_dsn text DEFAULT NULL,
                               skip_lsn pg_lsn DEFAULT NULL, stop_lsn pg_lsn DEFAULT NULL,
                               stop_timestamp timestamptz DEFAULT NULL)
    RETURNS uuid
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'begin_recovery_wrapper';
REVOKE ALL ON FUNCTION spock_internal.begin_recovery(name, name, name, text, pg_lsn, pg_lsn, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.begin_recovery(name, name, name, text, pg_lsn, pg_lsn, timestamptz) IS
    'begins a recovery of which this node is the target, at the caller''s commit, and returns its id without waiting; what recover_run() calls on the target';

CREATE FUNCTION spock_internal.begin_recovery_at(target_dsn text, failed_node name, source_node name, target_node name, source_dsn text,
                                  skip_lsn pg_lsn, stop_lsn pg_lsn, stop_timestamp timestamptz)
    RETURNS uuid
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'begin_recovery_at_wrapper';
REVOKE ALL ON FUNCTION spock_internal.begin_recovery_at(text, name, name, name, text, pg_lsn, pg_lsn, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.begin_recovery_at(text, name, name, name, text, pg_lsn, pg_lsn, timestamptz) IS
    'begins a recovery on its target, which may be another node';

CREATE FUNCTION spock_internal.recovery_state_at(target_dsn text, target_node name, intent_id uuid DEFAULT NULL, clone text DEFAULT NULL)
    RETURNS jsonb
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'recovery_state_at_wrapper';
REVOKE ALL ON FUNCTION spock_internal.recovery_state_at(text, name, uuid, text) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.recovery_state_at(text, name, uuid, text) IS 'the state of a recovery on its target, which may be another node';

CREATE FUNCTION spock_internal.abort_recovery_at(target_dsn text, target_node name, failed_node name) RETURNS uuid
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'abort_recovery_at_wrapper';
REVOKE ALL ON FUNCTION spock_internal.abort_recovery_at(text, name, name) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.abort_recovery_at(text, name, name) IS
    'asks the target, which may be another node, to end the recovery of a failed node';

CREATE FUNCTION spock_internal.retry_recovery() RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'retry_recovery_wrapper';
REVOKE ALL ON FUNCTION spock_internal.retry_recovery() FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.retry_recovery() IS
    'starts the next attempt of the waiting recovery of this node now, before it is due';

CREATE FUNCTION spock_internal.retry_recovery_at(target_dsn text, target_node name) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'retry_recovery_at_wrapper';
REVOKE ALL ON FUNCTION spock_internal.retry_recovery_at(text, name) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.retry_recovery_at(text, name) IS 'retry_recovery() on the target, which may be another node';

CREATE FUNCTION spock_internal.require_caller(procedure text, failed_node text, commits boolean DEFAULT true) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'require_caller_wrapper';
COMMENT ON FUNCTION spock_internal.require_caller(text, text, boolean) IS
    'raises an error if the caller is not a superuser, if failed_node is null, or if the procedure commits and is called inside a transaction block';

-- What each transaction of a procedure begins with: one that commits cannot have SET clauses. Nothing that commits waits for a
-- synchronous standby: that may be on the node that is lost.
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

CREATE FUNCTION spock_internal.counted(number bigint, noun text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp
AS $$ SELECT number || ' ' || noun || CASE WHEN number = 1 THEN '' ELSE 's' END $$;
COMMENT ON FUNCTION spock_internal.counted(bigint, text) IS 'a number of things, in words: 1 row, 2 rows';

CREATE FUNCTION spock_internal.tell_reconciled(report jsonb, verb boolean) RETURNS void
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
REVOKE ALL ON FUNCTION spock_internal.tell_reconciled(jsonb, boolean) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.tell_reconciled(jsonb, boolean) IS 'reports in a NOTICE which rows a recovery has reconciled, and in a WARNING which could not be compared';

CREATE FUNCTION spock_internal.refuse_recovery(failed_node text, target_node text, reason text, finding text, advice text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
        MESSAGE = format('node "%s" cannot be recovered on node "%s": %s', failed_node, target_node, reason),
        DETAIL = coalesce(finding, ''),
        HINT = coalesce(advice, '');
END
$$;
COMMENT ON FUNCTION spock_internal.refuse_recovery(text, text, text, text, text) IS 'the error of a recovery that the plan does not allow';

-- Waits for a while. A cancel ends the watching, not the recovery, and says so.
CREATE FUNCTION spock_internal.pause_watching(seconds float8, failed_node text, target_node text) RETURNS void
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
COMMENT ON FUNCTION spock_internal.pause_watching(float8, text, text) IS 'waits between two looks at a recovery';

-- Waits until a recovery that was asked to end has ended, or is not known any more.
CREATE PROCEDURE spock_internal.await_end(target_dsn text, target_node text, failed_node text, intent uuid)
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
REVOKE ALL ON PROCEDURE spock_internal.await_end(text, text, text, uuid) FROM PUBLIC;
COMMENT ON PROCEDURE spock_internal.await_end(text, text, text, uuid) IS
    'waits until a recovery that was asked to end has ended on its target: this node, or the one named';

-- Watches a recovery until it has ended, and tells its story. An error where it waits for something to be mended.
CREATE PROCEDURE spock_internal.watch_recovery(target_dsn text, target_node text, intent uuid, verb boolean, INOUT report jsonb DEFAULT NULL)
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
REVOKE ALL ON PROCEDURE spock_internal.watch_recovery(text, text, uuid, boolean, jsonb) FROM PUBLIC;
COMMENT ON PROCEDURE spock_internal.watch_recovery(text, text, uuid, boolean, jsonb) IS
    'watches a recovery on its target until it has ended; verb: tells each step, and progress every second';

CREATE FUNCTION spock_internal.has_lost_source(running jsonb, best name) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT
    RETURN (running -> 'watch' ->> 'waits_for_source')::boolean AND running ->> 'source_node' <> best::text;
COMMENT ON FUNCTION spock_internal.has_lost_source(jsonb, name) IS
    'whether a recovery waits for a source that does not answer, while another one is the best';

-- One recovery: chosen by the plan, begun on its target, watched to its end. INOUT report.
CREATE PROCEDURE recover_run(failed_node_name text, source_node_name text DEFAULT NULL, source_dsn text DEFAULT NULL,
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
REVOKE ALL ON PROCEDURE recover_run(text, text, text, text, text, pg_lsn, pg_lsn, timestamptz, boolean, jsonb) FROM PUBLIC;
COMMENT ON PROCEDURE recover_run(text, text, text, text, text, pg_lsn, pg_lsn, timestamptz, boolean, jsonb) IS
    'recovers on the target what it lacks of the failed node, out of the source''s WAL; without target: this node, or the only one that lags; without source: the best one; verb: tells each step; goes on if the session ends; calling again joins';

-- Every survivor that lags, each from its best source. One that fails does not stop the others.
CREATE PROCEDURE recover_failed_node(failed_node_name text, verb boolean DEFAULT false, INOUT report jsonb DEFAULT NULL,
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
REVOKE ALL ON PROCEDURE recover_failed_node(text, boolean, jsonb, boolean) FROM PUBLIC;
COMMENT ON PROCEDURE recover_failed_node(text, boolean, jsonb, boolean) IS
    'recovers the failed node on every survivor that lags and answers, each from its best source; rebuild: rebuilds those that no WAL can recover; an error at the end if one of them failed';

-- What recover_run would do, without doing it.
CREATE PROCEDURE recover_precheck(failed_node_name text, source_node_name text DEFAULT NULL, source_dsn text DEFAULT NULL,
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
REVOKE ALL ON PROCEDURE recover_precheck(text, text, text, text, text, boolean, boolean) FROM PUBLIC;
COMMENT ON PROCEDURE recover_precheck(text, text, text, text, text, boolean, boolean) IS
    'whether the failed node can be recovered, and whether anything is missing; changes nothing; verb: shows every condition and its finding';

-- The first step alone: clones the source's recovery slot and begins the replay, without waiting for its end.
CREATE PROCEDURE recover_phase_clone(failed_node_name text, source_node_name text, source_dsn text, target_node_name text,
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
REVOKE ALL ON PROCEDURE recover_phase_clone(text, text, text, text, text, pg_lsn, pg_lsn, timestamptz, boolean, text) FROM PUBLIC;
COMMENT ON PROCEDURE recover_phase_clone(text, text, text, text, text, pg_lsn, pg_lsn, timestamptz, boolean, text) IS
    'clones the source''s recovery slot and begins the replay on the target, without waiting for its end; recover_finalize() waits';

-- The last step alone: waits until a replay that was begun has ended, with everything put back.
CREATE PROCEDURE recover_finalize(target_dsn text, target_node_name text, failed_node_name text, source_dsn text,
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
REVOKE ALL ON PROCEDURE recover_finalize(text, text, text, text, text, boolean) FROM PUBLIC;
COMMENT ON PROCEDURE recover_finalize(text, text, text, text, text, boolean) IS
    'waits until the replay that recover_phase_clone() has begun is over: subscriptions run, the clone is dropped, the intent is closed';

CREATE PROCEDURE recover_abort(failed_node_name text, target_node_name text DEFAULT NULL)
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
REVOKE ALL ON PROCEDURE recover_abort(text, text) FROM PUBLIC;
COMMENT ON PROCEDURE recover_abort(text, text) IS
    'ends the recovery of a failed node where it stands, at a transaction boundary, on this node or on the target named: subscriptions run again, the clone is dropped';

CREATE FUNCTION recover_status()
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
COMMENT ON FUNCTION recover_status() IS
    'the unfinished recovery of which this node is the target, phase by phase: done, running, waiting (details: for what) or pending (superusers, REPLICATION, pg_monitor)';
