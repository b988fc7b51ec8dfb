//! The node registry: which node this database is, which peers it has, and which node each subscription comes from.
//!
//! The registry is kept in catalogs (foreign servers, user mappings, security labels), never in tables of this
//! extension, because every FOR ALL TABLES publication would publish those.

pub mod dsn;
pub mod error;
pub mod incomplete;
pub mod label;
pub mod labelling;
pub mod native;
pub mod options;
pub mod provider;
pub mod registry;
pub mod servers;
