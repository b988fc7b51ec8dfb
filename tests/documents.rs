//! Documents that this library cannot read: nothing is written over them, what depends on them holds, and once they can be read
//! again everything goes on. What a newer library of the same version has added is kept.
//!
//! The labels are edited in the catalog, as no library of ours would let it be done by SECURITY LABEL.

mod journal;
mod kept;
mod label;
mod record;

use crate::cluster::{Database, Node, SqlError};
use crate::slot_life::wait_rounds;

/// What a later version of the library would write.
const LATER: (&str, &str) = (r#""version":1"#, r#""version":2"#);
/// What one of the same version would, which knows one more field.
const NEWER: (&str, &str) = (r#""version":1"#, r#""version":1,"newer":{"deep":[1]}"#);
const NEWER_FIELD: &str = r#""newer":{"deep":[1]}"#;

/// A label of ours, by the catalog it stands in and the object.
#[derive(Clone, Copy)]
struct Label<'a> {
    database: Database<'a>,
    catalog: &'static str,
    object: &'static str,
    /// What COMMENT ON sets again as it is: it takes the lock under which labels are written.
    comment: &'static str,
}

impl<'a> Label<'a> {
    fn journal(node: &'a Node) -> Label<'a> {
        let object = "classoid = 'pg_namespace'::regclass AND objoid = 'spock'::regnamespace";
        let comment = "format('SCHEMA spock IS %L', obj_description('spock'::regnamespace, 'pg_namespace'))";
        Label { database: node.db("postgres"), catalog: "pg_seclabel", object, comment }
    }

    fn record(node: &'a Node) -> Label<'a> {
        let object = "classoid = 'pg_database'::regclass
             AND objoid = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let comment = "format('DATABASE %I IS NULL', current_database())";
        Label { database: node.db("postgres"), catalog: "pg_shseclabel", object, comment }
    }

    fn subscription(node: &'a Node) -> Label<'a> {
        let object = "classoid = 'pg_subscription'::regclass
             AND objoid = (SELECT min(oid) FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()))";
        let comment = "(SELECT format('SUBSCRIPTION %I IS NULL', subname) FROM pg_subscription
              WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY oid LIMIT 1)";
        Label { database: node.db("postgres"), catalog: "pg_shseclabel", object, comment }
    }

    fn text(self) -> String {
        let Label { database, catalog, object, .. } = self;
        database.value(&format!("SELECT label FROM {catalog} WHERE provider = 'spock_recovery' AND {object}"))
    }

    fn wait_for(self) {
        let Label { database, catalog, object, .. } = self;
        database
            .wait_until(&format!("SELECT count(*) FROM {catalog} WHERE provider = 'spock_recovery' AND {object}"), "1");
    }

    /// Writes another text in its place, behind the back of the library. Returns the label, which stays as it is.
    fn edit(self, change: (&str, &str)) -> String {
        self.replace(change);
        let text = self.text();
        assert!(text.contains(change.1), "{text}");
        text
    }

    /// The same where the manager may go on with it at once.
    fn replace(self, (from, to): (&str, &str)) {
        let Label { database, catalog, object, comment } = self;
        // The manager may be writing: what is edited is what stands there, and what was read before is not written over it.
        database.sql(&format!(
            "SET allow_system_table_mods = on;
             DO $$ BEGIN EXECUTE 'COMMENT ON ' || {comment}; END $$;
             UPDATE {catalog} SET label = replace(label, '{from}', '{to}') WHERE provider = 'spock_recovery' AND {object};
             RESET allow_system_table_mods"
        ));
    }
}

/// The health check's verdict on a document.
fn verdict(database: Database<'_>, document: &str) -> String {
    let check = format!("document {document}").replace('\'', "''");
    database.value(&format!("SELECT status, details FROM spock.quick_health_check() WHERE check_name = '{check}'"))
}

fn assert_critical(database: Database<'_>, document: &str, parts: &[&str]) {
    let verdict = verdict(database, document);
    assert!(verdict.starts_with("CRITICAL|"), "{document}: {verdict}");
    for part in parts {
        assert!(verdict.contains(part), "{part}: {verdict}");
    }
}

/// The statement is refused because a document cannot be read, and the hint says what to do.
fn assert_refused(node: &Node, statement: &str) -> SqlError {
    let error = node.try_sql(statement).expect_err(statement);
    assert_eq!(error.sqlstate, "0A000", "{statement}: {error}");
    assert!(error.message.ends_with("cannot be read"), "{statement}: {error}");
    assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("Install the version")), "{statement}: {error}");
    error
}

fn rounds(node: &Node) {
    wait_rounds(node.db("postgres"), 3);
}
