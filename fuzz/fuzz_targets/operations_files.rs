//! Sequences of operations on a store of files, against a model.

#![no_main]

use larder_fuzz::files::{Scenario, run};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|scenario: Scenario| run(&scenario));
