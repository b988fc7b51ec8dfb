//! Defaults that roles and databases have been given are for their users' sessions: nothing of ours depends on them.

use super::{mesh_of, write};
use crate::cluster::{Node, SqlError, wait_for};
use crate::rescue::{assert_identical, drain, hold_back};

/// Each would stop or mislead a session that takes it over.
const DEFAULTS: [(&str, &str); 17] = [
    ("role", "'nobody'"),
    ("search_path", "evil, public"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("lock_timeout", "'1ms'"),
    ("idle_in_transaction_session_timeout", "'1ms'"),
    ("transaction_timeout", "'300ms'"),
    ("statement_timeout", "'1min'"),
    ("exit_on_error", "on"),
    ("temp_file_limit", "'0'"),
    ("session_replication_role", "replica"),
    ("row_security", "off"),
    ("datestyle", "'German'"),
    ("intervalstyle", "'iso_8601'"),
    ("timezone", "'Asia/Kolkata'"),
    ("bytea_output", "'escape'"),
];

/// Functions that a name without its schema would find first.
const EVIL: &str = "
    CREATE ROLE nobody; CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;
    CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'an evil function was called'; END $$;
    CREATE FUNCTION evil.quote_ident(name) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'an evil function was called'; END $$;
    CREATE FUNCTION evil.equal(name, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'an evil operator was called'; END $$;
    CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = text, PROCEDURE = evil.equal)";

/// A person's session that has put the defaults right for itself.
fn as_a_person(node: &Node, statement: &str) -> Result<String, SqlError> {
    let mut session = node.session();
    session.sql("SET ROLE NONE; SET default_transaction_read_only = off; SET transaction_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = 0");
    session.sql("SET default_transaction_isolation = 'read committed'; SET search_path = public");
    session.try_sql(statement).map(|rows| format!("{rows:?}"))
}

#[test]
fn defaults_of_roles_and_databases_neither_stop_nor_mislead_a_recovery() {
    let cluster = mesh_of("recover_settings", 3);
    let [n1, n2, n3] = cluster.all();
    for node in [n2, n3] {
        drain(n1, node);
    }
    hold_back(n2);
    write(n1, 1, 40);
    drain(n1, n3);
    n1.kill9();
    for node in [n2, n3] {
        node.sql(EVIL);
        for (name, value) in DEFAULTS {
            node.sql(&format!(
                "SET ROLE NONE; SET default_transaction_read_only = off; ALTER DATABASE postgres SET {name} = {value}"
            ));
        }
        // Whatever is connected takes them over only when it connects anew.
        node.restart();
    }
    for node in [n2, n3] {
        wait_for("the other survivor to answer", || {
            as_a_person(node, "SELECT count(*) FROM spock.peer_status() WHERE state = 'connected'")
                .is_ok_and(|rows| rows.contains('1'))
        });
    }
    as_a_person(n2, "CALL spock.recover_run('n1')").unwrap_or_else(|error| panic!("{error}"));
    for node in [n2, n3] {
        assert!(!node.log().contains("evil"), "{}", node.log());
        as_a_person(node, "ALTER DATABASE postgres RESET ALL").unwrap_or_else(|error| panic!("{error}"));
    }
    assert_eq!(n2.value("SELECT count(*), count(DISTINCT id) FROM t WHERE id <= 40"), "40|40");
    assert_identical(n2, n3);
}
