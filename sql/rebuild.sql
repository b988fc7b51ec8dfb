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
