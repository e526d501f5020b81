//! Bad input gets an error that says so, and nothing else happens.
