-- What the extension spock has under the same names: made only where that extension is absent. On a Spock cluster its
-- own nodes and subscriptions are the ones that count.
DO $spock_recovery$
BEGIN
IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'spock') THEN
    RETURN;
END IF;

CREATE FUNCTION node_create(node_name name, dsn text) RETURNS oid
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'node_create_wrapper';
REVOKE ALL ON FUNCTION node_create(name, text) FROM PUBLIC;
COMMENT ON FUNCTION node_create(name, text) IS
    'makes this database a node of that name, which others reach by that connection string; the first call on each database; returns its node_id';

CREATE FUNCTION node_drop(node_name name, ifexists boolean DEFAULT false) RETURNS boolean
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'node_drop_wrapper';
REVOKE ALL ON FUNCTION node_drop(name, boolean) FROM PUBLIC;
COMMENT ON FUNCTION node_drop(name, boolean) IS
    'removes the local node with all it knows, or a peer that is dead for good; true if there was one';

CREATE VIEW node AS
    SELECT s.oid AS node_id, s.srvname AS node_name, spock_internal.is_local_node(s.srvoptions) AS is_local
      FROM pg_catalog.pg_foreign_server s
      JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
     WHERE w.fdwname = 'spock_node';
COMMENT ON VIEW node IS 'the nodes that this database knows, itself among them';

CREATE VIEW node_interface AS
    SELECT m.oid AS if_id, n.node_name AS if_name, n.node_id AS if_nodeid,
           CASE WHEN r.rolsuper THEN o.option_value END AS if_dsn
      FROM @extschema@.node n
      JOIN pg_catalog.pg_user_mapping m ON m.umserver = n.node_id AND m.umuser = 0::pg_catalog.oid
      CROSS JOIN LATERAL pg_catalog.pg_options_to_table(m.umoptions) o
      JOIN pg_catalog.pg_roles r ON r.rolname = CURRENT_USER
     WHERE o.option_name = 'dsn'
    UNION ALL
    SELECT s.oid, s.subname, n.node_id, CASE WHEN r.rolsuper THEN s.subconninfo END
      FROM pg_catalog.pg_subscription s
      JOIN pg_catalog.pg_database d ON d.oid = s.subdbid AND d.datname = pg_catalog.current_database()
      JOIN @extschema@.node n ON n.node_name = spock_internal.subscription_origin(s.oid)
      JOIN pg_catalog.pg_roles r ON r.rolname = CURRENT_USER;
COMMENT ON VIEW node_interface IS
    'how nodes are reached: by a connection string of their own, or by that of a subscription; only superusers see the strings';

CREATE VIEW local_node AS
    SELECT n.node_id,
           (SELECT m.oid FROM pg_catalog.pg_user_mapping m WHERE m.umserver = n.node_id AND m.umuser = 0::pg_catalog.oid)
               AS node_local_interface
      FROM @extschema@.node n
     WHERE n.is_local;
COMMENT ON VIEW local_node IS 'the node that this database is; no row where it is none, or a copy of one that lives elsewhere';

CREATE VIEW subscription AS
    SELECT s.oid AS sub_id, s.subname AS sub_name,
           (SELECT n.node_id FROM @extschema@.node n WHERE n.node_name = spock_internal.subscription_origin(s.oid)) AS sub_origin,
           (SELECT l.node_id FROM @extschema@.local_node l) AS sub_target,
           s.subenabled AS sub_enabled, s.subslotname AS sub_slot_name,
           spock_internal.is_suspended(s.oid) AS sub_rescue_suspended, false AS sub_rescue_temporary,
           NULL::pg_lsn AS sub_rescue_stop_lsn, NULL::timestamptz AS sub_rescue_stop_time,
           false AS sub_rescue_cleanup_pending, false AS sub_rescue_failed
      FROM pg_catalog.pg_subscription s
      JOIN pg_catalog.pg_database d ON d.oid = s.subdbid AND d.datname = pg_catalog.current_database()
    UNION ALL
    SELECT r.sub_id, r.sub_name, (SELECT n.node_id FROM @extschema@.node n WHERE n.node_name = r.source_node),
           (SELECT l.node_id FROM @extschema@.local_node l), true, r.slot_name, false, true, r.stop_lsn, r.stop_time,
           r.cleanup_pending, r.failed
      FROM spock_internal.rescue_subscriptions() r;
COMMENT ON VIEW subscription IS
    'the subscriptions of this database and the nodes they come from (sub_origin is null while that is unknown), and running rescues';

CREATE VIEW lag_tracker AS
    SELECT p.origin_name, p.receiver_name, p.commit_timestamp, p.commit_lsn, p.remote_insert_lsn, p.received_lsn,
           greatest(p.remote_insert_lsn - p.passed_lsn, 0)::bigint AS replication_lag_bytes,
           CASE WHEN p.passed_lsn >= p.remote_insert_lsn THEN interval '0'
                -- greatest() passes over NULL, and an unknown lag is not none.
                WHEN p.commit_timestamp IS NOT NULL
                THEN greatest(pg_catalog.clock_timestamp() - p.commit_timestamp, interval '0') END AS replication_lag
      FROM spock_internal.lag_positions() p;
COMMENT ON VIEW lag_tracker IS
    'how far each node is behind each origin: this node''s own pairs first, then what its peers have last reported';

REVOKE ALL ON node, node_interface, local_node, subscription, lag_tracker FROM PUBLIC;
GRANT SELECT ON node, node_interface, local_node, subscription, lag_tracker TO PUBLIC;
END
$spock_recovery$;
