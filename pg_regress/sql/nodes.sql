-- The whole life of nodes, with what goes wrong in it.
CREATE EXTENSION spock_recovery;

-- A database that is no node yet.
SELECT node_name, is_local FROM spock.node;
SELECT count(*) FROM spock.local_node;
SELECT count(*) FROM spock_internal.node_identity();
SELECT spock.sub_set_origin('s', 'n2');

-- What cannot be a node.
SELECT spock.node_create('', 'dbname=x');
SELECT spock.node_create('a name of sixty bytes or more, which type name cuts without a word', 'dbname=x');
SELECT spock.node_create(E'n\t1', 'dbname=x');
SELECT spock.node_create(NULL, 'dbname=x');
SELECT spock.node_create('n1', NULL);
SELECT spock.node_create('n1', '');
SELECT spock.node_create('n1', 'host=h password=top secret');
SELECT spock.node_create('n1', 'postgresql://u:secret@[h');

-- The local node.
SELECT spock.node_create('n1', 'host=/nonexistent dbname=regress') IS NOT NULL AS created;
SELECT node_name, is_local FROM spock.node;
SELECT n.node_name, i.if_name, i.if_dsn
  FROM spock.local_node l JOIN spock.node n ON n.node_id = l.node_id
  JOIN spock.node_interface i ON i.if_id = l.node_local_interface;
SELECT node_name, system_identifier = (SELECT system_identifier::text FROM pg_control_system()) AS this_server,
       database = (SELECT oid FROM pg_database WHERE datname = current_database()) AS this_database, version <> '' AS has_version
  FROM spock_internal.node_identity();
SELECT spock.node_create('n1', 'dbname=x');
SELECT spock.node_create('n2', 'dbname=x');

-- Peers.
SELECT spock.peer_create('n2', 'host=/nonexistent dbname=regress') IS NOT NULL AS created;
SELECT spock.peer_create('o''hara "x"', 'host=/nonexistent dbname=regress') IS NOT NULL AS created;
SELECT spock.peer_create('n2', 'dbname=x');
SELECT spock.peer_create('n1', 'dbname=x');
SELECT spock.peer_create('n3', 'no_such_keyword=1');
SELECT spock.peer_create(NULL, 'dbname=x');
CREATE FOREIGN DATA WRAPPER other;
CREATE SERVER taken FOREIGN DATA WRAPPER other;
SELECT spock.peer_create('taken', 'dbname=x');
DROP FOREIGN DATA WRAPPER other CASCADE;
SELECT node_name, is_local FROM spock.node ORDER BY node_name;
SELECT if_name, if_dsn FROM spock.node_interface ORDER BY if_name;

-- Nodes are made by functions; what comes by other ways is checked all the same.
CREATE SERVER n4 FOREIGN DATA WRAPPER spock_node OPTIONS (host 'h');
CREATE SERVER n4 FOREIGN DATA WRAPPER spock_node OPTIONS (database 'five');
ALTER USER MAPPING FOR PUBLIC SERVER n2 OPTIONS (SET dsn 'password=top secret');
ALTER FOREIGN DATA WRAPPER spock_node OPTIONS (ADD x '1');

-- Where a subscription comes from.
CREATE SUBSCRIPTION "Sub" CONNECTION 'host=/nonexistent' PUBLICATION p WITH (connect = false);
SELECT sub_name, sub_origin IS NULL AS unknown, sub_enabled, sub_slot_name FROM spock.subscription;
SELECT spock.sub_set_origin('sub', 'n2');
SELECT spock.sub_set_origin('Sub', 'n9');
SELECT spock.sub_set_origin('Sub', 'n1');
SELECT spock.sub_set_origin('Sub', NULL);
SELECT spock.sub_set_origin('Sub', 'n2');
SELECT s.sub_name, o.node_name AS origin, t.node_name AS target
  FROM spock.subscription s JOIN spock.node o ON o.node_id = s.sub_origin JOIN spock.node t ON t.node_id = s.sub_target;
SELECT if_name FROM spock.node_interface ORDER BY if_name;

-- The label is ours.
SELECT objtype, objname, label::jsonb - 'system_identifier' - 'database' - 'connection' AS label FROM pg_seclabels
 WHERE provider = 'spock_recovery' AND objtype = 'subscription';
SECURITY LABEL FOR spock_recovery ON SUBSCRIPTION "Sub" IS 'n2';
SECURITY LABEL FOR spock_recovery ON SUBSCRIPTION "Sub" IS '{"version": 2, "system_identifier": 1, "database": 1, "origin": "n2", "set_by": "user"}';
SECURITY LABEL FOR spock_recovery ON SCHEMA public IS '{}';

-- What a role that is no superuser may do.
CREATE ROLE regress_nobody;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA spock, spock_internal TO regress_nobody;
SET ROLE regress_nobody;
SELECT spock.node_create('n5', 'dbname=x');
SELECT spock.peer_create('n5', 'dbname=x');
SELECT spock.node_drop('n1');
SELECT spock.sub_set_origin('Sub', 'n2');
SELECT node_name, is_local FROM spock.node ORDER BY node_name;
SELECT if_name, if_dsn FROM spock.node_interface ORDER BY if_name;
SELECT node_name FROM spock_internal.node_identity();
RESET ROLE;
DROP OWNED BY regress_nobody;
DROP ROLE regress_nobody;

-- The end.
SELECT spock.node_drop('n9');
SELECT spock.node_drop('n9', ifexists := true);
SELECT spock.node_drop(NULL);
SELECT spock.node_drop('n2');
DROP EXTENSION spock_recovery;
ALTER SUBSCRIPTION "Sub" DISABLE; ALTER SUBSCRIPTION "Sub" SET (slot_name = NONE); DROP SUBSCRIPTION "Sub";
SELECT spock.node_drop('n2');
BEGIN;
SELECT spock.node_drop('n1');
SELECT node_name FROM spock.node;
ROLLBACK;
SELECT node_name, is_local FROM spock.node ORDER BY node_name;

-- A copy of a node: n1 was created on another server.
ALTER SERVER n1 OPTIONS (SET system_identifier '1');
SELECT node_name, is_local FROM spock.node ORDER BY node_name;
SELECT count(*) FROM spock_internal.node_identity();
SELECT spock.node_create('n7', 'dbname=x');
SELECT spock.node_create('n1', 'host=/elsewhere dbname=regress') IS NOT NULL AS adopted;
SELECT node_name FROM spock_internal.node_identity();
SELECT if_name, if_dsn FROM spock.node_interface ORDER BY if_name;
SELECT spock.node_drop('n1');
SELECT count(*) FROM spock.node;
DROP EXTENSION spock_recovery;
