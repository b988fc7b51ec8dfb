//! Who may see a connection string, and who may say which node a subscription comes from.

use super::{make_node, refused, start};
use crate::cluster::{Cluster, Database, Node};

/// Stands in every DSN of these tests and nowhere else.
const PASSWORD: &str = "sesame";

const MUTATORS: [(&str, &str); 4] = [
    ("node_create(name, text)", "node_create('n5', 'dbname=x')"),
    ("node_drop(name, boolean)", "node_drop('n1')"),
    ("peer_create(name, text)", "peer_create('n5', 'dbname=x')"),
    ("sub_set_origin(name, name)", "sub_set_origin('s', 'n9')"),
];

/// The database `app` of a role that is no superuser, with a node, a peer and a labelled subscription in it.
fn start_app(name: &str) -> Cluster {
    let cluster = start(Cluster::new(name));
    let [n1] = cluster.all();
    n1.sql("CREATE ROLE alice LOGIN");
    n1.sql("CREATE ROLE owner LOGIN IN ROLE pg_create_subscription");
    n1.sql("CREATE DATABASE app OWNER owner");
    let app = n1.db("app");
    make_node(app, &format!("{} password={PASSWORD}", n1.dsn("app")), "n1");
    app.sql(&format!("SELECT spock.peer_create('n9', 'host=/nonexistent password={PASSWORD}')"));
    app.role("owner").sql(&format!(
        "CREATE SUBSCRIPTION s CONNECTION 'host=/nonexistent password={PASSWORD}' PUBLICATION p WITH (connect = false)"
    ));
    app.sql("SELECT spock.sub_set_origin('s', 'n9')");
    cluster
}

/// Everything that is shown of connection strings, as the role sees it.
fn shown(database: Database<'_>) -> String {
    [
        "SELECT if_name, if_dsn FROM spock.node_interface",
        "SELECT srvname, umoptions FROM pg_user_mappings",
        "SELECT * FROM information_schema.user_mapping_options",
        "SELECT * FROM information_schema.foreign_server_options",
        "SELECT srvname, srvoptions FROM pg_foreign_server",
        "SELECT * FROM spock.node, spock.local_node, spock.subscription",
        "SELECT * FROM spock_internal.node_identity()",
        "SELECT * FROM pg_seclabels",
        "SELECT * FROM pg_shseclabel",
    ]
    .map(|query| database.value(query))
    .join("\n")
}

#[test]
fn nobody_but_a_superuser_reads_a_connection_string() {
    let cluster = start_app("registry_dsn");
    let [n1] = cluster.all();
    let app = n1.db("app");
    // What a superuser reads is there: the others are shown less, not nothing.
    assert_eq!(
        app.value("SELECT if_name, if_dsn LIKE '%sesame' FROM spock.node_interface ORDER BY 1"),
        "n1|t\nn9|t\ns|t"
    );
    for role in ["alice", "owner"] {
        let database = app.role(role);
        assert_eq!(database.value("SELECT if_name, if_dsn FROM spock.node_interface ORDER BY 1"), "n1|\nn9|\ns|");
        let shown = shown(database);
        assert!(shown.contains("n9") && !shown.contains(PASSWORD), "{role}: {shown}");
        refused(database, "SELECT * FROM pg_user_mapping", "42501", "");
        refused(database, "SELECT subconninfo FROM pg_subscription", "42501", "");
        refused(database, "SELECT * FROM spock.peer_status()", "42501", "");
    }
    // A predicate that tells what it sees is shown no more than its caller.
    app.role("owner").sql(
        "CREATE FUNCTION tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001
             AS $$ BEGIN RAISE WARNING 'told %', $1; RETURN true; END $$",
    );
    let mut session = app.role("owner").session();
    session.sql("SELECT * FROM spock.node_interface WHERE public.tell(if_dsn) AND public.tell(if_name)");
    let told = session.notices();
    assert!(!told.is_empty() && !told.iter().any(|message| message.contains(PASSWORD)), "{told:?}");
}

