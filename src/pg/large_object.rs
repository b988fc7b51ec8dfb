//! Large objects that belong to this library (catalog/pg_largeobject.h, libpq/be-fsstubs.h). They are durable with the
//! commit, in WAL and in every backup, readable by superusers alone, and published by no publication.
//!
//! The bootstrap superuser owns them. An object with another owner was created by somebody else under the same oid, and
//! is neither read nor removed.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::{self, Oid};
use pgrx::{Spi, spi};
use std::collections::BTreeSet;

/// The number of bytes that are written at once.
pub const PIECE: usize = 1 << 20;

/// `INV_WRITE` (libpq/libpq-fs.h).
const FOR_WRITING: i32 = 0x0002_0000;

/// Creates an object and returns its oid. The current role must be the bootstrap superuser.
pub fn create() -> Result<u32, spi::Error> {
    Ok(Spi::get_one::<Oid>("SELECT pg_catalog.lo_create(0)")?.unwrap_or(Oid::INVALID).to_u32())
}

/// Writes bytes at an offset. The object becomes longer if it has to.
pub fn put(object: u32, offset: i64, bytes: &[u8]) -> Result<(), spi::Error> {
    let arguments: [DatumWithOid; 3] = [Oid::from_u32(object).into(), offset.into(), bytes.into()];
    Spi::run_with_args("SELECT pg_catalog.lo_put($1, $2, $3)", &arguments)
}

/// Makes an object that is longer end after so many bytes.
pub fn truncate(object: u32, length: i64) -> Result<(), spi::Error> {
    let arguments: [DatumWithOid; 3] = [Oid::from_u32(object).into(), FOR_WRITING.into(), length.into()];
    Spi::run_with_args(
        "SELECT pg_catalog.lo_truncate64(opened.fd, $3), pg_catalog.lo_close(opened.fd)
           FROM pg_catalog.lo_open($1, $2) opened(fd)",
        &arguments,
    )
}

/// Removes the object; does nothing if it is gone already. Needs a snapshot.
pub fn remove(object: u32) -> Result<(), spi::Error> {
    let question =
        "SELECT pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata WHERE oid = $1 AND lomowner = 10";
    Spi::run_with_args(question, &[Oid::from_u32(object).into()])
}

/// Which of these objects exist, as the active snapshot sees them.
pub fn present(objects: &BTreeSet<u32>) -> Result<BTreeSet<u32>, spi::Error> {
    let list: Vec<Oid> = objects.iter().map(|object| Oid::from_u32(*object)).collect();
    let question = "SELECT oid FROM pg_catalog.pg_largeobject_metadata WHERE oid = ANY ($1) AND lomowner = 10";
    Spi::connect(|client| {
        let rows = client.select(question, None, &[list.into()])?.map(|row| row.get::<Oid>(1));
        rows.map(|oid| Ok(oid?.unwrap_or(Oid::INVALID).to_u32())).collect()
    })
}

/// The content of the pages from `first` on, `count` at most, as the active snapshot sees them; None: there are none.
pub fn pages(object: u32, first: i32, count: i32) -> Result<Option<Vec<u8>>, spi::Error> {
    let end = first.saturating_add(count);
    let arguments: [DatumWithOid; 3] = [Oid::from_u32(object).into(), first.into(), end.into()];
    let question = "SELECT l.data FROM pg_catalog.pg_largeobject l
                      JOIN pg_catalog.pg_largeobject_metadata m ON m.oid = l.loid AND m.lomowner = 10
                     WHERE l.loid = $1 AND l.pageno >= $2 AND l.pageno < $3 ORDER BY l.pageno";
    let pages = Spi::connect(|client| {
        let pages = client.select(question, None, &arguments)?.map(|row| row.get::<Vec<u8>>(1));
        pages.collect::<Result<Vec<_>, _>>()
    })?;
    Ok((!pages.is_empty()).then(|| pages.into_iter().flatten().flatten().collect()))
}

/// How long the object is, as the active snapshot sees it; zero: it is empty or does not exist.
pub fn length(object: u32) -> Result<i64, spi::Error> {
    // Pages have this many bytes, except for the last one (LOBLKSIZE).
    let question = "SELECT l.pageno::pg_catalog.int8 * (pg_catalog.current_setting('block_size')::pg_catalog.int8 / 4)
                           + pg_catalog.octet_length(l.data)
                      FROM pg_catalog.pg_largeobject l WHERE l.loid = $1 ORDER BY l.pageno DESC LIMIT 1";
    Spi::connect(|client| {
        let rows = client.select(question, Some(1), &[Oid::from_u32(object).into()])?;
        Ok(rows.into_iter().next().map(|row| row.get::<i64>(1)).transpose()?.flatten().unwrap_or(0))
    })
}

/// Takes a lock on the object until the transaction ends, which serialises those who write it, and excludes its removal.
/// Returns false if another session holds it and `may_wait` is false.
pub fn lock(object: u32, may_wait: bool) -> bool {
    let mode = pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE;
    let (class, object) = (super::compat::LARGE_OBJECT_RELATION_ID, Oid::from_u32(object));
    // SAFETY: the lock is released at the transaction's end.
    unsafe {
        if may_wait {
            pg_sys::LockDatabaseObject(class, object, 0, mode);
            return true;
        }
        pg_sys::ConditionalLockDatabaseObject(class, object, 0, mode)
    }
}
