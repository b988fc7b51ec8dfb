//! Tests that need one backend and no other server, run by tests/pg_tests.rs inside a real one, each in a transaction
//! that is rolled back.
#![allow(unsafe_code)] // pg_test generates the C entry points

mod ranges;

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

    const CONNECTION_LIMIT: std::time::Duration = std::time::Duration::from_secs(2);

    /// A connection to this database, in another backend.
    pub fn connection_to_this_server() -> crate::remote::connection::Connection {
        use crate::node::dsn::Dsn;
        use crate::node::provider::Route;
        let place = "SELECT format('host=%s port=%s dbname=%s user=%s', split_part(current_setting('unix_socket_directories'), ',', 1),
                            current_setting('port'), current_database(), current_user)";
        let conninfo = Spi::get_one::<String>(place).ok().flatten().expect("a place");
        let route = Route {
            dsn: Dsn::parse(&std::ffi::CString::new(conninfo).expect("no NUL")).expect("a place"),
            must_use_password: false,
        };
        crate::remote::connection::Connection::open(&route, "test", CONNECTION_LIMIT).expect("connected")
    }

    #[pg_test]
    fn node_create_makes_this_database_the_local_node() {
        Spi::run("SELECT spock.node_create('n1', 'dbname=postgres')").expect("created");
        assert!(exists("SELECT FROM spock.node WHERE node_name = 'n1' AND is_local"));
        assert!(exists(
            "SELECT FROM spock.local_node JOIN spock.node_interface ON if_id = node_local_interface WHERE if_dsn = 'dbname=postgres'"
        ));
        assert!(exists("SELECT FROM spock_internal.node_identity() WHERE node_name = 'n1'"));
    }

    #[pg_test]
    fn a_database_without_a_local_node_has_no_identity() {
        assert!(!exists("SELECT FROM spock.local_node"));
        assert!(!exists("SELECT FROM spock_internal.node_identity()"));
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
    fn a_connection_is_closed_when_a_question_was_not_answered_in_time() {
        use crate::remote::error::RemoteError;
        use std::time::Duration;
        let limit = CONNECTION_LIMIT;
        let mut connection = connection_to_this_server();
        // What may take longer is given up there, and leaves the connection, and its settings, as they were.
        let given_up = connection.query_within(Duration::from_millis(50), "SELECT pg_sleep(600)", 1);
        assert!(matches!(&given_up, Err(RemoteError::Peer { sqlstate, .. }) if sqlstate == "57014"), "{given_up:?}");
        let shown = connection.query("SHOW statement_timeout", 1).expect("it answers");
        assert_eq!(shown.first().map(|row| row.value::<String>(0)), Some(Ok("0".to_owned())));
        // Nothing there gives this one up.
        assert_eq!(connection.command("SELECT pg_sleep(600)"), Err(RemoteError::TimedOut(limit)));
        for _ in 0..2 {
            let after = connection.query("SELECT 1", 1);
            assert!(matches!(&after, Err(RemoteError::Lost(why)) if why.contains("closed")), "{after:?}");
        }
    }

    #[pg_test]
    fn an_answer_about_rows_is_whole_or_says_how_many_rows_would_be() {
        Spi::run(
            "CREATE TABLE large (id int PRIMARY KEY, v text);
             INSERT INTO large SELECT g, repeat('x', 1 << 20) FROM generate_series(1, 8) g WHERE g <> 2",
        )
        .expect("made");
        let ask = |keys: &str, asked: &str| {
            let question = format!(
                r#"{{"schema":"public","name":"large","columns":["id","v"],"key":[0],"keys":[{keys}],"asked":{asked}}}"#
            );
            Spi::get_one_with_args::<String>("SELECT spock_internal.touched_rows($1)", &[question.into()])
                .ok()
                .flatten()
        };
        let all = r#"["1"],["2"],["3"],["4"],["5"],["6"],["7"],["8"]"#;
        for asked in [r#""rows""#, r#""whole_rows""#, r#"{"sums":{"origin":null}}"#] {
            assert_eq!(ask(all, asked).as_deref(), Some(r#"{"too_much":{"fit":3}}"#), "{asked}");
        }
        // A whole answer that does not tell of a key: it has no row.
        let some = ask(r#"["1"],["2"],["3"]"#, r#""rows""#).expect("an answer");
        assert_eq!(["1", "2", "3"].map(|id| some.contains(&format!(r#""values":["{id}","#))), [true, false, true]);
        assert_eq!(ask(r#"["2"]"#, r#""rows""#).as_deref(), Some(r#"{"rows":[]}"#));
        let digest =
            Spi::get_one::<String>("SELECT encode(sha256(convert_to(v, 'UTF8')), 'hex') FROM large WHERE id = 1");
        let hashed = format!(r#"{{"bytes":1048576,"sha256":"{}"}}"#, digest.ok().flatten().expect("a hash"));
        assert!(some.contains(&hashed) && some.len() < 1000, "{some}");
        // One key is answered, however large its row is.
        Spi::run("UPDATE large SET v = repeat(v, 6) WHERE id = 1").expect("longer");
        assert_eq!(ask(r#"["1"],["2"]"#, r#""rows""#).as_deref(), Some(r#"{"too_much":{"fit":0}}"#));
        assert!(ask(r#"["1"]"#, r#""rows""#).is_some_and(|answer| answer.len() < 1000));
        assert!(ask(r#"["1"]"#, r#""whole_rows""#).is_some_and(|answer| answer.len() > 6 << 20));
    }

    #[pg_test]
    fn a_record_is_read_from_its_place_on_a_shelf() {
        use crate::pg::spill::Shelf;
        let mut shelf = Shelf::default();
        let record = |number: usize| vec![number as u8; number * 1000];
        let mut places: Vec<_> = (0..20).map(|number| shelf.put(&record(number))).collect();
        assert_eq!(shelf.get(places[7]), record(7));
        places.push(shelf.put(&record(20)));
        for (number, place) in places.into_iter().enumerate().rev() {
            assert_eq!(shelf.get(place), record(number), "{number}");
        }
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
