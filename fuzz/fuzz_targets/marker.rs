//! The marker: read from any bytes without a panic, and what was read is written and read again as
//! it was.

#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use larder::__fault::parse_marker;
use larder_fuzz::text::{Edit, cuts, edited};
use libfuzzer_sys::fuzz_target;

const WRITTEN: &str = "larder-store 1\nkind=directories\nformat=raw\nshare=group\nincompatible=\n\
                       read-only-compatible=a\ncompatible=b,c\nend\n";

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    if let Ok(edits) = Vec::<Edit>::arbitrary(&mut Unstructured::new(bytes)) {
        check(&edited(WRITTEN.into(), &edits));
    }
});

fn check(bytes: &[u8]) {
    match parse_marker(bytes) {
        Ok(text) => {
            assert_eq!(parse_marker(text.as_bytes()).as_ref(), Ok(&text));
            let last = bytes.trim_ascii_end();
            assert!(last.ends_with(b"\nend"), "something follows the end");
            // Only the line break after the end may have been missing.
            assert!(text.len() <= bytes.len() + 1, "it grew");
            for cut in cuts(&text) {
                assert!(
                    parse_marker(cut).is_err(),
                    "cut off after {} bytes",
                    cut.len()
                );
            }
        }
        Err(why) => assert!(why.starts_with("its marker "), "{why}"),
    }
}
