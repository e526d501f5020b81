//! What follows a sealed value: read from any bytes without a panic; what was read is written as it
//! was, and what was altered is not read.

#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use larder::__fault::parse_footer;
use larder_fuzz::text::{Edit, edited};
use libfuzzer_sys::fuzz_target;
use ring::digest::{Context, SHA256, digest};

const KEY: &str = "hello";
const PATH: &[u8] = b"L/P/J/Nul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";

/// A file as `docs/format.md` has it, written without the library. Its check is right, because a
/// fuzzer finds no hash.
#[derive(Arbitrary, Debug)]
struct Sealed {
    value: Vec<u8>,
    metadata: Vec<u8>,
    label: Vec<u8>,
    barrier: bool,
    witness: [u8; WITNESS_LEN],
    /// What fields say instead.
    lies: Vec<(Field, u32)>,
    edits: Vec<Edit>,
    cut: u16,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Len,
    MetadataLen,
    LabelLen,
    Algorithm,
    Flags,
    Incompatible,
    Compatible,
    TrailerLen,
    Version,
    Magic,
}

const FIELDS_LEN: usize = 72;
const WITNESS_LEN: usize = 24;

impl Field {
    /// Where it begins in the fields, and its bytes, of which a lie alters no more than four.
    fn place(self) -> (usize, usize) {
        match self {
            Field::Len => (32, 8),
            Field::MetadataLen => (40, 4),
            Field::LabelLen => (44, 2),
            Field::Algorithm => (46, 1),
            Field::Flags => (47, 1),
            Field::Incompatible => (48, 4),
            Field::Compatible => (52, 4),
            Field::TrailerLen => (56, 4),
            Field::Version => (60, 4),
            Field::Magic => (64, 8),
        }
    }
}

impl Sealed {
    fn trailer_len(&self) -> usize {
        self.metadata.len() + self.label.len() + FIELDS_LEN + 32 + WITNESS_LEN
    }

    fn fields(&self) -> Vec<u8> {
        let mut fields = digest(&SHA256, &self.value).as_ref().to_vec();
        fields.extend((self.value.len() as u64).to_le_bytes());
        fields.extend((self.metadata.len() as u32).to_le_bytes());
        fields.extend((self.label.len() as u16).to_le_bytes());
        fields.extend([1, u8::from(self.barrier)]);
        fields.extend([0; 8]);
        fields.extend((self.trailer_len() as u32).to_le_bytes());
        fields.extend(1_u32.to_le_bytes());
        fields.extend(b"larder\xf0\x0d");
        for (field, lie) in &self.lies {
            let (at, bytes) = field.place();
            let bytes = bytes.min(4);
            fields[at..at + bytes].copy_from_slice(&lie.to_le_bytes()[..bytes]);
        }
        fields
    }

    fn file(&self) -> Vec<u8> {
        let mut trailer = [&*self.metadata, &*self.label, &*self.fields()].concat();
        let mut check = Context::new(&SHA256);
        check.update(b"larder sealed value\n");
        check.update(&(PATH.len() as u32).to_le_bytes());
        check.update(PATH);
        check.update(&trailer);
        trailer.extend(check.finish().as_ref());
        trailer.extend(self.witness);
        [&*self.value, &*trailer].concat()
    }

    /// Whether the library would have written it so.
    fn is_canonical(&self) -> bool {
        let fields = self.fields();
        let ignored = Field::Compatible.place().0;
        self.label.len() <= 1024
            && std::str::from_utf8(&self.label).is_ok()
            && fields[Field::Flags.place().0] <= 1
            && fields[ignored..ignored + 4] == [0; 4]
    }
}

fuzz_target!(|bytes: &[u8]| {
    let _ = parse_footer(KEY, bytes);
    if let Ok(sealed) = Sealed::arbitrary(&mut Unstructured::new(bytes)) {
        check(&sealed);
    }
});

fn check(sealed: &Sealed) {
    let file = sealed.file();
    let trailer = &file[sealed.value.len()..];
    let read = parse_footer(KEY, &file);
    if sealed.is_canonical() {
        if let Ok(written) = &read {
            assert_eq!(written, trailer);
        }
        assert!(read.is_ok() || !sealed.lies.is_empty(), "{read:?}");
    }
    assert_eq!(parse_footer("another key", &file), Err(None));

    let end = file.len() - WITNESS_LEN;
    let altered = edited(file.clone(), &sealed.edits);
    let is_altered = altered.len() != file.len()
        || altered[sealed.value.len()..end] != file[sealed.value.len()..end];
    let cut = 1 + usize::from(sealed.cut) % file.len();
    let shorter = [&file[cut..], &file[..file.len() - cut]];
    if sealed.lies.is_empty() {
        if is_altered {
            assert_eq!(parse_footer(KEY, &altered), Err(None));
        }
        for shorter in shorter {
            assert_eq!(parse_footer(KEY, shorter), Err(None), "{cut}");
        }
    } else {
        let _ = parse_footer(KEY, &altered);
    }
}