#[test]
fn nobody_but_a_superuser_changes_a_node() {
    let cluster = start_app("registry_functions");
    let [n1] = cluster.all();
    let app = n1.db("app");
    for role in ["alice", "owner"] {
        for (_, call) in MUTATORS {
            refused(app.role(role), &format!("SELECT spock.{call}"), "42501", "");
        }
    }
    for (function, _) in MUTATORS {
        app.sql(&format!("GRANT EXECUTE ON FUNCTION spock.{function} TO alice, owner"));
    }
    app.sql("GRANT USAGE ON FOREIGN DATA WRAPPER spock_node TO owner; GRANT USAGE ON FOREIGN SERVER n9 TO owner");
    for role in ["alice", "owner"] {
        for (_, call) in MUTATORS {
            let error = refused(app.role(role), &format!("SELECT spock.{call}"), "42501", "as a superuser");
            assert!(error.message.starts_with("permission denied for "), "{error}");
        }
    }
    let owner = app.role("owner");
    for statement in [
        "CREATE SERVER n5 FOREIGN DATA WRAPPER spock_node",
        "CREATE USER MAPPING FOR owner SERVER n9 OPTIONS (dsn 'host=evil')",
    ] {
        refused(owner, statement, "42501", "spock.node_create()");
    }
    for statement in [
        "CREATE USER MAPPING FOR PUBLIC SERVER n1 OPTIONS (dsn 'host=evil')",
        "ALTER USER MAPPING FOR PUBLIC SERVER n9 OPTIONS (SET dsn 'host=evil')",
        "DROP USER MAPPING FOR PUBLIC SERVER n9",
        "ALTER SERVER n9 OWNER TO owner",
        "DROP SERVER n9 CASCADE",
        "DROP EXTENSION spock_recovery CASCADE",
    ] {
        refused(owner, statement, "42501", "");
    }
    assert_eq!(app.value("SELECT node_name, is_local FROM spock.node ORDER BY 1"), "n1|t\nn9|f");
    assert_eq!(app.value("SELECT spock_internal.subscription_origin(oid) FROM pg_subscription"), "n9");
}

#[test]
fn nobody_but_a_superuser_sets_or_removes_a_label() {
    let cluster = start_app("registry_labels");
    let [n1] = cluster.all();
    let app = n1.db("app");
    let label = "SELECT label FROM pg_seclabels WHERE provider = 'spock_recovery' AND objtype = 'subscription'";
    let document = app.value(label);
    assert!(document.contains("n9"), "{document}");
    let owner = app.role("owner");
    owner.sql("CREATE SCHEMA mine CREATE TABLE t (id int)");
    for text in [format!("'{document}'"), "NULL".to_owned(), "'x'".to_owned()] {
        for object in ["SUBSCRIPTION s", "DATABASE app", "SCHEMA mine", "TABLE mine.t"] {
            let error = refused(
                owner,
                &format!("SECURITY LABEL FOR spock_recovery ON {object} IS {text}"),
                "42501",
                "spock.sub_set_origin()",
            );
            assert_eq!(error.message, "only a superuser can set a spock_recovery label");
        }
        for object in ["SUBSCRIPTION s", "DATABASE app", "SCHEMA spock"] {
            refused(
                app.role("alice"),
                &format!("SECURITY LABEL FOR spock_recovery ON {object} IS {text}"),
                "42501",
                "",
            );
        }
    }
    // A superuser's document must validate, and be where such a document belongs.
    for text in ["x", "{}", &document.replace("\"version\":1", "\"version\":2"), &document.replace("n9", "ü")] {
        assert_ne!(text, document);
        refused(
            app,
            &format!("SECURITY LABEL FOR spock_recovery ON SUBSCRIPTION s IS '{text}'"),
            "22023",
            "spock.sub_set_origin()",
        );
    }
    for object in ["SCHEMA public", "TABLE mine.t", "ROLE alice"] {
        refused(app, &format!("SECURITY LABEL FOR spock_recovery ON {object} IS '{document}'"), "42809", "");
    }
    // A database and the extension's schema have labels of ours, but of other kinds.
    for object in ["DATABASE app", "SCHEMA spock"] {
        refused(app, &format!("SECURITY LABEL FOR spock_recovery ON {object} IS '{document}'"), "22023", "");
    }
    assert_eq!(app.value(label), document);
}

/// Lines of the log that show the password, but for the statements that the caller typed himself.
fn leaks(node: &Node) -> Vec<String> {
    let log = node.log();
    log.lines().filter(|line| line.contains(PASSWORD) && !line.contains(" STATEMENT:  ")).map(str::to_owned).collect()
}

