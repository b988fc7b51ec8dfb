//! Text in this database's encoding, and as a Rust string (mb/pg_wchar.h).
//!
//! pgrx assumes that every text is in UTF-8, and panics if it is not. Conversions need a transaction, and raise 22P05
//! if the database's encoding lacks a character.

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{FromDatum, IntoDatum};
use std::ffi::{CStr, CString};

/// A value of type `text` with the server's bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Text(pub CString);

impl Text {
    pub fn to_utf8(&self) -> String {
        to_utf8(&self.0)
    }

    /// A message for a person. If this database's encoding cannot express it, every character that is not ASCII becomes
    /// a question mark.
    pub fn of_message(message: &str) -> Text {
        let converted = super::interrupts::catch(|| to_server(message)).ok().flatten();
        Text(converted.unwrap_or_else(|| {
            let printable =
                message.chars().map(|c| if c.is_ascii() && c != '\0' { c } else { '?' }).collect::<String>();
            CString::new(printable).unwrap_or_default()
        }))
    }
}

/// Converts text of this database's encoding to UTF-8. The encoding is unknown in SQL_ASCII and in the launcher, which
/// has no database, and outside a transaction nothing can be converted. In these cases bytes that are not UTF-8 become
/// the replacement character.
pub fn to_utf8(text: &CStr) -> String {
    let length = text.to_bytes().len();
    // SAFETY: reads the state of this session.
    let is_unknown = unsafe {
        pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_SQL_ASCII as i32 || !pg_sys::IsTransactionState()
    };
    // ASCII is the same in every server encoding.
    if is_unknown || text.to_bytes().is_ascii() {
        return text.to_string_lossy().into_owned();
    }
    // SAFETY: NUL-terminated; the result is the same pointer, or a NUL-terminated palloc'd copy.
    unsafe {
        let converted = pg_sys::pg_server_to_any(text.as_ptr(), length as i32, pg_sys::pg_enc::PG_UTF8 as i32);
        CStr::from_ptr(converted).to_string_lossy().into_owned()
    }
}

/// Like [`to_utf8`], but returns None if the result is not valid UTF-8: a database in SQL_ASCII accepts bytes of any
/// encoding.
pub fn to_utf8_exactly(text: &CStr) -> Option<String> {
    let bytes = text.to_bytes();
    // SAFETY: reads the state of this session.
    if bytes.is_ascii() || unsafe { pg_sys::GetDatabaseEncoding() } == pg_sys::pg_enc::PG_SQL_ASCII as i32 {
        return text.to_str().ok().map(str::to_owned);
    }
    // SAFETY: NUL-terminated; the result is the same pointer, or a NUL-terminated palloc'd copy.
    unsafe {
        let converted = pg_sys::pg_server_to_any(text.as_ptr(), bytes.len() as i32, pg_sys::pg_enc::PG_UTF8 as i32);
        CStr::from_ptr(converted).to_str().ok().map(str::to_owned)
    }
}

/// The bytes of a text in UTF-8. In SQL_ASCII these are the bytes as they are. The result lives in the current memory
/// context if it had to be converted.
pub(super) fn utf8_of(bytes: &[u8]) -> &[u8] {
    // SAFETY: reads the state of this session.
    let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
    let is_utf8 = [pg_sys::pg_enc::PG_UTF8, pg_sys::pg_enc::PG_SQL_ASCII].iter().any(|known| *known as i32 == encoding);
    if is_utf8 || bytes.is_ascii() {
        return bytes;
    }
    // SAFETY: reads so many bytes; the result is the same pointer, or a NUL-terminated palloc'd copy.
    unsafe {
        let text = bytes.as_ptr().cast();
        let converted = pg_sys::pg_server_to_any(text, bytes.len() as i32, pg_sys::pg_enc::PG_UTF8 as i32);
        if std::ptr::eq(converted, text) { bytes } else { CStr::from_ptr(converted).to_bytes() }
    }
}

/// Converts a text to this database's encoding. None if it contains a NUL, which no text in PostgreSQL can.
pub fn to_server(text: &str) -> Option<CString> {
    let text = CString::new(text).ok()?;
    // ASCII is the same in every server encoding, and needs no transaction.
    if text.as_bytes().is_ascii() {
        return Some(text);
    }
    let length = text.as_bytes().len();
    // SAFETY: NUL-terminated; the result is the same pointer, or a NUL-terminated palloc'd copy.
    unsafe {
        let converted = pg_sys::pg_any_to_server(text.as_ptr(), length as i32, pg_sys::pg_enc::PG_UTF8 as i32);
        Some(CStr::from_ptr(converted).to_owned())
    }
}

impl FromDatum for Text {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _type: pg_sys::Oid) -> Option<Self> {
        // SAFETY: the caller guarantees a datum of type text; text_to_cstring makes a copy, NUL-terminated.
        (!is_null).then(|| unsafe {
            let text = pg_sys::text_to_cstring(datum.cast_mut_ptr());
            Text(CStr::from_ptr(text).to_owned())
        })
    }
}

impl IntoDatum for Text {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        // SAFETY: NUL-terminated; copied.
        Some(pg_sys::Datum::from(unsafe { pg_sys::cstring_to_text(self.0.as_ptr()) }))
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TEXTOID
    }
}

// SAFETY: the datum of an array of text, copied.
unsafe impl pgrx::datum::UnboxDatum for Text {
    type As<'src> = Text;

    unsafe fn unbox<'src>(datum: pgrx::datum::Datum<'src>) -> Text
    where
        Self: 'src,
    {
        // SAFETY: the caller guarantees a datum of type text that is not null.
        unsafe { Text::from_datum(datum.sans_lifetime(), false) }.unwrap_or_default()
    }
}

// SAFETY: SQL declares these arguments and results as `text`.
unsafe impl SqlTranslatable for Text {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Text);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("text"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("text")));
}

// SAFETY: unboxes by the FromDatum above.
unsafe impl<'fcx> ArgAbi<'fcx> for Text {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller guarantees the type; pgrx has checked for null.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or_default()
    }
}

// SAFETY: the datum lives in the caller's memory context.
unsafe impl BoxRet for Text {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: a datum of the declared type.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}
