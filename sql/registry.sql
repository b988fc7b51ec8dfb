-- The node registry: nodes are foreign servers of the wrapper spock_node, connection strings options of user mappings.
-- Names that the extension spock also has stand in names_shared_with_spock.sql.

-- Before anything else: whoever may create objects in one of the two schemas, or owns it, could have functions and operators there
-- that superusers and other nodes then call in place of ours. So each is new, or it is a superuser's, closed to others, and holds
-- nothing but what belongs to the extension spock. Everything here names its schema and has the very types that it is declared with:
-- the search path begins with the schema that is not trusted yet. What an administrator's default privileges give away in a new
-- schema counts as well.
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
                 WHEN EXISTS (SELECT FROM pg_catalog.pg_depend d
                               WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = of_schema
                                 AND d.classid <> 'pg_catalog.pg_extension'::regclass
                                 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend m JOIN pg_catalog.pg_extension e ON e.oid = m.refobjid
                                                  WHERE m.classid = d.classid AND m.objid = d.objid AND m.deptype = 'e'
                                                    AND m.refclassid = 'pg_catalog.pg_extension'::regclass AND e.extname = 'spock'))
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
                HINT = 'Look at what is in it and who was given CREATE in it, by ALTER DEFAULT PRIVILEGES too; then drop or rename it: CREATE EXTENSION spock_recovery makes the schema by itself.';
        END IF;
    END LOOP;
    PERFORM pg_catalog.set_config('search_path'::pg_catalog.text, path, true);
END
$guard$;

-- It outlives the extension, as the schema of the extension itself does. If it went, anybody who may create schemas could have
-- one of this name while a peer still asks in it.
DO LANGUAGE plpgsql $member$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_depend d
                WHERE d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
                  AND d.objid = 'spock_internal'::pg_catalog.regnamespace AND d.deptype = 'e') THEN
        ALTER EXTENSION spock_recovery DROP SCHEMA spock_internal;
    END IF;
END
$member$;

-- Views are read by everybody; what is secret in them is hidden inside. What only the extension's own code calls, here or from a
-- peer, is in spock_internal.
GRANT USAGE ON SCHEMA @extschema@, spock_internal TO PUBLIC;

CREATE FUNCTION spock_internal.node_options_validator(options text[], catalog oid) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'node_options_validator_wrapper';
REVOKE ALL ON FUNCTION spock_internal.node_options_validator(text[], oid) FROM PUBLIC;
COMMENT ON FUNCTION spock_internal.node_options_validator(text[], oid) IS
    'checks the options of nodes and of their user mappings; called by CREATE SERVER and CREATE USER MAPPING';

CREATE FOREIGN DATA WRAPPER spock_node NO HANDLER VALIDATOR spock_internal.node_options_validator;
COMMENT ON FOREIGN DATA WRAPPER spock_node IS 'nodes of a spock_recovery cluster: managed by spock.node_create() and its like';

CREATE FUNCTION peer_create(node_name name, dsn text) RETURNS oid
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'peer_create_wrapper';
REVOKE ALL ON FUNCTION peer_create(name, text) FROM PUBLIC;
COMMENT ON FUNCTION peer_create(name, text) IS
    'makes a peer known that no subscription leads to, or gives a known peer a connection string of its own; returns its node_id';

CREATE FUNCTION sub_set_origin(sub_name name, node_name name) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'sub_set_origin_wrapper';
REVOKE ALL ON FUNCTION sub_set_origin(name, name) FROM PUBLIC;
COMMENT ON FUNCTION sub_set_origin(name, name) IS
    'says which node a subscription comes from, where the manager cannot find that out by asking the provider';

CREATE FUNCTION spock_internal.node_identity(OUT node_name name, OUT system_identifier text, OUT database oid, OUT version text,
                              OUT timeline integer, OUT wal_end pg_lsn, OUT started_at_lsn pg_lsn,
                              OUT timeline_forks text, OUT started_at timestamptz, OUT protocol_version integer)
    RETURNS SETOF record
    LANGUAGE c STABLE ROWS 1 SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'node_identity_2_wrapper';
COMMENT ON FUNCTION spock_internal.node_identity() IS
    'which node this database is, as peers ask it; no row where it is none, or a copy of one that lives elsewhere';

CREATE FUNCTION spock_internal.is_local_node(options text[]) RETURNS boolean
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'is_local_node_wrapper';
COMMENT ON FUNCTION spock_internal.is_local_node(text[]) IS
    'whether the options of a node''s server say that it is this very database of this very server';

CREATE FUNCTION spock_internal.subscription_origin(subscription oid) RETURNS name
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'subscription_origin_wrapper';
COMMENT ON FUNCTION spock_internal.subscription_origin(oid) IS
    'name of the node that a subscription of this database comes from; null while unknown';

CREATE FUNCTION peer_status(OUT node_name name, OUT sub_name name, OUT state text, OUT last_contact timestamptz,
                            OUT system_identifier text, OUT error text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'peer_status_wrapper';
REVOKE ALL ON FUNCTION peer_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION peer_status() TO pg_monitor;
COMMENT ON FUNCTION peer_status() IS
    'whether each peer answers, and what is wrong where it does not; a row per known node and per subscription whose node is still unknown';
