//! What the fuzz targets share.
//!
//! Two of them run sequences of operations on a store and on a model of it, and compare: `files`
//! and `dirs`. The others read texts, which `text` spoils for them.

// The library keeps these to one module of its own; what is done by hand here is not its business.
#![allow(clippy::disallowed_methods)]

pub mod body;
pub mod dirs;
pub mod files;
pub mod keys;
pub mod plant;
pub mod scratch;
pub mod text;
