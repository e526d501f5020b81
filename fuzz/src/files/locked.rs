//! What is done under a key's lock.

use larder::{ErrorKind, KVFileLock, PathKey};

use super::{Files, How, Place, Then, is_in_the_way};
use crate::body::{Body, Ending, Expected, bytes_of};
use crate::keys::Key;
use crate::scratch::check_busy;

impl Files {
    pub(super) fn lock(&mut self, key: Key, how: How) -> Option<KVFileLock> {
        let lock = match how {
            How::Lock => self.store.lock(&key).map(Some),
            How::Try => self.store.try_lock(&key),
            How::IfExists => self.store.lock_if_exists(&key),
        };
        let held = self.held.contains_key(&key);
        let there = self.model.contains_key(&key.key());
        let place = self.place(key, None);
        match lock {
            Ok(Some(lock)) => {
                assert!(!held && place != Place::BelowAFile);
                assert!(how != How::IfExists || there);
                assert_eq!(lock.path(), self.scratch.base().join(key.key()));
                Some(lock)
            }
            Ok(None) => {
                match how {
                    How::Lock => panic!("neither lock nor error"),
                    How::Try => assert!(held),
                    How::IfExists => assert!(!there && place == Place::Free),
                }
                None
            }
            Err(err) if err.kind() == ErrorKind::Busy => {
                assert!(held && (how == How::Lock || how == How::IfExists && there));
                check_busy(&err, key);
                None
            }
            Err(err) => {
                assert!(is_in_the_way(&err), "{err:?}");
                assert!(place != Place::Free, "{err:?}");
                None
            }
        }
    }

    /// Gives the lock back if it is still there.
    pub(super) fn under(&mut self, key: Key, lock: KVFileLock, then: &Then) -> Option<KVFileLock> {
        let place = self.place(key, None);
        match then {
            Then::Nothing => {}
            Then::Read => match lock.reader() {
                Ok(reader) => {
                    assert_eq!(place, Place::Free);
                    let found = reader.map(|mut reader| {
                        let bytes = bytes_of(&mut reader);
                        assert_eq!(reader.len(), bytes.len() as u64);
                        bytes
                    });
                    assert_eq!(found.as_ref(), self.model.get(&key.key()));
                }
                Err(err) => assert!(place == Place::Directory && is_in_the_way(&err)),
            },
            Then::Write(body) => self.write(key, &lock, body),
            Then::Remove => {
                match lock.remove() {
                    Ok(removed) => {
                        assert_eq!(place, Place::Free);
                        assert_eq!(removed, self.model.remove(&key.key()).is_some());
                    }
                    Err(err) => assert!(place == Place::Directory && is_in_the_way(&err)),
                }
                return None;
            }
        }
        Some(lock)
    }

    fn write(&mut self, key: Key, lock: &KVFileLock, body: &Body) {
        let mut writer = lock.begin().unwrap();
        let written = body.write_to(&mut writer);
        let commits = match body.ending() {
            Ending::Ok => written.is_ok(),
            Ending::IgnoringErrors => true,
            Ending::Error | Ending::Panic => false,
        };
        if !commits {
            return;
        }
        match (body.expected_of_commit(), writer.commit()) {
            (Expected::Fails(kind), Err(err)) => assert_eq!(err.kind(), kind),
            (Expected::Published(_), Err(err)) => {
                assert_eq!(self.place(key, None), Place::Directory);
                assert!(is_in_the_way(&err));
            }
            (Expected::Published(bytes), Ok(mut reader)) => {
                assert_eq!(self.place(key, None), Place::Free);
                assert_eq!(bytes_of(&mut reader), bytes);
                assert_eq!(reader.len(), bytes.len() as u64);
                self.kept.push((reader.detach_unlocked(), bytes.clone()));
                self.model.insert(key.key(), bytes);
            }
            (expected, committed) => panic!("expected {expected:?}, got {committed:?}"),
        }
    }
}
