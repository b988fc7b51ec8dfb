//! What `make install` installs, which is put together by cargo and a few lines of shell: the same SQL as by cargo-pgrx, and each
//! function in it as the Rust side has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use pgrx_sql_entity_graph::{ControlFile, PgrxSql, SqlGraphEntity};
use spock_recovery_cluster::{Installation, ServerUser};

use crate::cluster::{Cluster, Database, Node};
use crate::library::{self, Declared, Returned};
use crate::update::RELEASED;

fn installation() -> Installation {
    let user = ServerUser::find().unwrap_or_else(|error| panic!("{error}"));
    Installation::find_default(None, &user).unwrap_or_else(|error| panic!("{error}"))
}

pub fn project(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of SQL without its comments: cargo-pgrx writes down where each part comes from, and what is made elsewhere.
fn without_comments(sql: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut in_comment = false;
    for line in sql.lines().map(str::trim_end) {
        // No SQL file has a comment of this kind.
        if in_comment || line.starts_with("/*") {
            in_comment = !line.ends_with("*/");
        } else if !line.is_empty() && !line.trim_start().starts_with("--") {
            lines.push(line.to_owned());
        }
    }
    lines
}

#[test]
fn make_install_and_cargo_pgrx_install_the_same_sql() {
    let installation = installation();
    let section = library::section_of(&installation);
    let control =
        ControlFile::from_str_with_cargo_version(&project("spock_recovery.control"), env!("CARGO_PKG_VERSION"))
            .expect("the control file can be read");
    let version = control.default_version.clone();
    let entities = library::entities(&section);
    assert!(
        entities.iter().any(|entity| matches!(entity, SqlGraphEntity::CustomSql(_))),
        "the library names no SQL file"
    );
    let all = entities.into_iter().chain([SqlGraphEntity::ExtensionRoot(control)]);
    let graph = PgrxSql::build(all, "spock_recovery".into(), false).expect("the library's entries fit together");
    let by_pgrx = without_comments(&graph.to_sql().expect("SQL"));

    let extension = installation.sharedir.join("extension");
    let read = |name: String| {
        let path = extension.join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let installed = without_comments(&read(format!("spock_recovery--{version}.sql")));
    assert!(by_pgrx == installed, "{}", first_difference(&by_pgrx, &installed));
    let control = project("spock_recovery.control").replace("@CARGO_VERSION@", env!("CARGO_PKG_VERSION"));
    assert_eq!(read("spock_recovery.control".into()), control);
}

fn first_difference(by_pgrx: &[String], installed: &[String]) -> String {
    let differing = by_pgrx.iter().zip(installed).position(|(one, other)| one != other);
    let at = differing.unwrap_or(by_pgrx.len().min(installed.len()));
    let line = |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| "nothing more".into());
    format!("line {at} of cargo-pgrx: {}\nand of make install: {}", line(by_pgrx), line(installed))
}

#[test]
fn comments_are_told_from_sql() {
    let sql = "/* <begin> */\n-- src/lib.rs:37\n\nCREATE FUNCTION f(); -- stays\n\n/* <begin\nx */\nSELECT 1;\n";
    assert_eq!(without_comments(sql), ["CREATE FUNCTION f(); -- stays", "SELECT 1;"]);
}

/// A function as the database has it.
struct InSql {
    name: String,
    strict: bool,
    returns_set: bool,
    returned: String,
    arguments: Vec<(String, String)>,
    columns: Vec<(String, String)>,
}

/// By the C symbol.
fn functions_in_sql(node: Database<'_>) -> BTreeMap<String, InSql> {
    let pairs = |mode: &str| {
        format!(
            "(SELECT string_agg(coalesce(names[i], '') || ':' || format_type(types[i], NULL), ',' ORDER BY i)
                FROM generate_subscripts(types, 1) i WHERE modes IS NULL AND '{mode}' = 'i' OR modes[i] = ANY ('{{{mode}}}'))"
        )
    };
    let rows = node.rows(&format!(
        "SELECT prosrc, proname, proisstrict::text, proretset::text, format_type(prorettype, NULL), {}, {}
           FROM (SELECT p.*, coalesce(proallargtypes, string_to_array(proargtypes::text, ' ')::oid[]) AS types, proargmodes AS modes, proargnames AS names
                   FROM pg_proc p JOIN pg_language l ON l.oid = prolang
                  WHERE lanname = 'c' AND probin LIKE '%spock_recovery%' AND pronamespace IS DISTINCT FROM to_regnamespace('tests')) f",
        pairs("i"),
        pairs("o,t")
    ));
    let list = |text: Option<String>| -> Vec<(String, String)> {
        let text = text.unwrap_or_default();
        text.split(',').filter_map(|pair| pair.split_once(':')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    };
    rows.into_iter()
        .map(|row| {
            let [symbol, name, strict, set, returned, arguments, columns]: [Option<String>; 7] =
                row.try_into().expect("seven columns");
            let text = |value: Option<String>| value.expect("never null");
            let function = InSql {
                name: text(name),
                strict: text(strict) == "true",
                returns_set: text(set) == "true",
                returned: text(returned),
                arguments: list(arguments),
                columns: list(columns),
            };
            (text(symbol), function)
        })
        .collect()
}

/// Whether a value of Rust's type may stand where SQL says `sql`: it is that type, or has its very representation.
fn fits(node: &Node, rust: &str, sql: &str) -> bool {
    let rust = node.value(&format!("SELECT format_type('{}'::regtype, NULL)", rust.to_lowercase()));
    // WAL positions are passed as the 64 bits that they are, a relation by its oid.
    rust == sql || matches!((rust.as_str(), sql), ("oid", "regclass"))
}

fn differences(node: &Node, what: &str, rust: &[Declared], sql: &[(String, String)]) -> Vec<String> {
    if rust.len() != sql.len() {
        return vec![format!("Rust has {} {what}, SQL {}", rust.len(), sql.len())];
    }
    let pairs = rust.iter().zip(sql).enumerate();
    pairs
        .filter(|(_, (rust, (name, sql)))| rust.name != *name || !fits(node, &rust.sql_type, sql))
        .map(|(index, (rust, (name, sql)))| {
            format!("{what} {}: \"{}\" {} in Rust, \"{name}\" {sql} in SQL", index + 1, rust.name, rust.sql_type)
        })
        .collect()
}

#[test]
fn every_function_has_in_sql_the_symbol_arguments_and_result_that_it_has_in_rust() {
    let cluster = Cluster::new("functions").start();
    let [node] = cluster.all();
    node.sql("CREATE EXTENSION spock_recovery");
    let in_sql = functions_in_sql(node.db("postgres"));
    let section = library::section_of(cluster.installation());
    let in_rust = library::functions(&section);
    assert!(!in_rust.is_empty(), "the library tells of no function");
    let symbols: BTreeSet<String> = in_rust.iter().map(library::symbol).collect();
    // What stands in the library for the SQL of a released version alone.
    node.sql("CREATE DATABASE released");
    node.db("released").sql(&format!("CREATE EXTENSION spock_recovery VERSION '{RELEASED}'"));
    let released = functions_in_sql(node.db("released"));
    let mut faults: Vec<String> = in_sql
        .keys()
        .filter(|symbol| !symbols.contains(*symbol))
        .map(|symbol| format!("{symbol} is in SQL alone"))
        .collect();
    for function in &in_rust {
        let Some(sql) = in_sql.get(&library::symbol(function)) else {
            if released.contains_key(&library::symbol(function)) {
                continue;
            }
            faults.push(format!("{} is in Rust alone", function.name));
            continue;
        };
        let arguments = library::arguments(function);
        let mut found = differences(node, "argument", &arguments, &sql.arguments);
        // A null would meet a type that has no place for it.
        if !sql.strict && arguments.iter().any(|argument| !argument.nullable) {
            found.push("SQL must say STRICT, for an argument of Rust's cannot be null".into());
        }
        let returns =
            |rust: &str, set: bool| sql.returns_set == set && sql.columns.is_empty() && fits(node, rust, &sql.returned);
        let agrees = match library::returned(function) {
            Returned::Nothing => returns("void", false),
            Returned::One(rust) => returns(&rust, false),
            Returned::SetOf(rust) => returns(&rust, true),
            Returned::Rows(columns) => {
                found.extend(differences(node, "column", &columns, &sql.columns));
                sql.returns_set
            }
        };
        if !agrees {
            found.push(format!("Rust returns {:?}, SQL {}", library::returned(function), sql.returned));
        }
        faults.extend(found.into_iter().map(|fault| format!("{}: {fault}", sql.name)));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The library may be newer than the SQL that calls it, until ALTER EXTENSION … UPDATE, and older, after the package was rolled
/// back. Either would read beyond the arguments or columns that the other one has, if a function's C symbol stayed the same when
/// those change.
#[test]
fn a_released_symbol_keeps_its_arguments_and_columns_for_ever() {
    let cluster = Cluster::new("released_functions").start();
    let [node] = cluster.all();
    node.sql("CREATE EXTENSION spock_recovery");
    node.sql("CREATE DATABASE released");
    node.db("released").sql(&format!("CREATE EXTENSION spock_recovery VERSION '{RELEASED}'"));
    let (now, released) = (functions_in_sql(node.db("postgres")), functions_in_sql(node.db("released")));
    let section = library::section_of(cluster.installation());
    let in_rust = library::functions(&section);
    let mut faults = Vec::new();
    for (symbol, sql) in &released {
        let Some(function) = in_rust.iter().find(|function| library::symbol(function) == *symbol) else {
            faults.push(format!("{symbol} is in the SQL of {RELEASED}, and not in the library any more"));
            continue;
        };
        let mut found = differences(node, "argument", &library::arguments(function), &sql.arguments);
        if let Returned::Rows(columns) = library::returned(function) {
            found.extend(differences(node, "column", &columns, &sql.columns));
        }
        if let Some(now) = now.get(symbol)
            && (&now.arguments, &now.columns, &now.returned) != (&sql.arguments, &sql.columns, &sql.returned)
        {
            found.push(format!("the SQL of {RELEASED} declares it otherwise than the present one"));
        }
        let advice = "a function with other arguments or columns needs another symbol (fn f_2), and the old one stays";
        faults.extend(found.into_iter().map(|fault| format!("{symbol}: {fault}; {advice}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_procedure_finds_nothing_of_its_callers_after_it_has_committed() {
    let is_end = |line: &str| {
        line == "COMMIT;"
            || (line.starts_with("CALL @extschema@.") || line.starts_with("CALL spock_internal."))
                && line.ends_with(';')
    };
    let sql = project("sql/recover.sql");
    let lines: Vec<&str> = sql.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let ends: Vec<usize> = (0..lines.len()).filter(|index| is_end(lines[*index])).collect();
    assert!(ends.len() > 10, "{ends:?}");
    for end in ends {
        // What set the path was local to the transaction that has ended; so was what its commit waits for.
        let next = lines[end + 1];
        assert_eq!(next, "PERFORM spock_internal.begin_step();", "after {}", lines[end]);
    }
    let body = sql
        .split("CREATE FUNCTION spock_internal.begin_step()")
        .nth(1)
        .and_then(|rest| rest.split("$$").nth(1))
        .unwrap_or_default();
    for setting in ["'search_path', 'pg_catalog, pg_temp', true", "'synchronous_commit', 'local', true"] {
        assert!(body.contains(&format!("PERFORM pg_catalog.set_config({setting});")), "{body}");
    }
}
