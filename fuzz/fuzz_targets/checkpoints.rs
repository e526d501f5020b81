//! A file of checkpoints: read from any bytes without a panic, and what was read is written and read again as
//! it was; one that is cut off is refused.

#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use larder::__fault::parse_checkpoints;
use larder_fuzz::text::{Edit, edited};
use libfuzzer_sys::fuzz_target;

const WRITTEN: &str = "{\n\"larder_checkpoints\": 1,\n\"key_version\": 1,\n\"forgotten\": 3,\n\
                       \"checkpoints\": {\n\
                       \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\": \
                       {\"sequence\": 18446744073709551615, \"state\": {\"a\": [1.50, \"\\u00e9\\n\", null]}},\n\
                       \"10112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\": \
                       {\"sequence\": 9, \"deleted\": 1795381152}\n}\n}\n";

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    if let Ok(edits) = Vec::<Edit>::arbitrary(&mut Unstructured::new(bytes)) {
        check(&edited(WRITTEN.into(), &edits));
    }
});

fn check(bytes: &[u8]) {
    let Some(text) = parse_checkpoints(bytes) else {
        return;
    };
    let again = parse_checkpoints(text.as_bytes()).expect("what was written is refused");
    assert_eq!(again, text);
    let whole = text.trim_end().len();
    for len in [0, whole / 3, whole / 2, whole - 2, whole - 1] {
        let cut = &text.as_bytes()[..len];
        assert_eq!(parse_checkpoints(cut), None, "cut off after {len}");
    }
}
