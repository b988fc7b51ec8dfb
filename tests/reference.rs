//! The reference of settings and views is what a fresh installation says of itself. tests/manual/ compares what needs no server.

use std::collections::BTreeMap;

use crate::cluster::{Cluster, Node};
use crate::install::project;

/// The rows of the table below a heading of a document.
fn rows(document: &str, heading: &str) -> Vec<Vec<String>> {
    let part = document
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("there is no heading {heading}"))
        .1
        .split("\n## ")
        .next()
        .unwrap_or_default();
    let lines = part.lines().filter(|line| line.starts_with('|')).skip(2);
    lines.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn bare(cell: &str) -> String {
    cell.replace('`', "")
}

/// `10 s` in milliseconds, where that is the unit; else the number.
fn amount(text: &str) -> i64 {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let number: i64 = number.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    number
        * match unit {
            "" | "ms" | "MB" => 1,
            "s" => 1_000,
            "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            other => panic!("{text}: what is {other}?"),
        }
}

/// What pg_settings says: default, unit, range, context.
fn settings_of(node: &Node) -> BTreeMap<String, [String; 4]> {
    let rows = node.db("postgres").rows(
        "SELECT name, boot_val, coalesce(unit, ''), CASE WHEN vartype = 'integer' THEN min_val || ' to ' || max_val
                ELSE coalesce(array_to_string(enumvals, ', '), '') END, context
           FROM pg_settings WHERE name LIKE 'spock.%'",
    );
    let text = |cell: Option<String>| cell.expect("never null");
    rows.into_iter()
        .map(|row| {
            let [name, default, unit, range, context]: [Option<String>; 5] = row.try_into().expect("five columns");
            (text(name), [text(default), text(unit), text(range), text(context)])
        })
        .collect()
}

fn documented_settings() -> BTreeMap<String, [String; 4]> {
    let document = project("docs/reference/settings.md");
    rows(&document, "## Settings of the server")
        .into_iter()
        .map(|row| {
            let [name, default, unit, range, context] = [0, 1, 2, 3, 4].map(|column| bare(&row[column]));
            let is_number = default.starts_with(|c: char| c.is_ascii_digit());
            let default = if is_number { amount(&default).to_string() } else { default };
            let range = match range.split_once(" to ") {
                Some((least, most)) => format!("{} to {}", amount(least), amount(most)),
                None => range,
            };
            (name, [default, unit, range, context])
        })
        .collect()
}

/// A view's columns and their types, in their order.
type Columns = Vec<(String, String)>;

fn views_of(node: &Node) -> BTreeMap<String, Columns> {
    let rows = node.db("postgres").rows(
        "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
           FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
          WHERE c.relnamespace = 'spock'::regnamespace AND c.relkind IN ('v', 'm') ORDER BY c.relname, a.attnum",
    );
    let mut views: BTreeMap<String, Columns> = BTreeMap::new();
    for row in rows {
        let [view, column, of_type]: [Option<String>; 3] = row.try_into().expect("three columns");
        let of_type = match of_type.expect("never null").as_str() {
            "timestamp with time zone" => "timestamptz".to_owned(),
            "double precision" => "float8".to_owned(),
            other => other.to_owned(),
        };
        views.entry(view.expect("never null")).or_default().push((column.expect("never null"), of_type));
    }
    views
}

fn documented_views() -> BTreeMap<String, Columns> {
    let document = project("docs/reference/views.md");
    let names = document.lines().filter_map(|line| line.strip_prefix("## "));
    names
        .map(|name| {
            let rows = rows(&document, &format!("## {name}"));
            (name.to_owned(), rows.iter().map(|row| (bare(&row[0]), bare(&row[1]))).collect())
        })
        .collect()
}

#[test]
fn the_reference_has_every_setting_and_view_as_a_fresh_installation_has_them() {
    let cluster = Cluster::new("reference").start();
    let [node] = cluster.all();
    node.sql("CREATE EXTENSION spock_recovery");
    assert_eq!(documented_settings(), settings_of(node), "settings: documented, and as they are");
    assert_eq!(documented_views(), views_of(node), "views: documented, and as they are");
}
