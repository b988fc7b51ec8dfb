-- Restore points: one moment of the whole mesh, by name.

CREATE FUNCTION create_restore_point(restore_point name, lease interval DEFAULT '1 s', drain boolean DEFAULT true)
    RETURNS TABLE (restore_point name, node_name name, lsn pg_lsn, timeline int, held_ms float8, quality text)
    LANGUAGE c VOLATILE ROWS 3 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'create_restore_point_wrapper';
REVOKE ALL ON FUNCTION create_restore_point(name, interval, boolean) FROM PUBLIC;
COMMENT ON FUNCTION create_restore_point(name, interval, boolean) IS
    'names this moment on all nodes, so that all of them can be restored to it together; commits are held back for some milliseconds, and never for longer than the lease; quality: drained (nothing is on its way between nodes), cut (no node has more of another one than that one itself), loose (not proved); drain false: do not wait for the first, and leave out nodes that do not answer';

CREATE FUNCTION restore_points()
    RETURNS TABLE (restore_point name, created_at timestamptz, quality text, nodes name[], lsns pg_lsn[],
                   base_backup_before timestamptz)
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'restore_points_wrapper';
COMMENT ON FUNCTION restore_points() IS
    'the restore points of the mesh, the oldest first; lsns: the position on each of the nodes; base_backup_before: when the base backups began from which it can be restored, null if spockctl has noted none (superusers, REPLICATION, pg_monitor)';

CREATE FUNCTION drop_restore_point(restore_point name) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'drop_restore_point_wrapper';
REVOKE ALL ON FUNCTION drop_restore_point(name) FROM PUBLIC;
COMMENT ON FUNCTION drop_restore_point(name) IS
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
