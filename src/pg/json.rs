//! Type `jsonb` in this database's encoding, made of a document in UTF-8. pgrx's own type assumes that every database
//! is in UTF-8.

use super::interrupts;
use super::text::to_server;
use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{IntoDatum, direct_function_call, pg_sys};
use serde::Serialize;
use std::ffi::CString;

/// A document in JSON.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Json(String);

impl Json {
    pub fn of(document: &impl Serialize) -> Json {
        // Serialization cannot fail for structs of strings, numbers and lists.
        Json(serde_json::to_string(document).unwrap_or_else(|_| "null".to_owned()))
    }
}

/// Converts a text into this database's encoding. A character that the encoding lacks becomes `?`, so that the rest is
/// still shown.
fn in_this_encoding(text: &str) -> Option<CString> {
    match interrupts::catch(|| to_server(text)) {
        Ok(text) => text,
        Err(_) => {
            let is_there = |c: &char| {
                let mut bytes = [0; 4];
                c.is_ascii() || matches!(interrupts::catch(|| to_server(c.encode_utf8(&mut bytes))), Ok(Some(_)))
            };
            let shown: String = text.chars().map(|c| if is_there(&c) { c } else { '?' }).collect();
            to_server(&shown)
        }
    }
}

impl IntoDatum for Json {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        let text = in_this_encoding(&self.0)?;
        // SAFETY: jsonb_in takes a NUL-terminated string and returns a palloc'd value.
        unsafe { direct_function_call::<pg_sys::Datum>(pg_sys::jsonb_in, &[Some(pg_sys::Datum::from(text.as_ptr()))]) }
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}

// SAFETY: SQL declares these results as `jsonb`.
unsafe impl SqlTranslatable for Json {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Json);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}

// SAFETY: the datum lives in the caller's memory context.
unsafe impl BoxRet for Json {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: a datum of the declared type.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}
