//! Sequences of operations on a store of directories, against a model.

#![no_main]

use larder_fuzz::dirs::{Scenario, run};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|scenario: Scenario| run(&scenario));