#[test]
fn no_message_and_no_log_line_repeats_a_password() {
    let cluster = start_app("registry_log");
    let [n1] = cluster.all();
    let app = n1.db("app");
    for dsn in [
        format!("host=h password=open {PASSWORD}"),
        format!("password='{PASSWORD}").replace('\'', "''"),
        format!("postgresql://u:{PASSWORD}@[::1"),
        format!("{PASSWORD}=1"),
    ] {
        for statement in [
            format!("SELECT spock.peer_create('n5', '{dsn}')"),
            format!("ALTER USER MAPPING FOR PUBLIC SERVER n9 OPTIONS (SET dsn '{dsn}')"),
        ] {
            let error = refused(app, &statement, "42601", "passfile");
            assert!(!error.to_string().contains(PASSWORD), "{error}");
        }
    }
    app.wait_until("SELECT error <> '' FROM spock.peer_status() WHERE node_name = 'n9'", "t");
    assert!(!app.value("SELECT error FROM spock.peer_status()").contains(PASSWORD));
    assert_eq!(leaks(n1), Vec::<String>::new());
    assert!(n1.log_contains(PASSWORD), "the statements are not logged: the test shows nothing");
}

#[test]
fn a_subscription_that_must_use_its_password_is_polled_with_it_alone() {
    let cluster = start(Cluster::new("registry_password_required"));
    let [n1] = cluster.all();
    make_node(n1.db("postgres"), &n1.dsn("postgres"), "n1");
    n1.sql("CREATE ROLE owner LOGIN IN ROLE pg_create_subscription; GRANT CREATE ON DATABASE postgres TO owner");
    n1.db("postgres").role("owner").sql(&format!(
        "CREATE SUBSCRIPTION s CONNECTION '{} password={PASSWORD}' PUBLICATION p WITH (connect = false)",
        n1.dsn("postgres")
    ));
    // Authentication is trust here: as core, the poller does not lend the server's own identity to the owner.
    n1.wait_until(
        "SELECT state, error LIKE '%password is required%' FROM spock.peer_status() WHERE sub_name = 's'",
        "unreachable|t",
    );
}

/// A function and an operator that make mallory a superuser when one calls them, for the names that the install script might use.
const TRAPS: &str = "
    CREATE FUNCTION spock.trap() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN EXECUTE 'ALTER ROLE mallory SUPERUSER'; END IF; END $$;
    CREATE FUNCTION spock.recovery_facts(text) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM spock.trap(); RETURN NULL; END $$;
    CREATE FUNCTION spock.current_setting(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM spock.trap(); RETURN NULL; END $$;
    CREATE FUNCTION spock.equal(name, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM spock.trap(); RETURN true; END $$;
    CREATE FUNCTION spock.equal(oid, regclass) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM spock.trap(); RETURN true; END $$;
    CREATE OPERATOR spock.= (LEFTARG = name, RIGHTARG = text, PROCEDURE = spock.equal);
    CREATE OPERATOR spock.= (LEFTARG = oid, RIGHTARG = regclass, PROCEDURE = spock.equal)";

#[test]
fn the_extension_is_not_made_in_a_schema_that_another_role_has_prepared() {
    let cluster = start(Cluster::new("registry_schema"));
    let [n1] = cluster.all();
    n1.sql("CREATE ROLE mallory LOGIN");
    n1.sql("CREATE DATABASE app OWNER mallory");
    let app = n1.db("app");
    let refused = |why: &str| {
        let error = app.try_sql("CREATE EXTENSION spock_recovery").expect_err(why);
        assert_eq!(error.sqlstate, "55000", "{error}");
        assert!(error.detail.as_ref().is_some_and(|detail| detail.contains(why)), "{error}");
        assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("CREATE EXTENSION spock_recovery")), "{error}");
        assert_eq!(app.value("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'"), "f");
        assert_eq!(app.value("SELECT count(*) FROM pg_extension WHERE extname = 'spock_recovery'"), "0");
    };
    app.role("mallory").sql("CREATE SCHEMA spock");
    app.role("mallory").sql(TRAPS);
    refused("it belongs to the role \"mallory\", which is no superuser");
    app.sql("ALTER SCHEMA spock OWNER TO postgres");
    refused("there are objects in it");
    app.sql("DROP SCHEMA spock CASCADE; CREATE SCHEMA spock; GRANT CREATE ON SCHEMA spock TO PUBLIC");
    refused("others may create objects in it");
    app.sql("REVOKE CREATE ON SCHEMA spock FROM PUBLIC; GRANT CREATE ON SCHEMA spock TO mallory");
    refused("others may create objects in it");
    app.sql("REVOKE CREATE ON SCHEMA spock FROM mallory");
    app.role("mallory").sql("CREATE SCHEMA spock_internal");
    refused("it belongs to the role \"mallory\", which is no superuser");
    app.sql("DROP SCHEMA spock_internal");
    // Closed and empty, the schema spock is as good as a new one; but what every new schema gives away, the other one does too.
    app.sql("ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO mallory");
    refused("others may create objects in it");
    app.sql("ALTER DEFAULT PRIVILEGES REVOKE ALL ON SCHEMAS FROM mallory");
    app.sql("CREATE EXTENSION spock_recovery");
    assert_eq!(app.value("SELECT count(*) FROM spock.node"), "0");
    // What is left when it is dropped is that as well: nobody else can have functions where a peer may still ask.
    app.sql("DROP EXTENSION spock_recovery");
    app.sql("GRANT CREATE ON DATABASE app TO mallory");
    for schema in ["spock", "spock_internal"] {
        let error = app.role("mallory").try_sql(&format!(
            "CREATE FUNCTION {schema}.release_clone(text, uuid) RETURNS bool LANGUAGE sql AS 'SELECT true'"
        ));
        assert_eq!(error.expect_err("closed").sqlstate, "42501", "{schema}");
    }
    app.sql("CREATE EXTENSION spock_recovery");
}

