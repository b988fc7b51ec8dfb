-- What recoveries are made of: the functions on a target, what is told of recoveries, and what is decided of them.
\set SHOW_CONTEXT never
CREATE EXTENSION spock_recovery;

-- A database that is no node.
SELECT spock.create_rescue_subscription('n2', 'n3', 'clone', failed_node := 'n1'); \echo :SQLSTATE
SELECT spock_internal.begin_recovery('n1', 'n3', 'n2'); \echo :SQLSTATE
SELECT spock_internal.begin_recovery_at(NULL, 'n1', 'n3', 'n2', NULL, NULL, NULL, NULL); \echo :SQLSTATE
SELECT spock.recover_skip('n1', '0/16B3748'); \echo :SQLSTATE
SELECT spock_internal.ask_to_abort('n1'); \echo :SQLSTATE
SELECT spock_internal.abort_recovery_at(NULL, 'n2', 'n1'); \echo :SQLSTATE
SELECT spock_internal.recovery_state_at(NULL, 'n2'); \echo :SQLSTATE
SELECT spock_internal.retry_recovery_at(NULL, 'n2'); \echo :SQLSTATE
SELECT spock_internal.recovery_state(), spock_internal.retry_recovery();
SELECT count(*) FROM spock.recover_status();
SELECT count(*) FROM spock.recovery_intents();
SELECT count(*) FROM spock.recovery_progress;

SELECT spock.node_create('n2', 'host=/nonexistent dbname=regress') IS NOT NULL AS created;
SELECT spock.peer_create('n1', 'host=/nonexistent') IS NOT NULL AND spock.peer_create('n3', 'host=/nonexistent') IS NOT NULL AS created;

-- NULL where something must be said.
SELECT spock.create_rescue_subscription(NULL, 'n3', 'clone'); \echo :SQLSTATE
SELECT spock.create_rescue_subscription('n2', NULL, 'clone'); \echo :SQLSTATE
SELECT spock.create_rescue_subscription('n2', 'n3', NULL); \echo :SQLSTATE
SELECT spock_internal.begin_recovery(NULL, 'n3', 'n2'); \echo :SQLSTATE
SELECT spock_internal.begin_recovery_at(NULL, 'n1', NULL, 'n2', NULL, NULL, NULL, NULL); \echo :SQLSTATE
SELECT spock.recover_skip(NULL, '0/16B3748'); \echo :SQLSTATE
SELECT spock.recover_skip('n1', NULL); \echo :SQLSTATE
SELECT spock_internal.ask_to_abort(NULL); \echo :SQLSTATE
SELECT spock_internal.abort_recovery_at(NULL, NULL, 'n1'); \echo :SQLSTATE
SELECT spock_internal.recovery_state_at(NULL, NULL); \echo :SQLSTATE
SELECT spock_internal.retry_recovery_at(NULL, NULL); \echo :SQLSTATE
SELECT spock_internal.recovery_state(NULL, NULL) IS NULL AS none, spock_internal.recovery_is_open(NULL), spock_internal.is_suspended(NULL),
       spock_internal.subscription_origin(NULL), spock_internal.pause_watching(NULL, NULL, NULL);
SELECT spock_internal.counted(0, 'row'), spock_internal.counted(1, 'row'), spock_internal.counted(2, 'row'), spock_internal.counted(NULL, 'row');

-- Who is who.
SELECT spock.create_rescue_subscription('n9', 'n3', 'clone', failed_node := 'n1'); \echo :SQLSTATE
SELECT spock.create_rescue_subscription('n3', 'n2', 'clone', failed_node := 'n1'); \echo :SQLSTATE
SELECT spock.create_rescue_subscription('n2', 'n2', 'clone', failed_node := 'n1'); \echo :SQLSTATE
SELECT spock.create_rescue_subscription('n2', 'n9', 'clone', failed_node := 'n1'); \echo :SQLSTATE
SELECT spock.create_rescue_subscription('n2', 'n1', 'clone', failed_node := 'n1'); \echo :SQLSTATE
SELECT spock.create_rescue_subscription('n2', 'n3', 'clone', failed_node := 'n2'); \echo :SQLSTATE
SELECT spock.create_rescue_subscription('n2', 'n3', 'clone', failed_node := 'n9'); \echo :SQLSTATE
SELECT spock.create_rescue_subscription('n2', 'n3', 'clone', failed_node := 'n1'); \echo :SQLSTATE
SELECT spock_internal.begin_recovery('n1', 'n3', 'n3'); \echo :SQLSTATE
SELECT spock_internal.begin_recovery('n9', 'n3', 'n2'); \echo :SQLSTATE
SELECT spock_internal.begin_recovery('n2', 'n3', 'n2'); \echo :SQLSTATE

-- A range that is none is refused before anybody is asked.
SELECT spock.create_rescue_subscription('n2', 'n3', 'clone', '0/2', '0/1', failed_node := 'n1'); \echo :SQLSTATE
SELECT spock_internal.begin_recovery('n1', 'n3', 'n2', skip_lsn := '0/2', stop_lsn := '0/1'); \echo :SQLSTATE
SELECT spock.create_rescue_subscription('n2', 'n3', 'clone', skip_lsn := 'x'); \echo :SQLSTATE
SELECT spock.create_rescue_subscription('n2', 'n3', 'clone', stop_timestamp := 'x'); \echo :SQLSTATE

