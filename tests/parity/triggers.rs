//! Triggers that exist on the target alone: the replica's and those that fire always, with what they see and change.

use super::{Case, Wiring, play};

/// Writes down what it was fired for, as whom, and in which session role.
const NOTE: &str = "
    CREATE TABLE fired (n serial PRIMARY KEY, what text);
    CREATE FUNCTION triggers.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO triggers.fired (what) VALUES (concat_ws(' ', TG_NAME, TG_WHEN, TG_OP, TG_LEVEL, TG_TABLE_NAME, current_user,
            current_setting('session_replication_role'), current_setting('search_path'), OLD, NEW));
        RETURN coalesce(NEW, OLD); END $$;
    CREATE FUNCTION triggers.change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'DELETE' THEN IF OLD.id = 3 THEN RETURN NULL; END IF; RETURN OLD; END IF;
        IF NEW.v = 'skip' THEN RETURN NULL; END IF;
        NEW.v := NEW.v || ' (changed)'; RETURN NEW; END $$;
    CREATE FUNCTION triggers.count() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE n int; BEGIN
        SELECT count(*) INTO n FROM changed; INSERT INTO triggers.fired (what) VALUES (TG_NAME || ' ' || n); RETURN NULL; END $$;
    CREATE TRIGGER plain AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION triggers.note();
    CREATE TRIGGER replica AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION triggers.note();
    CREATE TRIGGER always BEFORE INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION triggers.note();
    CREATE TRIGGER statement AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON t FOR EACH STATEMENT EXECUTE FUNCTION triggers.note();
    CREATE TRIGGER of_column AFTER UPDATE OF v ON t FOR EACH ROW EXECUTE FUNCTION triggers.note();
    CREATE TRIGGER conditional AFTER UPDATE ON t FOR EACH ROW WHEN (OLD.v IS DISTINCT FROM NEW.v) EXECUTE FUNCTION triggers.note();
    CREATE TRIGGER transitions AFTER UPDATE ON t REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION triggers.count();
    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION triggers.note();
    CREATE TRIGGER change BEFORE INSERT OR UPDATE OR DELETE ON changing FOR EACH ROW EXECUTE FUNCTION triggers.change();
    CREATE TRIGGER of_partition AFTER INSERT OR UPDATE OR DELETE ON parted FOR EACH ROW EXECUTE FUNCTION triggers.note();
    ALTER TABLE t ENABLE REPLICA TRIGGER replica; ALTER TABLE t ENABLE ALWAYS TRIGGER always; ALTER TABLE t ENABLE ALWAYS TRIGGER statement;
    ALTER TABLE t ENABLE REPLICA TRIGGER of_column; ALTER TABLE t ENABLE REPLICA TRIGGER conditional; ALTER TABLE t ENABLE ALWAYS TRIGGER transitions;
    ALTER TABLE t ENABLE REPLICA TRIGGER late; ALTER TABLE changing ENABLE REPLICA TRIGGER change; ALTER TABLE parted ENABLE REPLICA TRIGGER of_partition;";

const CASE: Case<'_> = Case {
    name: "triggers",
    tables: "
        CREATE TABLE t (id int PRIMARY KEY, v text, w int); CREATE TABLE changing (id int PRIMARY KEY, v text);
        CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
        CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (10); CREATE TABLE parted_high PARTITION OF parted DEFAULT;",
    on_n1: "",
    on_source: "",
    on_target: NOTE,
    before: "INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2); INSERT INTO changing VALUES (1, 'a'), (2, 'b'), (3, 'c'); INSERT INTO parted VALUES (1, 'a'), (11, 'b')",
    gap: &[
        "INSERT INTO t VALUES (3, 'c', 3), (4, 'd', 4)",
        "UPDATE t SET w = 10 WHERE id = 1; UPDATE t SET v = 'x' WHERE id < 3",
        "UPDATE t SET id = 30 WHERE id = 3; DELETE FROM t WHERE id = 4",
        "INSERT INTO changing VALUES (4, 'd'), (5, 'skip')",
        "UPDATE changing SET v = 'skip' WHERE id = 1; UPDATE changing SET v = 'new' WHERE id = 2",
        "DELETE FROM changing WHERE id IN (2, 3)",
        "INSERT INTO parted VALUES (2, 'c'); UPDATE parted SET id = 12 WHERE id = 1; UPDATE parted SET v = 'v' WHERE id = 11; DELETE FROM parted WHERE id = 2",
        "TRUNCATE t; INSERT INTO t VALUES (9, 'last', 9)",
    ],
};

#[test]
fn triggers_of_the_target_fire_as_by_core() {
    let cluster = play(
        "parity_triggers",
        Wiring { publication: "FOR ALL TABLES WITH (publish_via_partition_root = true)", ..Wiring::default() },
        &[CASE],
    );
    let fired = cluster.node("n2").value("SELECT DISTINCT split_part(what, ' ', 1) FROM triggers.fired ORDER BY 1");
    assert_eq!(fired, "always\nconditional\nlate\nof_column\nof_partition\nreplica\nstatement");
}