/// A question as a target asks it.
fn question(schema: &str, table: &str, columns: &str, key: &str) -> String {
    format!(
        "SELECT spock_internal.touched_rows('{{\"schema\": \"{schema}\", \"name\": \"{table}\", \"columns\": [{columns}], \"key\": [0],
             \"keys\": [[\"{key}\"]], \"asked\": \"rows\"}}')"
    )
}

#[test]
fn rows_are_told_to_who_may_replicate_and_compared_by_the_keys_own_operator() {
    let cluster = start(Cluster::new("registry_touched"));
    let [n1] = cluster.all();
    make_node(n1.db("postgres"), &n1.dsn("postgres"), "n1");
    // A type whose equality is in a schema where mallory may create; a key of a domain over it.
    n1.sql(
        "CREATE ROLE mallory LOGIN; CREATE ROLE reader LOGIN REPLICATION; CREATE SCHEMA ext; GRANT ALL ON SCHEMA ext TO mallory;
         CREATE TYPE ext.word;
         CREATE FUNCTION ext.word_in(cstring) RETURNS ext.word LANGUAGE internal IMMUTABLE STRICT AS 'textin';
         CREATE FUNCTION ext.word_out(ext.word) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
         CREATE TYPE ext.word (INPUT = ext.word_in, OUTPUT = ext.word_out, LIKE = text);
         CREATE FUNCTION ext.equal(ext.word, ext.word) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT
             AS $$ SELECT ext.word_out($1)::text = ext.word_out($2)::text $$;
         CREATE FUNCTION ext.hash(ext.word) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT hashtext(ext.word_out($1)::text) $$;
         CREATE OPERATOR ext.= (LEFTARG = ext.word, RIGHTARG = ext.word, FUNCTION = ext.equal, HASHES);
         CREATE OPERATOR CLASS ext.word_ops DEFAULT FOR TYPE ext.word USING hash AS OPERATOR 1 ext.=, FUNCTION 1 ext.hash(ext.word);
         CREATE DOMAIN public.mail AS ext.word; CREATE TABLE t (m public.mail, v text); INSERT INTO t VALUES ('a', 'one'), ('b', 'two')",
    );
    let db = n1.db("postgres");
    db.role("mallory").sql(
        "CREATE FUNCTION ext.better(public.mail, ext.word) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
             IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN EXECUTE 'ALTER ROLE mallory SUPERUSER'; END IF;
             RETURN true; END $$;
         CREATE OPERATOR ext.= (LEFTARG = public.mail, RIGHTARG = ext.word, FUNCTION = ext.better)",
    );
    let asked = question("public", "t", "\"m\", \"v\"", "a");
    let told = db.value(&asked);
    assert!(told.contains("one") && !told.contains("two"), "{told}");
    assert_eq!(db.value("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'"), "f");
    // Who may read the table runs code as its owner by that: he must be one that replicates as well, and see what he asks for.
    n1.sql("GRANT SELECT ON t TO mallory");
    refused(db.role("mallory"), &asked, "42501", "REPLICATION");
    refused(db.role("reader"), &asked, "42501", "SELECT");
    n1.sql("GRANT SELECT ON t TO reader");
    assert_eq!(db.role("reader").value(&asked), told);
    // What is no column is no function of the row either.
    let error = refused(db.role("reader"), &question("public", "t", "\"m\", \"row_to_json\"", "a"), "42703", "");
    assert!(error.message.contains("row_to_json"), "{error}");
    for malformed in ["", "{}", "[]", "null"] {
        refused(
            db.role("reader"),
            &format!("SELECT spock_internal.touched_rows('{malformed}')"),
            "22023",
            "same version",
        );
    }
}
