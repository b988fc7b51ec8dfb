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
CREATE PROCEDURE compare(other_node_name text, tables regclass[] DEFAULT NULL, repair boolean DEFAULT false,
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
REVOKE ALL ON PROCEDURE compare(text, regclass[], boolean, int, boolean, jsonb) FROM PUBLIC;
COMMENT ON PROCEDURE compare(text, regclass[], boolean, int, boolean, jsonb) IS
    'compares tables of this node with those of another one while both are written to; repair: brings rows of this node to the other one''s later versions; goes on with the last comparison if that was broken off';

CREATE FUNCTION compare_differences(run_id uuid)
    RETURNS TABLE (relation regclass, key jsonb, kind text, here_author name, here_at timestamptz, there_author name,
                   there_at timestamptz, verdict text)
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'compare_differences_wrapper';
REVOKE ALL ON FUNCTION compare_differences(uuid) FROM PUBLIC;
COMMENT ON FUNCTION compare_differences(uuid) IS
    'the keys in which two nodes differed when they were compared; kind: missing_here, missing_there, different; verdict: which node has the later version, repaired, or why that cannot be told (superusers)';

CREATE FUNCTION spock_internal.comparisons()
    RETURNS TABLE (run_id uuid, other_node name, is_automatic boolean, begun_at timestamptz, ended_at timestamptz,
                   is_running boolean, tables bigint, tables_done bigint, rows_compared bigint, differing bigint,
                   repaired bigint, undecided bigint, not_comparable bigint)
    LANGUAGE c VOLATILE ROWS 5 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'comparisons_wrapper';
COMMENT ON FUNCTION spock_internal.comparisons() IS 'serves the view comparisons (superusers, REPLICATION, pg_monitor)';

CREATE VIEW comparisons AS SELECT * FROM spock_internal.comparisons();
COMMENT ON VIEW comparisons IS
    'the last comparisons of tables with each other node: the one that a session has called, and the one that was begun by spock.compare_interval';
REVOKE ALL ON comparisons FROM PUBLIC;
GRANT SELECT ON comparisons TO PUBLIC;
