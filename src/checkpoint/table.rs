//! The text of a file of checkpoints, read and written.
//!
//! Pure. Invariant: what it reads it writes as it was, keys and states of others too; and what is not exactly
//! a file of this version is an error that tells where.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::ops::Bound;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::key::{CheckpointKey, KEY_VERSION, NOT_A_KEY};
use crate::error::ErrorKind;

const VERSION: u64 = 1;

const VERSION_FIELD: &str = "larder_checkpoints";
const KEY_VERSION_FIELD: &str = "key_version";

/// All that is in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// The largest sequence of a deleted key of which nothing is known any more.
    pub(super) forgotten: u64,
    pub(super) records: BTreeMap<CheckpointKey, Record>,
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) sequence: u64,
    pub(super) content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A state, as JSON on one line.
    State(Arc<str>),
    /// Deleted, at so many seconds after 1970.
    Deleted(u64),
}

impl Record {
    pub(super) fn state(&self) -> Option<&Arc<str>> {
        match &self.content {
            Content::State(state) => Some(state),
            Content::Deleted(_) => None,
        }
    }
}

/// Why a text is no table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) kind: ErrorKind,
    pub(super) why: String,
}

impl Table {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(bytes).map_err(|err| Malformed {
            kind: ErrorKind::Corrupt,
            why: format!("byte {} is not UTF-8", err.valid_up_to() + 1),
        })?;
        let mut json = serde_json::Deserializer::from_str(text);
        let read = Outermost.deserialize(&mut json);
        let read = read.and_then(|table| json.end().map(|()| table));
        read.map_err(|err| match other_version(text) {
            Some(why) => Malformed {
                kind: ErrorKind::FormatMismatch,
                why,
            },
            None => Malformed {
                kind: ErrorKind::Corrupt,
                why: format!("it is damaged, or something else: {err}"),
            },
        })
    }

    /// The text of the table after a change.
    pub(super) fn render(&self, change: &Change) -> String {
        let mut text = format!(
            "{{\n\"{VERSION_FIELD}\": {VERSION},\n\"{KEY_VERSION_FIELD}\": {KEY_VERSION},\n\"forgotten\": {},\n\
             \"checkpoints\": {{",
            self.forgotten_with(change)
        );
        let Change { key, record, .. } = change;
        let before = self.records.range(..key);
        let after = self.records.range((Bound::Excluded(key), Bound::Unbounded));
        let kept = |(_, record): &(&CheckpointKey, &Record)| !change.forgets(record);
        let all = before
            .filter(kept)
            .chain([(key, record)])
            .chain(after.filter(kept));
        for (n, (key, record)) in all.enumerate() {
            let sequence = record.sequence;
            text.push_str(if n == 0 { "\n" } else { ",\n" });
            // To write into a string cannot fail.
            let _ = match &record.content {
                Content::State(state) => {
                    write!(
                        text,
                        "\"{key}\": {{\"sequence\": {sequence}, \"state\": {state}}}"
                    )
                }
                Content::Deleted(at) => {
                    write!(
                        text,
                        "\"{key}\": {{\"sequence\": {sequence}, \"deleted\": {at}}}"
                    )
                }
            };
        }
        text.push_str("\n}\n}\n");
        text
    }

    pub(super) fn apply(&mut self, change: Change) {
        self.forgotten = self.forgotten_with(&change);
        self.records.retain(|_, record| !change.forgets(record));
        self.records.insert(change.key, change.record);
    }

    fn forgotten_with(&self, change: &Change) -> u64 {
        let others = self.records.iter().filter(|(key, _)| **key != change.key);
        let forgotten = others.filter(|(_, record)| change.forgets(record));
        let sequences = forgotten.map(|(_, record)| record.sequence);
        sequences.fold(self.forgotten, u64::max)
    }
}

/// A record that takes the place of a key's, while what was deleted before a second is forgotten.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) key: CheckpointKey,
    pub(super) record: Record,
    pub(super) forget_before: u64,
}

impl Change {
    fn forgets(&self, record: &Record) -> bool {
        matches!(record.content, Content::Deleted(at) if at < self.forget_before)
    }
}

/// For the fuzz target: reads a file, and writes it again.
#[cfg(feature = "__fault")]
pub(crate) fn parse_for_fuzzing(bytes: &[u8]) -> Option<String> {
    let table = Table::parse(bytes).ok()?;
    let (key, record) = table.records.first_key_value()?;
    Some(table.render(&Change {
        key: *key,
        record: record.clone(),
        forget_before: 0,
    }))
}

/// That a text is a file of another version, which explains why it could not be read.
fn other_version(text: &str) -> Option<String> {
    let read: serde_json::Value = serde_json::from_str(text).ok()?;
    let differs = |field: &str, ours: u64, what: &str| {
        let found = read.get(field)?.as_u64()?;
        let why =
            format!("{what} is {found}, and this program knows {ours}; use one that knows it");
        (found != ours).then_some(why)
    };
    differs(VERSION_FIELD, VERSION, "its version")
        .or_else(|| differs(KEY_VERSION_FIELD, KEY_VERSION, "the version of its keys"))
}

struct Outermost;

