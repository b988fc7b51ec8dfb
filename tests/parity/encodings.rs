//! Databases in other encodings than UTF-8, and one that is among them.

use super::{Case, Wiring, assert_alike, begin_gap, builder, end_and_rescue, start};

const CASE: Case<'_> = Case {
    name: "\"schéma\"",
    tables: "CREATE TYPE \"größe\" AS ENUM ('klein', 'groß');
        CREATE TABLE \"tâble\" (\"clé\" text PRIMARY KEY, v text, g \"größe\", x xml, j jsonb, c char(4), n name, q \"char\");
        CREATE TABLE whole (v text); ALTER TABLE whole REPLICA IDENTITY FULL",
    on_n1: "",
    on_source: "",
    on_target: "ALTER TABLE \"tâble\" ADD COLUMN \"à moi\" text DEFAULT 'défaut'",
    before: "INSERT INTO \"tâble\" VALUES ('é', 'Ünïcödé', 'groß', '<é/>', '{\"ä\": \"ö\"}', 'ß', 'ÿ', 'a'), ('è', 'x', NULL, NULL, NULL, NULL, NULL, NULL);
        INSERT INTO whole VALUES ('ñ'), ('Ñ'), (NULL)",
    gap: &[
        "INSERT INTO \"tâble\" VALUES ('ê', repeat('äöü', 3000), 'klein', '<a>ß</a>', '\"é\"', 'ééé', 'ñ', 'b')",
        "UPDATE \"tâble\" SET v = 'ß' WHERE \"clé\" = 'é'; UPDATE \"tâble\" SET \"clé\" = 'ë' WHERE \"clé\" = 'è'",
        "UPDATE whole SET v = 'ø' WHERE v = 'ñ'; DELETE FROM whole WHERE v = 'Ñ'",
    ],
};

#[test]
fn text_arrives_as_by_core_where_databases_are_not_in_utf8() {
    let cluster = builder("parity_encodings").start();
    for (node, encoding) in cluster.nodes().iter().zip(["LATIN1", "LATIN1", "UTF8"]) {
        node.db("template1").sql("DROP DATABASE postgres");
        let create = format!("CREATE DATABASE postgres TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
        node.db("template1").sql(&create);
    }
    let cases = [CASE];
    let cluster = start(cluster, Wiring::default(), &cases);
    let before = begin_gap(&cluster, &cases);
    end_and_rescue(&cluster);
    assert_alike(&cluster, &cases, &before);
    assert_eq!(cluster.node("n2").value("SELECT getdatabaseencoding()"), "LATIN1");
}
