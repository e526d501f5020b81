//! What needs no lock of the caller's.

use std::io::Write;

use larder::{ErrorKind, Outcome, PathKey, Value};

use super::{Files, Inner, Place, Reading, is_in_the_way};
use crate::body::{Body, Ending, Expected, bytes_of};
use crate::keys::Key;
use crate::scratch::{Deliberate, caught, check_busy};

impl Files {
    pub(super) fn read(&mut self, key: Key, reading: Reading) {
        let (store, model) = (&self.store, self.model.get(&key.key()));
        let there = model.is_some();
        let found = match reading {
            Reading::Get => store.get(&key).map(|value| {
                assert_eq!(
                    value.map(|value| check(value, Outcome::Hit)).as_ref(),
                    model
                );
            }),
            Reading::Read => store
                .read(&key)
                .map(|bytes| assert_eq!(bytes.as_ref(), model)),
            Reading::ReadInto => store.read_into(&key, &mut self.buffer).map(|len| {
                assert_eq!(len, model.map(Vec::len));
                assert_eq!(&self.buffer, model.unwrap_or(&Vec::new()));
            }),
            Reading::Contains => store.contains(&key).map(|found| assert_eq!(found, there)),
            Reading::Touch => store.touch(&key).map(|found| assert_eq!(found, there)),
        };
        let place = self.place(key, None);
        match found {
            Ok(()) => assert_eq!(place, Place::Free),
            Err(err) => assert!(place != Place::Free && is_in_the_way(&err), "{err:?}"),
        }
    }

    pub(super) fn keep(&mut self, key: Key) {
        if let Ok(Some(value)) = self.store.get(&key) {
            self.kept.push((value, self.model[&key.key()].clone()));
        }
    }

    pub(super) fn set(&mut self, key: Key, body: &Body) {
        let place = self.place(key, None);
        let set = caught(|| self.store.set(&key, |writer| body.run(writer)));
        match (body.expected(), set) {
            // What is in the way is seen before the closure runs.
            (_, Some(Err(err))) if place != Place::Free => assert!(is_in_the_way(&err)),
            (Expected::Panics, None) => {}
            (Expected::Fails(kind), Some(Err(err))) => check_failed(&err, kind, body),
            (Expected::Published(bytes), Some(set)) => self.check_set(key, bytes, set),
            (expected, set) => panic!("expected {expected:?}, got {set:?}"),
        }
    }

    /// The end of a call that computes before it takes the lock.
    fn check_set(&mut self, key: Key, bytes: Vec<u8>, set: larder::Result<Value>) {
        match (self.place(key, None), set) {
            (Place::Free, Ok(value)) if !self.held.contains_key(&key) => {
                assert_eq!(check(value, Outcome::Computed), bytes);
                self.model.insert(key.key(), bytes);
            }
            (_, Err(err)) if self.held.contains_key(&key) => check_busy(&err, key),
            (Place::BelowAFile | Place::Directory, Err(err)) => assert!(is_in_the_way(&err)),
            (place, set) => panic!("{place:?}: {set:?}"),
        }
    }

    pub(super) fn get_or_set(&mut self, key: Key, body: &Body) {
        let mut ran = false;
        let got = caught(|| {
            self.store.get_or_set(&key, |writer| {
                ran = true;
                body.run(writer)
            })
        });
        let place = self.place(key, None);
        if place != Place::Free {
            assert!(!ran && is_in_the_way(&got.unwrap().unwrap_err()));
        } else if let Some(bytes) = self.model.get(&key.key()) {
            assert!(!ran);
            assert_eq!(&check(got.unwrap().unwrap(), Outcome::Hit), bytes);
        } else if self.held.contains_key(&key) {
            assert!(!ran);
            check_busy(&got.unwrap().unwrap_err(), key);
        } else {
            assert!(ran);
            match (body.expected(), got) {
                (Expected::Panics, None) => {}
                (Expected::Fails(kind), Some(Err(err))) => check_failed(&err, kind, body),
                (Expected::Published(bytes), Some(Ok(value))) => {
                    assert_eq!(check(value, Outcome::Computed), bytes);
                    self.model.insert(key.key(), bytes);
                }
                (expected, got) => panic!("expected {expected:?}, got {got:?}"),
            }
        }
    }

    /// A closure that uses the store itself.
    pub(super) fn nested(&mut self, outer: Key, inner: Inner) {
        let free = self.place(outer, None) == Place::Free && !self.held.contains_key(&outer);
        if !free || self.model.contains_key(&outer.key()) {
            return;
        }
        let store = self.store.clone();
        let value = store.get_or_set(&outer, |writer| {
            self.inside(outer, inner);
            Ok(writer.write_all(b"outer")?)
        });
        if self.place(outer, None) == Place::Directory {
            assert!(is_in_the_way(&value.unwrap_err()));
        } else {
            assert_eq!(check(value.unwrap(), Outcome::Computed), b"outer");
            self.model.insert(outer.key(), b"outer".to_vec());
        }
    }

