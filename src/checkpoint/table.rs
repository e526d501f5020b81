//! The text of a file of checkpoints, read and written.
//!
//! Pure. Invariant: what it reads it writes as it was, keys and states of others too; and what is not exactly
//! a file of this version is an error that tells where.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::key::{CheckpointKey, KEY_VERSION, NOT_A_KEY};
use crate::error::ErrorKind;

const VERSION: u64 = 1;

/// What there is to do about a file that is none.
const MEND: &str = "move it away, or put a whole copy in its place";

const VERSION_FIELD: &str = "larder_checkpoints";
const KEY_VERSION_FIELD: &str = "key_version";

/// Of how many deleted keys the sequences are remembered.
const MOST_DELETED: usize = 1000;

/// All that is in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// How often the file was changed, which tells an older one from a newer.
    pub(super) revision: u64,
    /// Above the sequences of all deleted keys of which nothing is known any more.
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
    /// Deleted, and to be remembered until so many seconds after 1970.
    Deleted(u64),
}

/// How far a key has come: what it has under a sequence comes before its deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub(super) sequence: u64,
    is_deleted: bool,
}

impl Record {
    pub(super) fn state(&self) -> Option<&Arc<str>> {
        match &self.content {
            Content::State(state) => Some(state),
            Content::Deleted(_) => None,
        }
    }

    pub(super) fn version(&self) -> Version {
        Version {
            sequence: self.sequence,
            is_deleted: self.state().is_none(),
        }
    }

    /// Writes it as a member of the checkpoints.
    fn render_to(&self, text: &mut String, key: &CheckpointKey, gap: &str) {
        let (name, value): (_, &dyn fmt::Display) = match &self.content {
            Content::State(state) => ("state", state),
            Content::Deleted(until) => ("deleted_until", until),
        };
        let sequence = self.sequence;
        // To write into a string cannot fail.
        let _ = write!(
            text,
            "\"{key}\":{gap}{{\"sequence\":{gap}{sequence},{gap}\"{name}\":{gap}{value}}}"
        );
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
            why: format!("byte {} is not UTF-8; {MEND}", err.valid_up_to() + 1),
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
                why: format!("it is damaged, or something else ({err}); {MEND}"),
            },
        })
    }

    pub(super) fn render(&self) -> String {
        self.render_with("\n", " ")
    }

    fn render_with(&self, line: &str, gap: &str) -> String {
        let Table {
            revision,
            forgotten,
            records,
        } = self;
        let mut text = format!(
            "{{{line}\"{VERSION_FIELD}\":{gap}{VERSION},{line}\"{KEY_VERSION_FIELD}\":{gap}{KEY_VERSION},{line}\
             \"revision\":{gap}{revision},{line}\"forgotten\":{gap}{forgotten},{line}\"checkpoints\":{gap}{{"
        );
        for (n, (key, record)) in records.iter().enumerate() {
            if n > 0 {
                text.push(',');
            }
            text.push_str(line);
            record.render_to(&mut text, key, gap);
        }
        text.push_str(line);
        text.push('}');
        text.push_str(line);
        text.push('}');
        text.push_str(line);
        text
    }

    /// As a text of at most so many bytes, after this key was deleted from what was no longer: forgets deleted
    /// keys where it has to, this one after all others.
    pub(super) fn render_within(&mut self, most: usize, last: &CheckpointKey) -> String {
        let text = self.render();
        if text.len() <= most {
            return text;
        }
        // `forgotten` can become longer than it was.
        let mut over = text.len() - most + "18446744073709551615".len();
        let mut deleted = self.deleted();
        deleted.sort_by_key(|(_, key)| key == last);
        for (_, key) in deleted {
            if over == 0 {
                break;
            }
            let mut line = String::new();
            if let Some(record) = self.records.get(&key) {
                record.render_to(&mut line, &key, " ");
            }
            over = over.saturating_sub(line.len());
            self.forget_key(&key);
        }
        let text = self.render();
        if text.len() <= most {
            return text;
        }
        // Somebody has written it with less space between its parts than we do. Without any, and without a whole
        // record, it is shorter than that, even if it had no `revision` and no `forgotten`.
        self.render_with("", "")
    }

    /// The table in which a key has another record, at this second.
    pub(super) fn with(&self, key: CheckpointKey, record: Record, now: u64) -> Self {
        let mut next = self.clone();
        next.revision = next.revision.saturating_add(1);
        next.records.insert(key, record);
        next.forget(now);
        next
    }

    /// Forgets deleted keys whose time has come, and the first of them where there are too many.
    fn forget(&mut self, now: u64) {
        let deleted = self.deleted();
        let too_many = deleted.len().saturating_sub(MOST_DELETED);
        for (n, (until, key)) in deleted.into_iter().enumerate() {
            if until < now || n < too_many {
                self.forget_key(&key);
            }
        }
    }

    /// The deleted keys, and until when each is remembered; the first to be forgotten first.
    fn deleted(&self) -> Vec<(u64, CheckpointKey)> {
        let deleted = self
            .records
            .iter()
            .filter_map(|(key, record)| match record.content {
                Content::Deleted(until) => Some((until, *key)),
                Content::State(_) => None,
            });
        let mut deleted: Vec<(u64, CheckpointKey)> = deleted.collect();
        deleted.sort_unstable();
        deleted
    }

    fn forget_key(&mut self, key: &CheckpointKey) {
        if let Some(record) = self.records.remove(key) {
            self.forgotten = self.forgotten.max(record.sequence.saturating_add(1));
        }
    }
}

