//! The sidecar: read from any bytes without a panic, and what was read is written and read again as
//! it was.

#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use larder::__fault::parse_sidecar;
use larder_fuzz::text::{Edit, cuts, edited};
use libfuzzer_sys::fuzz_target;

const WRITTEN: &str = "larder-tree 1\nstate=live\nid=1-2-3\ninode=3\nborn=-3.999999999\nfiles=10\n\
                       bytes=18446744073709551615\ndurability=data\nboot=b\nlabel=100 %25\nend\n";

/// What the library reads of a sidecar.
const MAX_BYTES: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    if let Ok(edits) = Vec::<Edit>::arbitrary(&mut Unstructured::new(bytes)) {
        check(&edited(WRITTEN.into(), &edits));
    }
});

fn check(bytes: &[u8]) {
    let Some(text) = parse_sidecar(bytes) else {
        return;
    };
    assert!(bytes.ends_with(b"\nend\n"), "a torn sidecar was read");
    assert!(text.len() <= MAX_BYTES, "too long to be read again");
    let again = parse_sidecar(text.as_bytes()).expect("what was written is refused");
    assert_eq!(without_id(&again), without_id(&text));
    for cut in cuts(&text) {
        assert_eq!(
            parse_sidecar(cut),
            None,
            "cut off after {} bytes",
            cut.len()
        );
    }
}

/// All but the line with the time and the process in it.
fn without_id(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.starts_with("id="))
        .collect()
}