impl<'de> DeserializeSeed<'de> for Outermost {
    type Value = Table;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Table, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Outermost {
    type Value = Table;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("checkpoints")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Table, A::Error> {
        let (mut version, mut key_version) = (None, None);
        let (mut forgotten, mut records) = (None, None);
        while let Some(field) = map.next_key::<String>()? {
            match &*field {
                VERSION_FIELD if version.is_none() => version = Some(map.next_value::<u64>()?),
                KEY_VERSION_FIELD if key_version.is_none() => key_version = Some(map.next_value()?),
                "forgotten" if forgotten.is_none() => forgotten = Some(map.next_value()?),
                "checkpoints" if records.is_none() => {
                    records = Some(map.next_value_seed(Records)?);
                }
                _ => return Err(one_too_many(&field)),
            }
        }
        if (version, key_version) != (Some(VERSION), Some(KEY_VERSION)) {
            return Err(A::Error::custom("it does not say which version it has"));
        }
        Ok(Table {
            forgotten: forgotten.unwrap_or(0),
            records: records.ok_or_else(|| A::Error::missing_field("checkpoints"))?,
        })
    }
}

fn one_too_many<E: serde::de::Error>(field: &str) -> E {
    E::custom(format!("{field:?} is one too many"))
}

struct Records;

impl<'de> DeserializeSeed<'de> for Records {
    type Value = BTreeMap<CheckpointKey, Record>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Records {
    type Value = BTreeMap<CheckpointKey, Record>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a checkpoint for each key")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut records = BTreeMap::new();
        while let Some(text) = map.next_key::<String>()? {
            let key = text.parse::<CheckpointKey>();
            let key =
                key.map_err(|_| A::Error::custom(format!("{NOT_A_KEY}, and not {text:?}")))?;
            let record = map.next_value_seed(OneRecord)?;
            if records.insert(key, record).is_some() {
                return Err(A::Error::custom(format!("the key {key} is there twice")));
            }
        }
        Ok(records)
    }
}

struct OneRecord;

impl<'de> DeserializeSeed<'de> for OneRecord {
    type Value = Record;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Record, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneRecord {
    type Value = Record;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence, and a state or when it was deleted")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
        let (mut sequence, mut content) = (None, None);
        while let Some(field) = map.next_key::<String>()? {
            match &*field {
                "sequence" if sequence.is_none() => sequence = Some(map.next_value()?),
                "state" if content.is_none() => {
                    let state: &RawValue = map.next_value()?;
                    content = Some(Content::State(on_one_line(state.get())));
                }
                "deleted" if content.is_none() => {
                    content = Some(Content::Deleted(map.next_value()?));
                }
                _ => return Err(one_too_many(&field)),
            }
        }
        match (sequence, content) {
            (Some(sequence), Some(content)) => Ok(Record { sequence, content }),
            (None, _) => Err(A::Error::custom("there is no sequence")),
            (_, None) => Err(A::Error::custom("there is no state")),
        }
    }
}

/// JSON as it is, but for the ends of lines that somebody's editor may have put between its parts: within a
/// string there are none.
fn on_one_line(json: &str) -> Arc<str> {
    match json.contains(['\n', '\r']) {
        true => json.replace(['\n', '\r'], " ").into(),
        false => json.into(),
    }
}

/// Whether two states are the same, in whatever order their members are: that of a hash map changes.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    let value = |json| serde_json::from_str::<serde_json::Value>(json).ok();
    one == other || value(one).is_some_and(|one| value(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(records: &[(u8, u64, Content)]) -> Table {
        let record = |(key, sequence, content): &(u8, u64, Content)| {
            let (sequence, content) = (*sequence, content.clone());
            (CheckpointKey::new([*key; 32]), Record { sequence, content })
        };
        Table {
            forgotten: 7,
            records: records.iter().map(record).collect(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let state = |json: &str| Content::State(json.into());
        let before = [
            (1, 3, state("null")),
            (3, u64::MAX, state("{\"a\":1.0000000000000000000001}")),
            (9, 5, Content::Deleted(12)),
        ];
        for key in [0, 3, 4, 255] {
            let key = CheckpointKey::new([key; 32]);
            let sequence = 4;
            let content = state("[\"\\n\"]");
            let record = Record { sequence, content };
            let change = Change {
                key,
                record,
                forget_before: 12,
            };
            let mut expected = table(&before);
            let text = expected.render(&change);
            expected.apply(change);
            assert_eq!(Table::parse(text.as_bytes()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn every_truncation_is_malformed() {
        let content = Content::State("{}".into());
        let text = Table::default().render(&Change {
            key: CheckpointKey::new([1; 32]),
            record: Record {
                sequence: 1,
                content,
            },
            forget_before: 0,
        });
        for len in 0..text.len() - 1 {
            assert!(Table::parse(&text.as_bytes()[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn what_was_deleted_long_ago_is_forgotten_but_for_its_sequence() {
        let deleted = [
            (1, 3, Content::Deleted(99)),
            (2, 9, Content::Deleted(99)),
            (3, 4, Content::Deleted(100)),
        ];
        let mut table = table(&deleted);
        let change = Change {
            key: CheckpointKey::new([4; 32]),
            record: table.records[&CheckpointKey::new([3; 32])].clone(),
            forget_before: 100,
        };
        let read = Table::parse(table.render(&change).as_bytes()).unwrap();
        table.apply(change);
        assert_eq!(read, table);
        assert_eq!((table.forgotten, table.records.len()), (9, 2));
    }
}
