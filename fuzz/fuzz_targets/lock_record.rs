//! The holder's record: read from any bytes without a panic and within bounds, read back as it was
//! written, and, when it is cut or changed, taken for nothing it does not say.

#![no_main]

use std::num::NonZeroU32;
use std::time::{Duration, UNIX_EPOCH};

use arbitrary::{Arbitrary, Result, Unstructured};
use larder::__fault::parse_lock_record;
use larder::Holder;
use larder_fuzz::text::{Edit, edited, escaped};
use libfuzzer_sys::fuzz_target;

/// What the library reads of a lock file.
const MAX_BYTES: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // The same bytes once more, as a record and what befell it.
    let _ = written_and_changed(&mut Unstructured::new(bytes));
});

/// What holds whatever the bytes are.
fn check(bytes: &[u8]) -> Option<Holder> {
    let holder = parse_lock_record(bytes)?;
    assert_ne!(holder.pid, 0);
    for text in [&holder.host, &holder.label].into_iter().flatten() {
        assert!(text.len() <= MAX_BYTES, "{} bytes", text.len());
    }
    let whole = &bytes[..bytes.len().min(MAX_BYTES)];
    let end = whole.windows(5).position(|window| window == b"\nend\n");
    let end = end.expect("a record without an end was taken for one");
    assert_eq!(
        parse_lock_record(&bytes[..end + 5]).as_ref(),
        Some(&holder),
        "what follows the end changed it"
    );
    assert_eq!(
        parse_lock_record(&bytes[..end + 4]),
        None,
        "a torn record was taken for one"
    );
    assert!(holder.to_string().starts_with("process "));
    Some(holder)
}

#[derive(Arbitrary, Debug)]
struct Record {
    pid: NonZeroU32,
    host: Option<String>,
    since: Option<(u32, u32)>,
    label: Option<String>,
}

fn written_and_changed(input: &mut Unstructured<'_>) -> Result<()> {
    let record = Record::arbitrary(input)?;
    let since = record
        .since
        .map(|(seconds, nanos)| (seconds, nanos % 1_000_000_000));
    let mut text = format!("larder-lock 1\npid={}\n", record.pid);
    if let Some(host) = &record.host {
        text.push_str(&format!("host={}\n", escaped(host)));
    }
    if let Some((seconds, nanos)) = since {
        text.push_str(&format!("start={seconds}.{nanos:09}\n"));
    }
    if let Some(label) = &record.label {
        text.push_str(&format!("label={}\n", escaped(label)));
    }
    text.push_str("end\n");
    match check(text.as_bytes()) {
        None => assert!(text.len() > MAX_BYTES, "refused: {text:?}"),
        Some(holder) => {
            assert_eq!(holder.pid, record.pid.get());
            assert_eq!(holder.host, record.host);
            assert_eq!(holder.label, record.label);
            let since = since.map(|(s, nanos)| UNIX_EPOCH + Duration::new(s.into(), nanos));
            assert_eq!(holder.since, since);
        }
    }
    let edits = Vec::<Edit>::arbitrary(input)?;
    check(&edited(text.into_bytes(), &edits));
    Ok(())
}
