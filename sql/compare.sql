-- Comparing tables with those of another node.

CREATE FUNCTION spock_internal.range_hashes(question text) RETURNS text
    LANGUAGE c STABLE STRICT SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'range_hashes_wrapper';
COMMENT ON FUNCTION spock_internal.range_hashes(text) IS
    'hashes over ranges of a table''s keys, as a comparison on another node asks for them; the caller needs SELECT on the table, which is read as its owner (superusers, REPLICATION)';
