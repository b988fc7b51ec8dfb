-- The procedures of a recovery: what they refuse where one server is all there is, with SQLSTATE and the next command.
\set SHOW_CONTEXT never
CREATE EXTENSION spock_recovery;

-- A database that is no node.
CALL spock.recover_run('n1'); \echo :SQLSTATE
CALL spock.recover_failed_node('n1'); \echo :SQLSTATE
CALL spock.recover_precheck('n1'); \echo :SQLSTATE
CALL spock.recover_phase_clone('n1', 'n3', 'dbname=x', 'n2', 'dbname=x'); \echo :SQLSTATE
CALL spock.recover_finalize('dbname=x', 'n2', 'n1', 'dbname=x', 'clone'); \echo :SQLSTATE
CALL spock.recover_abort('n1'); \echo :SQLSTATE

-- n2 knows n1, which is lost, and n3, which does not answer.
SELECT spock.node_create('n2', 'host=/nonexistent dbname=regress') IS NOT NULL AS created;
SELECT spock.peer_create('n1', 'host=/nonexistent') IS NOT NULL AND spock.peer_create('n3', 'host=/nonexistent') IS NOT NULL AS created;

-- What pollers say first is said from then on.
DO $$
BEGIN
    FOR i IN 1 .. 1000 LOOP
        EXIT WHEN (SELECT count(*) FROM spock.peer_status() WHERE state = 'unreachable') = 2;
        PERFORM pg_sleep(0.02);
    END LOOP;
END
$$;

-- NULL where a node must be named.
CALL spock.recover_run(NULL); \echo :SQLSTATE
CALL spock.recover_failed_node(NULL); \echo :SQLSTATE
CALL spock.recover_precheck(NULL); \echo :SQLSTATE
CALL spock.recover_phase_clone(NULL, 'n3', NULL, 'n2', NULL); \echo :SQLSTATE
CALL spock.recover_finalize(NULL, NULL, 'n1', NULL, 'clone'); \echo :SQLSTATE
CALL spock.recover_finalize(NULL, 'n2', NULL, NULL, 'clone'); \echo :SQLSTATE
CALL spock.recover_finalize(NULL, 'n2', 'n1', NULL, NULL); \echo :SQLSTATE
CALL spock.recover_abort(NULL); \echo :SQLSTATE

-- Nodes that nobody knows, and names that no node can have.
CALL spock.recover_run('n9'); \echo :SQLSTATE
CALL spock.recover_run('n1', source_node_name := 'n9'); \echo :SQLSTATE
CALL spock.recover_run('n1', target_node_name := 'n9'); \echo :SQLSTATE
CALL spock.recover_run(''); \echo :SQLSTATE
CALL spock.recover_run(repeat('n', 100)); \echo :SQLSTATE
CALL spock.recover_failed_node('n9'); \echo :SQLSTATE
CALL spock.recover_precheck('n9'); \echo :SQLSTATE
CALL spock.recover_phase_clone('n1', 'n9', NULL, 'n2', NULL); \echo :SQLSTATE
CALL spock.recover_finalize(NULL, 'n9', 'n1', NULL, 'clone'); \echo :SQLSTATE
CALL spock.recover_finalize(NULL, 'n2', 'n1', NULL, 'clone'); \echo :SQLSTATE
CALL spock.recover_abort('n9'); \echo :SQLSTATE
CALL spock.recover_abort('n1'); \echo :SQLSTATE
CALL spock.recover_abort('n1', 'n9'); \echo :SQLSTATE

-- One node in two parts.
CALL spock.recover_run('n2'); \echo :SQLSTATE
CALL spock.recover_run('n1', source_node_name := 'n2', target_node_name := 'n2'); \echo :SQLSTATE
CALL spock.recover_run('n1', source_node_name := 'n1'); \echo :SQLSTATE
CALL spock.recover_run('n1', target_node_name := 'n1'); \echo :SQLSTATE
CALL spock.recover_failed_node('n2'); \echo :SQLSTATE
CALL spock.recover_precheck('n1', 'n3', NULL, 'n1'); \echo :SQLSTATE
CALL spock.recover_phase_clone('n1', 'n2', NULL, 'n2', NULL); \echo :SQLSTATE

-- Connection strings: no syntax, nobody there, and another database than the one that is named. None is repeated.
CALL spock.recover_run('n1', 'n3', 'password=top secret', 'n2'); \echo :SQLSTATE
CALL spock.recover_run('n1', 'n3', 'host=/nonexistent password=secret', 'n2'); \echo :SQLSTATE
CALL spock.recover_run('n1', 'n2', NULL, 'n3', 'host=/nonexistent password=secret'); \echo :SQLSTATE
CALL spock.recover_finalize('host=/nonexistent password=secret', 'n3', 'n1', NULL, 'clone'); \echo :SQLSTATE
SELECT format('host=%s port=%s dbname=postgres user=postgres password=secret', split_part(current_setting('unix_socket_directories'), ',', 1),
              current_setting('port')) AS elsewhere \gset
