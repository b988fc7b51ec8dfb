//! Type `name` as a Rust string, in UTF-8 whatever the database's encoding is (mb/pg_wchar.h).
//!
//! pgrx has no type for it, and takes every text for UTF-8.

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{FromDatum, IntoDatum};
use std::ffi::CStr;

/// A value of type `name`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name(pub String);

/// Text of this database's encoding as UTF-8. In SQL_ASCII, and in the launcher, which has no database, the encoding is
/// not known: what is no UTF-8 then becomes the replacement character.
pub fn to_utf8(text: &CStr) -> String {
    let length = text.to_bytes().len();
    // SAFETY: reads a setting of this session.
    if unsafe { pg_sys::GetDatabaseEncoding() } == pg_sys::pg_enc::PG_SQL_ASCII as i32 {
        return text.to_string_lossy().into_owned();
    }
    // SAFETY: NUL-terminated; the result is the same pointer, or a NUL-terminated palloc'd copy.
    unsafe {
        let converted = pg_sys::pg_server_to_any(text.as_ptr(), length as i32, pg_sys::pg_enc::PG_UTF8 as i32);
        CStr::from_ptr(converted).to_string_lossy().into_owned()
    }
}

impl FromDatum for Name {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _type: pg_sys::Oid) -> Option<Self> {
        // SAFETY: the caller vouches for a datum of type name: a NUL-terminated array of 64 bytes, by reference.
        (!is_null).then(|| Name(to_utf8(unsafe { CStr::from_ptr(datum.cast_mut_ptr()) })))
    }
}

impl IntoDatum for Name {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        let text = super::foreign_server::c_string(&self.0)?;
        // SAFETY: namestrcpy writes at most 64 bytes, always NUL-terminated, into the new array.
        unsafe {
            let converted = pg_sys::pg_any_to_server(
                text.as_ptr(),
                text.as_bytes().len() as i32,
                pg_sys::pg_enc::PG_UTF8 as i32,
            );
            let name = pg_sys::palloc0(size_of::<pg_sys::NameData>()).cast::<pg_sys::NameData>();
            pg_sys::namestrcpy(name, converted);
            Some(pg_sys::Datum::from(name))
        }
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::NAMEOID
    }
}

// SAFETY: SQL declares these arguments and results as `name`.
unsafe impl SqlTranslatable for Name {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Name);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("name"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("name")));
}

// SAFETY: unboxes by the FromDatum above.
unsafe impl<'fcx> ArgAbi<'fcx> for Name {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller vouches for the type; pgrx asks for nulls before.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or(Name(String::new()))
    }
}

// SAFETY: the datum lives in the caller's memory context.
unsafe impl BoxRet for Name {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: a datum of the declared type.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}