    fn inside(&mut self, outer: Key, inner: Inner) {
        let body = Body::short(2);
        let (key, value) = match inner {
            Inner::Sweep => return self.sweep_while(Some(outer)),
            Inner::Clear => return self.clear_while(Some(outer)),
            Inner::GetOrSet(key) => (key, self.store.get_or_set(&key, |w| body.run(w)).map(Some)),
            Inner::Set(key) => (key, self.store.set(&key, |w| body.run(w)).map(Some)),
            Inner::Lock(key) => (key, self.store.lock(&key).map(|_lock| None)),
        };
        let place = self.place(key, Some(outer));
        let old = self.model.get(&key.key());
        let is_hit = matches!(inner, Inner::GetOrSet(_)) && old.is_some();
        let is_lock = matches!(inner, Inner::Lock(_));
        match value {
            Err(err) if key == outer => assert_eq!(err.kind(), ErrorKind::WouldDeadlock),
            Ok(Some(value)) if is_hit => assert_eq!(Some(&check(value, Outcome::Hit)), old),
            Err(err) if self.held.contains_key(&key) => {
                assert!(place == Place::Directory || err.kind() == ErrorKind::Busy);
            }
            Err(err) => assert!(place != Place::Free && is_in_the_way(&err), "{err:?}"),
            Ok(None) => assert!(is_lock && place != Place::BelowAFile),
            Ok(Some(value)) => {
                assert_eq!(place, Place::Free);
                let bytes = check(value, Outcome::Computed);
                assert_eq!(Expected::Published(bytes.clone()), body.expected());
                self.model.insert(key.key(), bytes);
            }
        }
    }

    pub(super) fn remove(&mut self, key: Key) {
        let removed = self.store.remove(&key);
        let there = self.model.contains_key(&key.key());
        match (self.place(key, None), removed) {
            (Place::Free, Err(err)) if there => {
                assert!(self.held.contains_key(&key));
                check_busy(&err, key);
            }
            (Place::Free, Ok(removed)) => {
                assert_eq!(removed, there);
                assert!(!(there && self.held.contains_key(&key)));
                self.model.remove(&key.key());
            }
            (Place::BelowAFile | Place::Directory, Err(err)) => assert!(is_in_the_way(&err)),
            (place, removed) => panic!("{place:?}: {removed:?}"),
        }
    }

    pub(super) fn batch(&mut self, writes: &[(Key, Body)], commit: bool) {
        let mut batch = self.store.batch();
        let mut staged: Vec<(Key, Vec<u8>)> = Vec::new();
        for (key, body) in writes.iter().take(4) {
            let place = self.place(*key, None);
            let set = caught(|| batch.set(key, |writer| body.run(writer)));
            match (body.expected(), set) {
                // What is in the way is seen before the closure runs.
                (_, Some(Err(err))) if place != Place::Free => assert!(is_in_the_way(&err)),
                (Expected::Panics, None) => {}
                (Expected::Fails(kind), Some(Err(err))) => check_failed(&err, kind, body),
                (Expected::Published(bytes), Some(Ok(()))) => {
                    match staged.iter_mut().find(|(other, _)| other == key) {
                        Some((_, old)) => *old = bytes,
                        None => staged.push((*key, bytes)),
                    }
                }
                (expected, set) => panic!("expected {expected:?}, got {set:?}"),
            }
        }
        if !commit {
            return;
        }
        let committed = batch.commit();
        let count = staged.len();
        for (key, bytes) in staged {
            if self.held.contains_key(&key) {
                return check_busy(&committed.unwrap_err(), key);
            } else if self.place(key, None) != Place::Free {
                return assert!(is_in_the_way(&committed.unwrap_err()));
            }
            self.model.insert(key.key(), bytes);
        }
        assert_eq!(committed.unwrap(), count);
    }
}

/// Checks everything that a value says of itself.
pub(super) fn check(mut value: Value, outcome: Outcome) -> Vec<u8> {
    assert_eq!(value.outcome(), outcome);
    let bytes = bytes_of(&mut value);
    assert_eq!(value.len(), bytes.len() as u64);
    assert!(value.metadata().is_empty());
    match value.digest() {
        None => assert_eq!(std::fs::read(value.raw_path().unwrap()).unwrap(), bytes),
        Some(_) => {
            let refused = value.raw_path().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unsupported);
        }
    }
    bytes
}

fn check_failed(err: &larder::Error, kind: ErrorKind, body: &Body) {
    assert_eq!(err.kind(), kind, "{err:?}");
    let is_deliberate = kind == ErrorKind::Compute && body.ending() == Ending::Error;
    assert_eq!(err.downcast_ref::<Deliberate>().is_some(), is_deliberate);
}
