-- Rebuilding the tables of a node from another one.

CREATE FUNCTION spock_internal.rebuild_tables(OUT intent_id uuid, OUT target_node name, OUT source_node name, OUT relation regclass,
                                              OUT method text, OUT phase text, OUT chunks_done bigint, OUT chunks_total bigint,
                                              OUT rows_done bigint, OUT rows_differing bigint, OUT bytes bigint, OUT time_left interval)
    RETURNS SETOF record
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'rebuild_tables_wrapper';
COMMENT ON FUNCTION spock_internal.rebuild_tables() IS 'what the view rebuild_progress shows';

CREATE VIEW rebuild_progress AS SELECT * FROM spock_internal.rebuild_tables();
COMMENT ON VIEW rebuild_progress IS
    'the unfinished rebuild of which this node is the target, table by table: waiting, copying, comparing or ready; how far it is and how long the table will take';
REVOKE ALL ON rebuild_progress FROM PUBLIC;
GRANT SELECT ON rebuild_progress TO PUBLIC;

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

CREATE PROCEDURE rebuild_run(target_node_name text DEFAULT NULL, source_node_name text DEFAULT NULL, failed_node_name text DEFAULT NULL,
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
REVOKE ALL ON PROCEDURE rebuild_run(text, text, text, regclass[], text, boolean, jsonb) FROM PUBLIC;
COMMENT ON PROCEDURE rebuild_run(text, text, text, regclass[], text, boolean, jsonb) IS
    'brings the target''s tables to what the source has, by comparing or copying, and replaces slots that were lost; without target: this node; without tables: all that it receives from the source; failed_node_name: a node that is gone, of which the target then has what the source has; goes on if the session ends; calling again joins';

CREATE PROCEDURE rebuild_abort(target_node_name text DEFAULT NULL)
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
REVOKE ALL ON PROCEDURE rebuild_abort(text) FROM PUBLIC;
COMMENT ON PROCEDURE rebuild_abort(text) IS
    'ends the rebuild of this node, or of the one named: tables that are ready stay so, the others are as they were, subscriptions run again';

CREATE FUNCTION rebuild_manifest(intent_id uuid)
    RETURNS TABLE (relation regclass, chunk int, from_block bigint, to_block bigint, rows bigint, checksum text, applied_at timestamptz)
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT to_regclass(format('%I.%I', m.table_schema, m.table_name)), m.chunk, m.from_block, m.to_block, m.rows, m.checksum, m.applied_at
      FROM spock_internal.copy_manifest(intent_id) m ORDER BY 1, 2
$$;
COMMENT ON FUNCTION rebuild_manifest(uuid) IS
    'the chunks that an unfinished rebuild has copied: the blocks of the source, how many rows, and their checksum (superusers, REPLICATION, pg_monitor)';
