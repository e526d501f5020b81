//! The sidecar: read from any bytes without a panic, and what was read is written and read again as
//! it was, with the manifest that follows it.

#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use larder::__fault::parse_sidecar;
use larder_fuzz::text::{Edit, cuts, edited};
use libfuzzer_sys::fuzz_target;

/// As a tree that was exchanged for another has it, and that has a manifest.
const WRITTEN: &str = "larder-tree 1\nstate=live\nid=1-2-3\ntree=3 -3.999999999\nfiles=10\n\
                       bytes=18446744073709551615\nstanding=durable\nreplaces=4\n\
                       replaced-standing=boot 00112233445566778899aabbccddeeff mount 0700000000000000\n\
                       label=100 %25\nmanifest=8 sha256=\
                       00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\nend\n\
                       d 0755 .";

const LAST_LINE: &[u8] = b"\nend\n";

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
    assert!(text.len() <= MAX_BYTES, "too long to be read again");
    let mut pieces = bytes.windows(LAST_LINE.len());
    let end = pieces.position(|piece| piece == LAST_LINE);
    let manifest = &bytes[end.expect("a torn sidecar was read") + LAST_LINE.len()..];
    let written = [text.as_bytes(), manifest].concat();
    let again = parse_sidecar(&written).expect("what was written is refused");
    assert_eq!(without_id(&again), without_id(&text));
    for cut in cuts(&text) {
        assert_eq!(
            parse_sidecar(cut),
            None,
            "cut off after {} bytes",
            cut.len()
        );
    }
    for len in [0, manifest.len() / 2, manifest.len().saturating_sub(1)] {
        let cut = &written[..text.len() + len];
        assert!(
            len == manifest.len() || parse_sidecar(cut).is_none(),
            "{len} of the manifest"
        );
    }
}

/// All but the line with the time and the process in it.
fn without_id(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.starts_with("id="))
        .collect()
}
