//! What the Rust side says of itself: pgrx writes an entry for each SQL function, schema and SQL file into a section of the library,
//! out of which `cargo pgrx schema` makes an install script. Read here by the same crate.

use std::fs;
use std::path::Path;

use object::{Object, ObjectSection};
use pgrx_sql_entity_graph::metadata::{Returns, SqlArrayMapping, SqlMapping};
use pgrx_sql_entity_graph::section;
use pgrx_sql_entity_graph::{PgExternEntity, PgExternReturnEntity};
use pgrx_sql_entity_graph::{SqlGraphEntity, UsedTypeEntity};

use spock_recovery_cluster::Installation;

/// The schema of `#[pg_test]` functions (pgrx's name for it).
const TEST_SCHEMA: &str = "tests";

/// The bytes of the library's section of entries; entries borrow from them.
pub fn section_of(installation: &Installation) -> Vec<u8> {
    read_section(&installation.pkglibdir.join("spock_recovery.so"))
}

fn read_section(library: &Path) -> Vec<u8> {
    let bytes = fs::read(library).unwrap_or_else(|error| panic!("{}: {error}", library.display()));
    let file = object::File::parse(&*bytes).unwrap_or_else(|error| panic!("{}: {error}", library.display()));
    let section = file
        .sections()
        .find(|section| section.name().is_ok_and(section::is_schema_section_name))
        .unwrap_or_else(|| panic!("{} has no section of pgrx", library.display()));
    section.uncompressed_data().expect("the section can be read").into_owned()
}

/// All entries, but those of the schema of tests.
pub fn entities(section: &[u8]) -> Vec<SqlGraphEntity<'_>> {
    decode(section).into_iter().filter(|entity| !is_of_tests(entity)).collect()
}

/// The functions that SQL calls.
pub fn functions(section: &[u8]) -> Vec<PgExternEntity<'_>> {
    entities(section).into_iter().filter_map(function).collect()
}

/// The functions that `#[pg_test]` has made.
pub fn test_functions(section: &[u8]) -> Vec<PgExternEntity<'_>> {
    decode(section).into_iter().filter(is_of_tests).filter_map(function).collect()
}

/// The symbol that PostgreSQL calls.
pub fn symbol(function: &PgExternEntity) -> String {
    format!("{}_wrapper", function.unaliased_name)
}

fn decode(section: &[u8]) -> Vec<SqlGraphEntity<'_>> {
    section::decode_entities(section).unwrap_or_else(|error| panic!("the library's section: {error}"))
}

fn function(entity: SqlGraphEntity<'_>) -> Option<PgExternEntity<'_>> {
    match entity {
        SqlGraphEntity::Function(function) => Some(function),
        _ => None,
    }
}

fn is_of_tests(entity: &SqlGraphEntity) -> bool {
    match entity {
        SqlGraphEntity::Function(function) => {
            function.schema == Some(TEST_SCHEMA) || function.module_path.ends_with("::tests")
        }
        SqlGraphEntity::Schema(schema) => schema.name == TEST_SCHEMA,
        _ => false,
    }
}

/// An argument or a column, as Rust declares it.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    pub name: String,
    /// In SQL's words.
    pub sql_type: String,
    pub nullable: bool,
}

/// Arguments in their order.
pub fn arguments(function: &PgExternEntity) -> Vec<Declared> {
    let named = function.fn_args.iter().map(|argument| (argument.pattern, &argument.used_ty));
    named
        .filter_map(|(name, used)| {
            let sql = used.metadata.argument_sql.as_ref().unwrap_or_else(|error| panic!("{name}: {error}"));
            Some(Declared { name: name.to_owned(), sql_type: words(sql)?, nullable: used.optional })
        })
        .collect()
}

/// What a function returns, as Rust declares it.
#[derive(Debug, Clone, PartialEq)]
pub enum Returned {
    Nothing,
    One(String),
    SetOf(String),
    Rows(Vec<Declared>),
}

pub fn returned(function: &PgExternEntity) -> Returned {
    match &function.fn_return {
        PgExternReturnEntity::None => Returned::Nothing,
        PgExternReturnEntity::Type { ty } => Returned::One(one(function, ty)),
        PgExternReturnEntity::SetOf { ty } => Returned::SetOf(one(function, ty)),
        PgExternReturnEntity::Iterated { tys } => Returned::Rows(
            tys.iter()
                .map(|column| Declared {
                    // Quoted, as it stands in `name!`.
                    name: column.name.unwrap_or_default().trim_matches('"').to_owned(),
                    sql_type: one(function, &column.ty),
                    nullable: column.ty.optional,
                })
                .collect(),
        ),
        PgExternReturnEntity::Trigger => panic!("\"{}\" is a trigger, of which there are none", function.name),
    }
}

fn one(function: &PgExternEntity, used: &UsedTypeEntity) -> String {
    match &used.metadata.return_sql {
        Ok(Returns::One(mapping) | Returns::SetOf(mapping)) => {
            words(mapping).unwrap_or_else(|| panic!("\"{}\" returns what SQL has no word for", function.name))
        }
        other => panic!("\"{}\" returns {other:?}", function.name),
    }
}

fn words(mapping: &SqlMapping) -> Option<String> {
    match mapping {
        SqlMapping::As(sql) => Some(sql.clone()),
        SqlMapping::Array(SqlArrayMapping::As(sql)) => Some(format!("{sql}[]")),
        SqlMapping::Skip => None,
        other => panic!("{other:?} is used nowhere"),
    }
}