/// For the fuzz target: reads a file, and writes it again.
#[cfg(feature = "__fault")]
pub(crate) fn parse_for_fuzzing(bytes: &[u8]) -> Option<String> {
    Some(Table::parse(bytes).ok()?.render())
}

/// That a text is a file of another version, which explains why it could not be read.
fn other_version(text: &str) -> Option<String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let (version, key_version) = Versions.deserialize(&mut json).ok()?;
    let differs = |found: Option<u64>, ours: u64, what: &str| {
        let found = found.filter(|&found| found != ours)?;
        let why =
            format!("{what} is {found}, and this program knows {ours}; use one that knows it");
        Some(why)
    };
    differs(version, VERSION, "its version")
        .or_else(|| differs(key_version, KEY_VERSION, "the version of its keys"))
}

/// The two versions, and nothing else of a file, which may be large.
struct Versions;

impl<'de> DeserializeSeed<'de> for Versions {
    type Value = (Option<u64>, Option<u64>);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Versions {
    type Value = (Option<u64>, Option<u64>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("checkpoints")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut version, mut key_version) = (None, None);
        while let Some(field) = map.next_key::<String>()? {
            match &*field {
                VERSION_FIELD => version = Some(map.next_value()?),
                KEY_VERSION_FIELD => key_version = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok((version, key_version))
    }
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
        let (mut revision, mut forgotten, mut records) = (None, None, None);
        while let Some(field) = map.next_key::<String>()? {
            match &*field {
                VERSION_FIELD if version.is_none() => version = Some(map.next_value::<u64>()?),
                KEY_VERSION_FIELD if key_version.is_none() => key_version = Some(map.next_value()?),
                "revision" if revision.is_none() => revision = Some(map.next_value()?),
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
            revision: revision.unwrap_or(0),
            forgotten: forgotten.unwrap_or(0),
            records: records.ok_or_else(|| A::Error::missing_field("checkpoints"))?,
        })
    }
}

fn one_too_many<E: serde::de::Error>(field: &str) -> E {
    E::custom(format!("the member {field:?} is unknown, or there twice"))
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
                "deleted_until" if content.is_none() => {
                    content = Some(Content::Deleted(map.next_value()?));
                }
                _ => return Err(one_too_many(&field)),
            }
        }
        match (sequence, content) {
            // Above it there would be none for what comes next.
            (Some(u64::MAX), _) => Err(A::Error::custom("the sequence is too large")),
            (Some(sequence), Some(content)) => Ok(Record { sequence, content }),
            (None, _) => Err(A::Error::custom("there is no sequence")),
            (_, None) => Err(A::Error::custom("there is no state")),
        }
    }
}

