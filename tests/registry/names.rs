//! Names in any characters that type name can hold, in databases of any encoding.

use super::{ORIGINS, identifier, literal, make_node, refused, start};
use crate::cluster::{Cluster, Node};

const UTF8: &str = "ENCODING 'UTF8'";
const LATIN1: &str = "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0";
const SQL_ASCII: &str = "ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0";

/// A database that is a node.
fn database_node(node: &Node, database: &str, encoding: &str, name: &str) {
    node.sql(&format!("CREATE DATABASE {} {encoding}", identifier(database)));
    make_node(node.db(database), &node.dsn(database), name);
    let known = node.db(database).value("SELECT node_name FROM spock_internal.node_identity()");
    assert_eq!(known, name);
}

fn subscribe(node: &Node, from: &str, to: &str, subscription: &str) {
    node.db(from).sql(&format!(
        "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {} WITH (connect = false, slot_name = NONE)",
        identifier(subscription),
        literal(&format!("{} application_name='é'", node.dsn(to))),
        identifier("publié"),
    ));
}

#[test]
fn names_of_any_characters_are_found_out_and_shown_whole() {
    let cluster = start(Cluster::new("registry_names"));
    let [n1] = cluster.all();
    let longest = "ÿ".repeat(29) + "x";
    assert_eq!(longest.len(), 59);
    let names = ["N1", "n 1", "o'hara", "\"quoted\" \\ %s", "Zürich", "日本 😀", &longest];
    database_node(n1, "hub", UTF8, "Hub");
    let mut expected = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let database = format!("d{index}");
        database_node(n1, &database, UTF8, name);
        let subscription = format!("s{index} {}", &name[..name.floor_char_boundary(40)]);
        subscribe(n1, "hub", &database, &subscription);
        expected.push(format!("{subscription}|{name}"));
    }
    let hub = n1.db("hub");
    hub.wait_until(ORIGINS, &expected.join("\n"));
    // A label that was set by hand, and an error that repeats the name.
    for (index, name) in names.iter().enumerate() {
        let subscription = format!("s{index} {}", &name[..name.floor_char_boundary(40)]);
        hub.sql(&format!("SELECT spock.sub_set_origin({}, {})", literal(&subscription), literal(name)));
        let error = refused(
            hub,
            &format!("SELECT spock.node_drop({})", literal(name)),
            "2BP01",
            &format!("DROP SUBSCRIPTION {}", identifier(&subscription)),
        );
        assert!(error.message.contains(name), "{error}");
    }
    hub.wait_until(ORIGINS, &expected.join("\n"));
}

#[test]
fn databases_of_other_encodings_know_nodes_by_their_true_names() {
    let cluster = start(Cluster::new("registry_encodings"));
    let [n1] = cluster.all();
    database_node(n1, "utf8", UTF8, "Genève");
    database_node(n1, "latin1", LATIN1, "Zürich");
    database_node(n1, "ascii", SQL_ASCII, "Malmö");
    for (from, to, name) in [
        ("latin1", "utf8", "Genève"),
        ("latin1", "ascii", "Malmö"),
        ("utf8", "latin1", "Zürich"),
        ("ascii", "utf8", "Genève"),
    ] {
        subscribe(n1, from, to, &format!("à {to} de {from}"));
        // Bytes of a database in SQL_ASCII are of no encoding, and cannot be told to one that has another.
        if (from, to) != ("latin1", "ascii") {
            n1.db(from).wait_until(
                &format!("{} LIMIT 1 OFFSET (SELECT count(*) - 1 FROM spock.subscription)", ORIGINS),
                &format!("à {to} de {from}|{name}"),
            );
        }
    }
    // Their catalog is shared by all databases: what stands in it must be readable in every encoding.
    assert_eq!(
        n1.value(
            "SELECT count(*) > 0, bool_and(label ~ '^[ -~]+$') FROM pg_shseclabel WHERE provider = 'spock_recovery'"
        ),
        "t|t"
    );
    let latin1 = n1.db("latin1");
    assert_eq!(latin1.value("SELECT srvname FROM pg_foreign_server ORDER BY 1 LIMIT 1"), "Genève");
    // pgrx sends messages in UTF-8 whatever the database's encoding is: "ü" arrives mangled.
    n1.expect_log("database already is node");
    refused(latin1, "SELECT spock.node_create('x', 'dbname=latin1')", "42710", "spock.node_drop(");
    refused(latin1, "SELECT spock.peer_create('Genève', 'dbname=é ü')", "42601", "passfile");
    latin1.sql("SELECT spock.peer_create('Évian', 'host=/nonexistent dbname=é')");
    latin1.wait_until("SELECT error <> '' FROM spock.peer_status() WHERE node_name = 'Évian'", "t");
    assert_eq!(
        latin1.value("SELECT if_dsn FROM spock.node_interface WHERE if_name = 'Évian'"),
        "host=/nonexistent dbname=é"
    );
    latin1.sql("SELECT spock.node_drop('Évian')");
    // Nothing in SQL_ASCII says what bytes mean that are no UTF-8: such a name could not be told to a peer.
    refused(
        n1.db("ascii"),
        "SELECT spock.peer_create(convert_from('\\xe9', 'SQL_ASCII')::name, 'dbname=x')",
        "42602",
        "Choose",
    );
    n1.db("ascii").sql("SELECT spock.peer_create('n8', convert_from('\\x686f73743de9', 'SQL_ASCII'))");
}

#[test]
fn a_peer_whose_name_cannot_be_written_here_is_reported_and_harms_nothing() {
    let cluster = start(Cluster::new("registry_unwritable"));
    let [n1] = cluster.all();
    // What the peer says about it, at each question.
    n1.expect_log("has no equivalent in encoding \"LATIN1\"");
    database_node(n1, "utf8", UTF8, "日本");
    database_node(n1, "latin1", LATIN1, "Zürich");
    subscribe(n1, "latin1", "utf8", "s");
    let latin1 = n1.db("latin1");
    latin1.wait_until(
        "SELECT state, error LIKE '%no equivalent in encoding%' FROM spock.peer_status() WHERE sub_name = 's'",
        "not a node|t",
    );
    assert_eq!(latin1.value("SELECT sub_origin FROM spock.subscription"), "");
}