-- Where no recovery runs.
SELECT spock.recover_skip('n1', '0/16B3748'); \echo :SQLSTATE
SELECT spock.recover_skip('n1', '16B3748'); \echo :SQLSTATE
SELECT spock_internal.ask_to_abort('n1'); \echo :SQLSTATE
SELECT spock_internal.abort_recovery_at(NULL, 'n2', 'n1'); \echo :SQLSTATE
SELECT spock_internal.recovery_state(), spock_internal.recovery_state('11111111-1111-4111-8111-111111111111'), spock_internal.recovery_state(clone := 'c'),
       spock_internal.recovery_is_open('11111111-1111-4111-8111-111111111111'), spock_internal.is_suspended(1), spock_internal.subscription_origin(1);
SELECT spock_internal.recovery_state('no id'); \echo :SQLSTATE
SELECT * FROM spock.recover_status();
SELECT * FROM spock.recovery_progress;
SELECT * FROM spock.recovery_intents();
SELECT * FROM spock_internal.rescue_subscriptions();
SELECT * FROM spock.recovery_conflicts('11111111-1111-4111-8111-111111111111'); \echo :SQLSTATE
SELECT * FROM spock.recovery_conflicts(NULL); \echo :SQLSTATE
SELECT * FROM spock.recovery_unjudged('11111111-1111-4111-8111-111111111111'); \echo :SQLSTATE
SELECT * FROM spock.recovery_unjudged(NULL); \echo :SQLSTATE
BEGIN; SELECT spock_internal.require_caller('recover_run', 'n1'); \echo :SQLSTATE
ROLLBACK;
BEGIN; SELECT spock_internal.require_caller('recover_precheck', 'n1', commits := false); \echo :SQLSTATE
ROLLBACK;
SELECT spock_internal.refuse_recovery('n1', 'n2', 'reason', 'Finding.', 'Advice.'); \echo :SQLSTATE

-- What is done for another node's recovery.
SELECT spock_internal.release_clone('clone', '11111111-1111-4111-8111-111111111111'); \echo :SQLSTATE
SELECT spock_internal.release_clone(NULL, NULL); \echo :SQLSTATE
SELECT * FROM spock_internal.clone_for_recovery('11111111-1111-4111-8111-111111111111', 0, 'n1', 'n9'); \echo :SQLSTATE
SELECT * FROM spock_internal.clone_for_recovery(NULL, NULL, NULL, NULL); \echo :SQLSTATE

-- Who may: pg_monitor reads, superusers alone decide, whatever was granted to others.
CREATE ROLE alice;
CREATE ROLE watcher IN ROLE pg_monitor;
SET ROLE watcher;
SELECT spock_internal.recovery_state() IS NULL AS none, (SELECT count(*) FROM spock.recover_status()) AS phases,
       (SELECT count(*) FROM spock.recovery_intents()) AS intents, (SELECT count(*) FROM spock.recovery_progress) AS running;
SELECT spock.create_rescue_subscription('n2', 'n3', 'clone'); \echo :SQLSTATE
SELECT spock_internal.begin_recovery('n1', 'n3', 'n2'); \echo :SQLSTATE
SELECT spock.recover_skip('n1', '0/1'); \echo :SQLSTATE
RESET ROLE;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA spock, spock_internal TO alice;
SET ROLE alice;
SELECT spock_internal.recovery_state(); \echo :SQLSTATE
SELECT * FROM spock.recover_status(); \echo :SQLSTATE
SELECT * FROM spock.recovery_intents(); \echo :SQLSTATE
SELECT * FROM spock.recovery_progress; \echo :SQLSTATE
SELECT spock.create_rescue_subscription('n2', 'n3', 'clone'); \echo :SQLSTATE
SELECT spock_internal.begin_recovery('n1', 'n3', 'n2'); \echo :SQLSTATE
SELECT spock_internal.begin_recovery_at(NULL, 'n1', 'n3', 'n2', NULL, NULL, NULL, NULL); \echo :SQLSTATE
SELECT spock.recover_skip('n1', '0/1'); \echo :SQLSTATE
SELECT spock_internal.ask_to_abort('n1'); \echo :SQLSTATE
SELECT spock_internal.abort_recovery_at('host=/nonexistent', 'n3', 'n1'); \echo :SQLSTATE
SELECT spock_internal.recovery_state_at('host=/nonexistent', 'n3'); \echo :SQLSTATE
SELECT spock_internal.retry_recovery_at('host=/nonexistent', 'n3'); \echo :SQLSTATE
SELECT spock_internal.retry_recovery(); \echo :SQLSTATE
SELECT spock_internal.release_clone('clone', '11111111-1111-4111-8111-111111111111'); \echo :SQLSTATE
SELECT * FROM spock_internal.clone_for_recovery('11111111-1111-4111-8111-111111111111', 0, 'n1', 'n3'); \echo :SQLSTATE
RESET ROLE;
DROP OWNED BY alice;
DROP ROLE alice, watcher;

SELECT spock.node_drop('n1'), spock.node_drop('n3'), spock.node_drop('n2');
DROP EXTENSION spock_recovery;
