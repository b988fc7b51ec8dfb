//! Tests that need one backend and no other server, run by tests/pg_tests.rs inside a real one, each in a transaction
//! that is rolled back.
#![allow(unsafe_code)] // pg_test generates the C entry points

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    /// The SQLSTATE with which a command fails.
    fn sqlstate_of(command: &str) -> PgSqlErrorCode {
        crate::pg::interrupts::catch(|| Spi::run(command)).expect_err("the command must fail").sql_error_code()
    }

    fn exists(query: &str) -> bool {
        Spi::get_one::<bool>(&format!("SELECT EXISTS ({query})")).expect("a query").unwrap_or(false)
    }

    #[pg_test]
    fn node_create_makes_this_database_the_local_node() {
        Spi::run("SELECT spock.node_create('n1', 'dbname=postgres')").expect("created");
        assert!(exists("SELECT FROM spock.node WHERE node_name = 'n1' AND is_local"));
        assert!(exists(
            "SELECT FROM spock.local_node JOIN spock.node_interface ON if_id = node_local_interface WHERE if_dsn = 'dbname=postgres'"
        ));
        assert!(exists("SELECT FROM spock.node_identity() WHERE node_name = 'n1'"));
    }

    #[pg_test]
    fn a_database_without_a_local_node_has_no_identity() {
        assert!(!exists("SELECT FROM spock.local_node"));
        assert!(!exists("SELECT FROM spock.node_identity()"));
    }

    #[pg_test]
    fn a_local_node_of_another_server_is_inert_until_it_is_created_here() {
        Spi::run("CREATE SERVER n1 FOREIGN DATA WRAPPER spock_node OPTIONS (system_identifier '1', database '1')")
            .expect("restored");
        assert!(!exists("SELECT FROM spock.local_node"));
        assert_eq!(
            sqlstate_of("SELECT spock.node_create('n4', 'dbname=x')"),
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
        );
        Spi::run("SELECT spock.node_create('n1', 'dbname=x')").expect("adopted");
        assert!(exists("SELECT FROM spock.local_node"));
    }

    #[pg_test]
    fn a_second_local_node_is_refused() {
        Spi::run("SELECT spock.node_create('n1', 'dbname=x')").expect("created");
        assert_eq!(sqlstate_of("SELECT spock.node_create('n2', 'dbname=x')"), PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT);
        assert!(!exists("SELECT FROM spock.node WHERE node_name = 'n2'"));
    }

    #[pg_test]
    fn dropping_the_local_node_drops_its_peers() {
        Spi::run("SELECT spock.node_create('n1', 'dbname=x'), spock.peer_create('n2', 'dbname=y')").expect("created");
        assert_eq!(Spi::get_one::<bool>("SELECT spock.node_drop('n1')"), Ok(Some(true)));
        assert!(!exists("SELECT FROM spock.node"));
    }

    #[pg_test]
    fn no_message_repeats_a_connection_string() {
        let error =
            crate::pg::interrupts::catch(|| Spi::run("SELECT spock.node_create('n1', 'host=h password=top secret')"))
                .expect_err("a malformed string");
        assert_eq!(error.sql_error_code(), PgSqlErrorCode::ERRCODE_SYNTAX_ERROR);
        assert!(!error.message().contains("secret"), "{}", error.message());
    }

    #[pg_test]
    fn a_time_limit_cancels_what_waits_and_nothing_else() {
        use crate::pg::timeout::{TimedOut, with_limit};
        use std::time::Duration;
        let slept = with_limit(Duration::from_millis(50), || Spi::run("SELECT pg_sleep(600)"));
        assert!(matches!(slept, Err(TimedOut)));
        let quick = with_limit(Duration::from_secs(600), || Spi::get_one::<i32>("SELECT 42"));
        assert!(matches!(quick, Ok(Ok(Some(42)))));
    }

    #[pg_test]
    fn sqlstates_of_bad_input() {
        Spi::run("CREATE FOREIGN DATA WRAPPER other; CREATE SERVER taken FOREIGN DATA WRAPPER other").expect("created");
        for (command, expected) in [
            ("SELECT spock.node_create('', 'dbname=x')", PgSqlErrorCode::ERRCODE_INVALID_NAME),
            ("SELECT spock.node_create(repeat('x', 60)::name, 'dbname=x')", PgSqlErrorCode::ERRCODE_NAME_TOO_LONG),
            ("SELECT spock.node_create(NULL, 'dbname=x')", PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED),
            ("SELECT spock.node_create('n1', '')", PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE),
            ("SELECT spock.node_create('taken', 'dbname=x')", PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT),
            ("SELECT spock.node_drop('nobody')", PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT),
            ("SELECT spock.sub_set_origin('nobody', 'n1')", PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
        ] {
            assert_eq!(sqlstate_of(command), expected, "{command}");
        }
    }
}
