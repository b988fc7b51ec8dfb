//! As whom users' code runs that a table brings along: on the target while rows are written and compared, on the source while they
//! are compared. Each piece of code says in the log where it stands and who runs it.

use super::{Case, Wiring, assert_alike, begin_gap, builder, end_and_rescue, start};
use crate::cluster::{Cluster, Node};
use std::collections::{BTreeMap, BTreeSet};

/// `code.f` may be folded where its arguments are constants, which runs it whenever a table is opened or a query is planned.
/// Whoever runs a piece of code that is no superuser and not the owner of its table would be found as well.
const CASE: Case<'_> = Case {
    name: "code",
    tables: "
        DO $$ BEGIN IF to_regrole('author') IS NULL THEN CREATE ROLE author; END IF; END $$;
        GRANT USAGE, CREATE ON SCHEMA code TO author;
        CREATE FUNCTION code.tell(place text) RETURNS void LANGUAGE plpgsql AS
            $$ BEGIN RAISE LOG 'CODE <%> <%> <%>', place, current_user, current_database(); END $$;
        CREATE FUNCTION code.f(value int, place text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
            $$ BEGIN PERFORM code.tell(place); RETURN value; END $$;
        CREATE FUNCTION code.compare(a int, b int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
            $$ BEGIN PERFORM code.tell('operator class'); RETURN btint4cmp(a, b); END $$;
        CREATE FUNCTION code.trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM code.tell('trigger'); RETURN NEW; END $$;
        CREATE OPERATOR CLASS code.ops FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
            FUNCTION 1 code.compare(int, int);
        CREATE DOMAIN code.checked AS int CHECK (code.f(VALUE, 'domain') >= 0);
        CREATE TYPE code.pair AS (a code.checked, b int);
        CREATE TABLE plain (id int PRIMARY KEY, v text, d code.checked);
        CREATE TABLE by_pair (id code.pair PRIMARY KEY, v text);
        CREATE TABLE by_two (id code.pair, n int, v text, PRIMARY KEY (id, n));
        CREATE TABLE keyless (id int, v text); ALTER TABLE keyless REPLICA IDENTITY FULL;
        CREATE TABLE parted (id int, v text) PARTITION BY LIST ((code.f(id, 'partition key')));
        CREATE TABLE part PARTITION OF parted DEFAULT; CREATE TABLE part_two PARTITION OF parted FOR VALUES IN (2);
        ALTER TABLE part REPLICA IDENTITY FULL; ALTER TABLE part_two REPLICA IDENTITY FULL; ALTER TABLE parted REPLICA IDENTITY FULL;
        CREATE INDEX ON plain ((id + code.f(1, 'index expression')));
        CREATE INDEX ON plain (v) WHERE code.f(1, 'index predicate') = 1;
        CREATE INDEX ON plain USING btree (id code.ops);
        CREATE INDEX ON keyless ((id + code.f(1, 'index expression of a table without a key')));
        CREATE INDEX ON by_pair ((v || code.f(1, 'index expression of a table with a composite key')));
        ALTER TABLE plain ADD CHECK (code.f(id, 'check') >= 0);
        ALTER TABLE plain ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON plain USING (code.f(id, 'row security') >= 0);
        CREATE TRIGGER t BEFORE INSERT OR UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION code.trigger(); ALTER TABLE plain ENABLE ALWAYS TRIGGER t",
    on_n1: "",
    on_source: "ALTER TABLE plain DISABLE TRIGGER t",
    on_target: "
        ALTER TABLE plain ADD COLUMN own int DEFAULT code.f(7, 'default');
        ALTER TABLE plain ADD COLUMN computed int GENERATED ALWAYS AS (code.f(id, 'generated column')) STORED;
        CREATE INDEX ON part ((v || code.f(1, 'index expression of a partition')))",
    before: "INSERT INTO plain VALUES (1, 'a', 1), (2, 'b', 2); INSERT INTO by_pair VALUES ((1, 1), 'a'); INSERT INTO by_two VALUES ((1, 1), 1, 'a');
        INSERT INTO keyless VALUES (1, 'a'); INSERT INTO parted VALUES (1, 'a')",
    gap: &[
        "INSERT INTO plain VALUES (3, 'c', 3); UPDATE plain SET v = 'changed' WHERE id = 1; DELETE FROM plain WHERE id = 2",
        "INSERT INTO by_pair VALUES ((2, 2), 'b'); UPDATE by_pair SET v = 'changed' WHERE id = (1, 1)::code.pair",
        "INSERT INTO by_two VALUES ((2, 2), 2, 'b'); UPDATE by_two SET v = 'changed' WHERE n = 1",
        "INSERT INTO keyless VALUES (2, 'b'); UPDATE keyless SET v = 'changed' WHERE id = 1; DELETE FROM keyless WHERE id = 1",
        "INSERT INTO parted VALUES (2, 'b'); UPDATE parted SET v = 'changed' WHERE id = 1",
    ],
};

/// Who ran what, in one database, since its log had so many bytes.
fn told(node: &Node, database: &str, since: usize) -> BTreeMap<String, BTreeSet<String>> {
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in node.log().get(since..).unwrap_or_default().lines() {
        let Some((who, line)) = line.split_once("CODE <") else { continue };
        // Core's own apply of the gap may still be writing to the log: as whom it opens a table is not ours to judge.
        if database == "postgres" && who.contains("logical replication apply worker") {
            continue;
        }
        let parts: Vec<&str> = line.trim_end_matches('>').split("> <").collect();
        let [place, user, of] = parts[..] else { panic!("a line that nobody wrote: {line}") };
        if of == database {
            told.entry(place.to_owned()).or_default().insert(user.to_owned());
        }
    }
    told
}

/// The tables and their types are author's.
fn give_away(cluster: &Cluster) {
    for node in ["n2", "n3"] {
        for database in ["postgres", "twin"] {
            if node == "n2" && database == "twin" {
                continue;
            }
            cluster.node(node).db(database).sql(
                "ALTER TABLE code.plain OWNER TO author; ALTER TABLE code.by_pair OWNER TO author; ALTER TABLE code.by_two OWNER TO author;
                 ALTER TABLE code.keyless OWNER TO author; ALTER TABLE code.parted OWNER TO author; ALTER TABLE code.part OWNER TO author; ALTER TABLE code.part_two OWNER TO author",
            );
        }
    }
}

#[test]
fn users_code_runs_as_by_core_as_the_owner_of_its_table_and_never_as_a_superuser() {
    let cases = [CASE];
    let cluster = start(builder("parity_code").start(), Wiring::default(), &cases);
    give_away(&cluster);
    let before = begin_gap(&cluster, &cases);
    let [_, n2, n3] = cluster.all();
    let (target_log, twin_log) = (n2.log().len(), n3.log().len());
    // n3 has the gap by now: what it says from here on, it says for the comparison.
    end_and_rescue(&cluster);
    // Before anything here reads the tables, as a superuser.
    let (target, source, twin) =
        (told(n2, "postgres", target_log), told(n3, "postgres", twin_log), told(n3, "twin", twin_log));
    assert_alike(&cluster, &cases, &before);
    let only_the_author = BTreeSet::from(["author".to_owned()]);
    for (node, places) in [("the target", &target), ("the source", &source)] {
        for (place, users) in places {
            assert_eq!(*users, only_the_author, "{node}: {place}");
        }
    }
    for place in [
        "index expression",
        "index predicate",
        "operator class",
        "default",
        "generated column",
        "check",
        "domain",
        "trigger",
        "partition key",
        "index expression of a table without a key",
        "index expression of a table with a composite key",
        "index expression of a partition",
    ] {
        assert!(twin.contains_key(place), "core ran nothing of it: {place}, only {:?}", twin.keys());
        assert!(target.contains_key(place), "the target ran nothing of it: {place}, only {:?}", target.keys());
    }
    assert!(
        !twin.contains_key("row security") && !target.contains_key("row security"),
        "row security is not for owners"
    );
    assert!(
        source.contains_key("domain") || source.contains_key("index expression"),
        "nothing was compared on the source"
    );
    // Core opens a table without a key, and looks for an index of it, as the subscription's owner.
    for (place, users) in
        twin.iter().filter(|(place, _)| !place.ends_with("without a key") && !place.ends_with("of a partition"))
    {
        assert_eq!(*users, only_the_author, "core: {place}");
    }
    let refused = n2.value("SELECT count(*) FROM spock.recovery_intents() WHERE summary::text LIKE '%refused%'");
    assert_eq!(refused, "0", "rows of a table with a key were not compared");
}