CALL spock.recover_run('n1', 'n3', :'elsewhere', 'n2'); \echo :SQLSTATE
CALL spock.recover_run('n1', NULL, :'elsewhere'); \echo :SQLSTATE
CALL spock.recover_run('n1', NULL, 'password=top secret'); \echo :SQLSTATE
CALL spock.recover_run('n1', target_dsn := 'host=/nonexistent password=secret'); \echo :SQLSTATE
CALL spock.recover_finalize('password=top secret', 'n3', 'n1', NULL, 'clone'); \echo :SQLSTATE
CALL spock.recover_finalize(:'elsewhere', 'n3', 'n1', NULL, 'clone'); \echo :SQLSTATE

-- Positions and times are of their types.
CALL spock.recover_run('n1', stop_lsn := 'first'); \echo :SQLSTATE
CALL spock.recover_run('n1', skip_lsn := '1/G'); \echo :SQLSTATE
CALL spock.recover_run('n1', stop_timestamp := 'soon'); \echo :SQLSTATE
CALL spock.recover_run(failed_node := 'n1'); \echo :SQLSTATE

-- There is nothing that could be recovered.
CALL spock.recover_run('n1'); \echo :SQLSTATE
CALL spock.recover_run('n1', verb := NULL); \echo :SQLSTATE
CALL spock.recover_precheck('n1', verb := true); \echo :SQLSTATE
CALL spock.recover_precheck('n1', target_node_name := 'n3'); \echo :SQLSTATE
CALL spock.recover_phase_clone('n1', NULL, NULL, NULL, NULL); \echo :SQLSTATE
SET client_min_messages = warning;
DO $$
DECLARE
    report jsonb;
BEGIN
    CALL spock.recover_failed_node('n1', report => report);
    RAISE WARNING '%', report - 'seconds';
END
$$; \echo :SQLSTATE
RESET client_min_messages;

-- What commits is called by itself.
BEGIN; CALL spock.recover_run('n1'); \echo :SQLSTATE
ROLLBACK;
BEGIN; CALL spock.recover_failed_node('n1'); \echo :SQLSTATE
ROLLBACK;
BEGIN; CALL spock.recover_phase_clone('n1', 'n3', NULL, 'n2', NULL); \echo :SQLSTATE
ROLLBACK;
BEGIN; CALL spock.recover_finalize(NULL, 'n2', 'n1', NULL, 'clone'); \echo :SQLSTATE
ROLLBACK;
BEGIN; CALL spock.recover_abort('n1'); \echo :SQLSTATE
ROLLBACK;
-- A precheck changes nothing, and the caller's search_path neither.
SET search_path = public;
BEGIN; CALL spock.recover_precheck('n9'); \echo :SQLSTATE
ROLLBACK;
SHOW search_path;

-- A role without rights.
CREATE ROLE alice IN ROLE pg_monitor;
SET ROLE alice;
CALL spock.recover_run('n1'); \echo :SQLSTATE
CALL spock.recover_failed_node('n1'); \echo :SQLSTATE
CALL spock.recover_precheck('n1'); \echo :SQLSTATE
CALL spock.recover_phase_clone('n1', 'n3', NULL, 'n2', NULL); \echo :SQLSTATE
CALL spock.recover_finalize(NULL, 'n2', 'n1', NULL, 'clone'); \echo :SQLSTATE
CALL spock.recover_abort('n1'); \echo :SQLSTATE
RESET ROLE;
-- What was granted by hand does not make a superuser.
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA spock, spock_internal TO alice;
SET ROLE alice;
CALL spock.recover_run('n1'); \echo :SQLSTATE
CALL spock.recover_failed_node('n1'); \echo :SQLSTATE
CALL spock.recover_precheck('n1'); \echo :SQLSTATE
CALL spock.recover_phase_clone('n1', 'n3', NULL, 'n2', NULL); \echo :SQLSTATE
CALL spock.recover_finalize(NULL, 'n2', 'n1', NULL, 'clone'); \echo :SQLSTATE
CALL spock.recover_abort('n1'); \echo :SQLSTATE
RESET ROLE;
DROP OWNED BY alice;
DROP ROLE alice;

-- None of all that has begun anything.
SELECT count(*) FROM spock.recovery_intents();
SELECT count(*) FROM pg_user_mapping WHERE umuser <> 0;
SELECT spock.node_drop('n1'), spock.node_drop('n3'), spock.node_drop('n2');
DROP EXTENSION spock_recovery;
