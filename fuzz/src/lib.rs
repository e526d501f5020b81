//! What the fuzz targets share: texts, and ways to spoil them.

pub mod text;
