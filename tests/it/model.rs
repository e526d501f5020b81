//! A store against a map, under random operations.
