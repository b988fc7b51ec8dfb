//! As whom rows are written: the owner of the table, or of the subscription; neither need be a superuser.

use super::{Case, Wiring, assert_alike, begin_gap, builder, end_and_rescue, start, twin};

/// Who writes, as a trigger and a default see it; row security that does not apply to the owner.
const CASE: Case<'_> = Case {
    name: "roles",
    tables: "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE emptied (id int PRIMARY KEY); CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY LIST (id);
        CREATE TABLE part PARTITION OF parted DEFAULT",
    on_n1: "",
    on_source: "",
    on_target: "
        CREATE TABLE whoever (n serial PRIMARY KEY, name text);
        CREATE FUNCTION roles.note() RETURNS trigger LANGUAGE plpgsql SECURITY INVOKER AS
            $$ BEGIN INSERT INTO roles.whoever (name) VALUES (concat_ws(' ', TG_OP, current_user, current_setting('is_superuser'))); RETURN NULL; END $$;
        CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION roles.note();
        CREATE TRIGGER note AFTER TRUNCATE ON emptied EXECUTE FUNCTION roles.note();
        CREATE TABLE tried (what text); ALTER TABLE tried OWNER TO keeper;
        CREATE FUNCTION roles.try() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            BEGIN SET ROLE postgres; INSERT INTO roles.tried VALUES (TG_NAME || ': has become a superuser');
            EXCEPTION WHEN insufficient_privilege THEN INSERT INTO roles.tried VALUES (TG_NAME || ': no role for ' || session_user); END;
            BEGIN SET SESSION AUTHORIZATION postgres; INSERT INTO roles.tried VALUES (TG_NAME || ': has become a superuser');
            EXCEPTION WHEN insufficient_privilege THEN INSERT INTO roles.tried VALUES (TG_NAME || ': no session for ' || session_user); END;
            RETURN NULL; END $$;
        CREATE TRIGGER try AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION roles.try(); ALTER TABLE t ENABLE ALWAYS TRIGGER try;
        ALTER TABLE t ENABLE ALWAYS TRIGGER note; ALTER TABLE emptied ENABLE ALWAYS TRIGGER note;
        ALTER TABLE t ADD COLUMN written_by text DEFAULT current_user; ALTER TABLE part ADD CHECK (true);
        ALTER TABLE t OWNER TO keeper; ALTER TABLE emptied OWNER TO keeper; ALTER TABLE parted OWNER TO keeper; ALTER TABLE part OWNER TO other;
        ALTER TABLE whoever OWNER TO keeper; GRANT USAGE ON SCHEMA roles TO keeper, app, other; GRANT ALL ON ALL TABLES IN SCHEMA roles TO app; GRANT ALL ON part TO keeper;
        GRANT ALL ON SEQUENCE whoever_n_seq TO keeper, app",
    before: "INSERT INTO t VALUES (1, 'a'), (2, 'b'); INSERT INTO emptied VALUES (1); INSERT INTO parted VALUES (1, 'a')",
    gap: &[
        "INSERT INTO t VALUES (3, 'c')",
        "UPDATE t SET v = 'changed' WHERE id = 1; DELETE FROM t WHERE id = 2",
        "TRUNCATE emptied; INSERT INTO parted VALUES (2, 'b'); UPDATE parted SET v = 'changed' WHERE id = 1",
    ],
};

/// Runs with the commit, as who has the session; where rows are written as another it is refused.
const LATE: &str = "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION roles.try();
    ALTER TABLE t ENABLE REPLICA TRIGGER late";

fn writes_as(name: &str, run_as_owner: bool, row_security: &str) -> String {
    let options = if run_as_owner { ", run_as_owner = true" } else { "" };
    // Roles belong to a whole server, the twin's as well.
    let roles = Case {
        name: "owners",
        tables: "DO $$ BEGIN IF to_regrole('app') IS NULL THEN CREATE ROLE app LOGIN; CREATE ROLE keeper;
        CREATE ROLE other; GRANT keeper, other TO app; END IF; END $$",
        ..Case::default()
    };
    let on_target = format!("{}; {row_security}", CASE.on_target);
    let cases = [roles, Case { on_target: &on_target, ..CASE }];
    let cluster = start(builder(name).start(), Wiring { options, ..Wiring::default() }, &cases);
    for (database, subscription) in [(cluster.node("n2").db("postgres"), "sub_n2_n1"), (twin(&cluster), "sub_twin_n1")]
    {
        database.sql(&format!(
            "DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO app', current_database()); END $$; GRANT pg_create_subscription TO app;
             ALTER SUBSCRIPTION {subscription} SET (password_required = false); ALTER SUBSCRIPTION {subscription} OWNER TO app;
             TRUNCATE roles.whoever, roles.tried RESTART IDENTITY"
        ));
    }
    let cases = &cases[1..];
    let before = begin_gap(&cluster, cases);
    end_and_rescue(&cluster);
    assert_alike(&cluster, cases, &before);
    assert_eq!(cluster.node("n2").value("SELECT count(*) FROM roles.tried WHERE what LIKE '%superuser'"), "0");
    // For whom TRUNCATE fires differs between the majors.
    cluster.node("n2").value("SELECT DISTINCT name FROM roles.whoever WHERE name NOT LIKE 'TRUNCATE%' ORDER BY name")
}

#[test]
fn rows_are_written_as_by_core_as_the_owner_of_the_table() {
    let wrote = writes_as(
        "parity_table_owner",
        false,
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (false)",
    );
    assert_eq!(wrote, "DELETE keeper off\nINSERT keeper off\nUPDATE keeper off");
}

#[test]
fn rows_are_written_as_by_core_as_the_owner_of_the_subscription() {
    let wrote = writes_as("parity_run_as_owner", true, LATE);
    assert_eq!(wrote, "DELETE app off\nINSERT app off\nUPDATE app off");
}
