-- Plans without a second server: who may ask, what about, and what is said where there is nobody to ask.
CREATE EXTENSION spock_recovery;

SELECT * FROM spock.recover_plan('n1');
SELECT * FROM spock_internal.recovery_facts('n1');
SELECT spock.node_create('n2', 'dbname=regress host=/nonexistent') IS NOT NULL AS created;
SELECT * FROM spock.recover_plan('n1');
SELECT * FROM spock.recover_plan('n2');
SELECT * FROM spock.recover_plan(NULL);
SELECT * FROM spock.find_rescue_source('n1');
SELECT * FROM spock.find_rescue_source('n2');
SELECT * FROM spock.find_rescue_source(NULL);
SELECT * FROM spock_internal.recovery_facts(NULL);

-- A failed node that is known, and nobody but this one, which never subscribed to it.
SELECT spock.peer_create('n1', 'host=/nonexistent dbname=regress') IS NOT NULL AS created;
SELECT target_node, source_node, outcome, reason, target_lsn, source_lsn, released_lsn, gap_bytes,
       jsonb_pretty(plan) AS plan
  FROM spock.recover_plan('n1');
SELECT target_node, outcome, reason FROM spock.recover_plan('n1', 'n2');
SELECT * FROM spock.recover_plan('n1', 'n1');
SELECT * FROM spock.recover_plan('n1', 'n9');
SELECT origin_node_id IS NOT NULL AS known, source_node_name, confidence_level FROM spock.find_rescue_source('n1');
SELECT * FROM spock_internal.choose_recovery('n1', NULL, NULL, NULL, NULL);
SELECT * FROM spock_internal.choose_recovery('n1', 'n2', NULL, 'n2', NULL);
SELECT * FROM spock_internal.choose_recovery('n1', 'n1', NULL, NULL, NULL);
SELECT * FROM spock_internal.choose_recovery(NULL, NULL, NULL, NULL, NULL);
SELECT jsonb_object_keys(spock_internal.recovery_facts('n1')) AS facts ORDER BY 1;

CREATE ROLE regress_plan;
SET ROLE regress_plan;
SELECT * FROM spock.recover_plan('n1');
SELECT * FROM spock.find_rescue_source('n1');
SELECT * FROM spock_internal.recovery_facts('n1');
SELECT * FROM spock_internal.choose_recovery('n1', NULL, NULL, NULL, NULL);
RESET ROLE;

SELECT spock.node_drop('n1'), spock.node_drop('n2');
DROP EXTENSION spock_recovery CASCADE;
DROP ROLE regress_plan;
