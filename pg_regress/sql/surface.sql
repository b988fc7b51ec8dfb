-- What the extension is made of: every object of the schemas spock and spock_internal, its types, who may use it, and what \d+ says about it.
-- The schema of the #[pg_test] functions is left out: it exists in the test build alone.
CREATE EXTENSION spock_recovery;

-- \dx+ spock_recovery
SELECT pg_describe_object(d.classid, d.objid, d.objsubid) AS object
  FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
 WHERE e.extname = 'spock_recovery' AND d.deptype = 'e'
   AND pg_describe_object(d.classid, d.objid, d.objsubid) !~ 'tests'
 ORDER BY pg_describe_object(d.classid, d.objid, d.objsubid) COLLATE "C";

-- \df+ spock.*, \df+ spock_internal.*
SELECT p.pronamespace::regnamespace AS schema, p.proname, p.prokind AS kind, pg_get_function_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result
  FROM pg_proc p WHERE p.pronamespace IN ('spock'::regnamespace, 'spock_internal'::regnamespace)
 ORDER BY p.pronamespace::regnamespace::text, p.proname, pg_get_function_arguments(p.oid) COLLATE "C";

SELECT p.pronamespace::regnamespace AS schema, p.proname, p.provolatile AS volatility, p.proisstrict AS strict, p.prosecdef AS definer, p.proparallel AS parallel,
       p.proconfig AS settings,
       coalesce((SELECT string_agg(CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, ', ' ORDER BY a.grantee)
          FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
         WHERE a.privilege_type = 'EXECUTE' AND a.grantee <> p.proowner), '(superusers)') AS may_execute
  FROM pg_proc p WHERE p.pronamespace IN ('spock'::regnamespace, 'spock_internal'::regnamespace)
 ORDER BY p.pronamespace::regnamespace::text, p.proname;

SELECT p.pronamespace::regnamespace AS schema, p.proname, obj_description(p.oid, 'pg_proc') AS comment
  FROM pg_proc p WHERE p.pronamespace IN ('spock'::regnamespace, 'spock_internal'::regnamespace)
 ORDER BY p.pronamespace::regnamespace::text, p.proname;

-- \dv+ spock.*, \dew+
SELECT c.relname, c.relkind AS kind, obj_description(c.oid, 'pg_class') AS comment,
       has_table_privilege('pg_monitor', c.oid, 'SELECT') AS everybody_reads,
       has_table_privilege('pg_monitor', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') AS everybody_writes
  FROM pg_class c WHERE c.relnamespace IN ('spock'::regnamespace, 'spock_internal'::regnamespace)
 ORDER BY c.relname;

SELECT fdwname, fdwhandler::regproc AS handler, fdwvalidator::regproc AS validator, fdwacl AS acl,
       obj_description(oid, 'pg_foreign_data_wrapper') AS comment
  FROM pg_foreign_data_wrapper WHERE fdwname = 'spock_node';

-- Nothing is without its comment.
SELECT p.oid::regprocedure::text AS without_comment FROM pg_proc p
 WHERE p.pronamespace IN ('spock'::regnamespace, 'spock_internal'::regnamespace) AND obj_description(p.oid, 'pg_proc') IS NULL
UNION ALL
SELECT c.oid::regclass::text FROM pg_class c
 WHERE c.relnamespace IN ('spock'::regnamespace, 'spock_internal'::regnamespace) AND obj_description(c.oid, 'pg_class') IS NULL;

-- Columns of the views.
SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod) AS type
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relnamespace IN ('spock'::regnamespace, 'spock_internal'::regnamespace)
 ORDER BY c.relname, a.attnum;

-- No table, sequence or type of ours: a publication FOR ALL TABLES would publish them. It takes no view along, materialized or not.
SELECT c.relname FROM pg_class c WHERE c.relnamespace IN ('spock'::regnamespace, 'spock_internal'::regnamespace) AND c.relkind NOT IN ('v', 'm');

-- The settings.
SELECT name, setting AS now, boot_val AS default, unit, min_val AS min, max_val AS max, context, vartype AS type
  FROM pg_settings WHERE name LIKE 'spock.%' ORDER BY name COLLATE "C";
SELECT name, short_desc FROM pg_settings WHERE name LIKE 'spock.%' ORDER BY name COLLATE "C";

-- The extension stays where it is, and installs once.
SELECT extnamespace::regnamespace AS schema, extrelocatable AS relocatable FROM pg_extension WHERE extname = 'spock_recovery';
CREATE EXTENSION spock_recovery SCHEMA public;
ALTER EXTENSION spock_recovery SET SCHEMA public;
DROP EXTENSION spock_recovery;
CREATE EXTENSION spock_recovery SCHEMA public;