/// JSON as it is, but for the ends of lines that somebody's editor, or type, may have put between its parts: within
/// a string there are none.
pub(super) fn on_one_line(json: &str) -> Arc<str> {
    match json.contains(['\n', '\r']) {
        true => json.replace(['\n', '\r'], " ").into(),
        false => json.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u16) -> CheckpointKey {
        let mut digest = [0; 32];
        digest[..2].copy_from_slice(&n.to_be_bytes());
        CheckpointKey::new(digest)
    }

    fn table(records: impl IntoIterator<Item = (u16, u64, Content)>) -> Table {
        let record = |(n, sequence, content)| (key(n), Record { sequence, content });
        Table {
            revision: 4,
            forgotten: 7,
            records: records.into_iter().map(record).collect(),
        }
    }

    fn state(json: &str) -> Content {
        Content::State(json.into())
    }

    #[test]
    fn what_is_written_is_read() {
        let table = table([
            (1, 3, state("null")),
            (3, u64::MAX - 1, state("{\"a\":1.0000000000000000000001}")),
            (9, 5, Content::Deleted(12)),
        ]);
        for table in [Table::default(), table] {
            let text = table.render();
            assert_eq!(Table::parse(text.as_bytes()).unwrap(), table, "{text}");
        }
    }

    #[test]
    fn every_truncation_is_malformed() {
        let text = table([(1, 1, state("{}"))]).render();
        for len in 0..text.len() - 1 {
            assert!(Table::parse(&text.as_bytes()[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn what_was_deleted_long_ago_is_forgotten_but_for_its_sequence() {
        let deleted = [(1, 3), (2, 9), (3, 4)];
        let deleted =
            deleted.map(|(n, sequence)| (n, sequence, Content::Deleted(100 + u64::from(n))));
        let before = table(deleted);
        let content = state("1");
        let next = before.with(
            key(4),
            Record {
                sequence: 1,
                content,
            },
            103,
        );
        assert_eq!((next.revision, next.forgotten), (5, 10));
        let left: Vec<&CheckpointKey> = next.records.keys().collect();
        assert_eq!(left, [&key(3), &key(4)]);
    }

    #[test]
    fn of_many_deleted_the_last_are_remembered() {
        let deleted = (1..=1000).map(|n| (n, u64::from(n), Content::Deleted(5000 - u64::from(n))));
        let content = Content::Deleted(9000);
        let next = table(deleted).with(
            key(2000),
            Record {
                sequence: 1,
                content,
            },
            1,
        );
        assert_eq!(next.records.len(), 1000);
        assert!(!next.records.contains_key(&key(1000)) && next.records.contains_key(&key(999)));
        assert_eq!(next.forgotten, 1001);
    }

    #[test]
    fn where_room_is_needed_the_first_deleted_are_forgotten_and_the_last_one_last() {
        let before = table([
            (1, 3, Content::Deleted(9)),
            (2, 8, Content::Deleted(2)),
            (3, 5, Content::Deleted(4)),
            (4, 1, state("1")),
        ]);
        let whole = before.render().len();
        let left = |most: usize| {
            let mut table = before.clone();
            let text = table.render_within(most, &key(2));
            assert!(text.len() <= most, "{most}: {text}");
            assert_eq!(Table::parse(text.as_bytes()).unwrap(), table);
            let left = [1, 3, 2, 4].map(|n| table.records.contains_key(&key(n)));
            (left, table.forgotten)
        };
        assert_eq!(left(whole), ([true, true, true, true], 7));
        assert_eq!(left(whole - 1), ([true, false, true, true], 7));
        assert_eq!(left(whole - 100), ([false, false, true, true], 7));
        assert_eq!(left(whole - 200), ([false, false, false, true], 9));
    }

    /// What somebody has written without any space has to have room without one state, too.
    #[test]
    fn what_is_left_after_a_deletion_never_takes_more_room_than_there_was() {
        let record = |n| format!("\"{}\":{{\"sequence\":9,\"state\":0}}", key(n));
        let records: Vec<String> = (0..400).map(record).collect();
        let text = format!(
            "{{\"larder_checkpoints\":1,\"key_version\":1,\"checkpoints\":{{{}}}}}",
            records.join(",")
        );
        let before = Table::parse(text.as_bytes()).unwrap();
        let deleted = Record {
            sequence: 9,
            content: Content::Deleted(2_000_000_000),
        };
        let mut next = before.with(key(7), deleted, 1);
        let written = next.render_within(text.len(), &key(7));
        assert!(written.len() <= text.len());
        assert_eq!(Table::parse(written.as_bytes()).unwrap(), next);
        assert_eq!((next.records.len(), next.forgotten), (399, 10));
    }
}
