//! Arguments of functions that are called on another node (pure except for core's quoting). Each is cast to the type
//! that the function declares, so that no overload which a user has created there is a better match.

use crate::pg::clock::Timestamp;
use pgrx::spi::quote_literal;
use std::fmt::Display;

fn of_type(value: Option<impl Display>, of: &str) -> String {
    let value = value.map_or_else(|| "NULL".to_owned(), |value| quote_literal(value.to_string()));
    format!("{value}::pg_catalog.{of}")
}

pub fn name(value: &str) -> String {
    of_type(Some(value), "name")
}

pub fn text(value: Option<&str>) -> String {
    of_type(value, "text")
}

pub fn uuid(value: Option<impl Display>) -> String {
    of_type(value, "uuid")
}

pub fn lsn(value: Option<impl Display>) -> String {
    of_type(value, "pg_lsn")
}

pub fn bigint(value: i64) -> String {
    of_type(Some(value), "int8")
}

pub fn timestamp(value: Option<Timestamp>) -> String {
    match value.map(|at| at.0) {
        None => "NULL::pg_catalog.timestamptz".to_owned(),
        Some(i64::MIN) => "'-infinity'::pg_catalog.timestamptz".to_owned(),
        Some(i64::MAX) => "'infinity'::pg_catalog.timestamptz".to_owned(),
        Some(at) => {
            format!(
                "('2000-01-01 00:00:00+00'::pg_catalog.timestamptz + '1 microsecond'::pg_catalog.interval * {at}::pg_catalog.float8)"
            )
        }
    }
}
