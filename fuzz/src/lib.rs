//! What the fuzz targets share.
//!
//! One of them runs sequences of operations on a store and on a model of it, and compares: `files`. The others read texts, which `text` spoils for them.

// The library keeps these to one module of its own; what is done by hand here is not its business.
#![allow(clippy::disallowed_methods)]

pub mod body;
pub mod files;
pub mod keys;
pub mod scratch;
pub mod text;
