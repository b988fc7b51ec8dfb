-- What version 0.2.0 has changed in the SQL of version 0.1.0. A released upgrade script never changes.
--
-- A function with other arguments or more columns has another C symbol: SQL of one version never calls a function of the library
-- that reads or writes more than it declares.

DROP FUNCTION @extschema@.node_identity();
CREATE FUNCTION @extschema@.node_identity(OUT node_name name, OUT system_identifier text, OUT database oid, OUT version text,
                              OUT timeline integer, OUT wal_end pg_lsn, OUT started_at_lsn pg_lsn,
                              OUT timeline_forks text, OUT started_at timestamptz, OUT protocol_version integer)
    RETURNS SETOF record
    LANGUAGE c STABLE ROWS 1 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'node_identity_2_wrapper';
COMMENT ON FUNCTION @extschema@.node_identity() IS
    'which node this database is, as peers ask it; no row where it is none, or a copy of one that lives elsewhere';
