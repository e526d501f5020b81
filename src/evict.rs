//! What to evict: a pure function of candidates, limits and the time.
//!
//! Does no I/O and knows no paths. Invariant: what it names is the least recently used of what may go,
//! and no more of it than the limits ask for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::policy::GcPolicy;
use crate::report::{GcReason, KeptReason};

/// A time further ahead than this is from a clock that was wrong.
const FUTURE_NANOS: i64 = 24 * 60 * 60 * 1_000_000_000;

/// A time as nanoseconds since 1970, which is half as large as a `SystemTime`.
pub(crate) fn nanos(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
    }
}

/// What becomes of a candidate before anything is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It may go.
    Loose,
    /// It is pinned, which is to be told where it would have to go.
    Pinned,
    /// It stays, and that was told.
    Settled,
    /// It is not there any more.
    Gone,
}

/// An entry, as far as it matters here. Small, because there may be millions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// When it was last used.
    pub(crate) used: i64,
    /// Bytes that it takes on disk.
    pub(crate) bytes: u64,
    /// Bytes that come back when it goes.
    pub(crate) frees: u64,
    /// Which of the stores it is in.
    pub(crate) store: u16,
    pub(crate) state: State,
}

/// What there is to know of one of several stores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreFacts {
    /// Which of the file systems it is on.
    pub(crate) volume: usize,
    /// Nothing used within this goes.
    pub(crate) min_idle: Duration,
}

/// How far to go: the limits that are exceeded, with what is to be left then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Goal {
    max_age: Option<Duration>,
    bytes: u64,
    entries: u64,
    /// For each file system, the bytes that are still to be freed.
    pub(crate) short: Vec<u64>,
}

impl Goal {
    /// `free` is what each file system has.
    pub(crate) fn new(policy: &GcPolicy, candidates: &[Candidate], free: &[u64]) -> Self {
        let percent = u64::from(policy.percent());
        let part =
            |of: u64| u64::try_from(u128::from(of) * u128::from(percent) / 100).unwrap_or(u64::MAX);
        let low = |limit: Option<u64>, now: u64| match limit {
            Some(limit) if now > limit => part(limit),
            _ => u64::MAX,
        };
        let (bytes, entries) = totals(candidates);
        let short = free.iter().map(|&free| match policy.min_free_bytes {
            Some(least) if free < least => least.saturating_add(least - part(least)) - free,
            _ => 0,
        });
        Goal {
            max_age: policy.max_age,
            bytes: low(policy.max_size_bytes, bytes),
            entries: low(policy.max_entries, entries),
            short: short.collect(),
        }
    }
}

/// The bytes and the number of what is there.
fn totals(candidates: &[Candidate]) -> (u64, u64) {
    let there = candidates
        .iter()
        .filter(|candidate| candidate.state != State::Gone);
    there.fold((0, 0), |(bytes, entries), candidate| {
        (bytes.saturating_add(candidate.bytes), entries + 1)
    })
}

/// What is to become of a candidate that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Its index among the candidates.
    pub(crate) index: u32,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Remove(GcReason),
    Keep(KeptReason),
}

/// What is due, the least recently used first: what is to be removed until the goal is reached, and what
/// would have been if it might.
pub(crate) fn plan(
    candidates: &[Candidate],
    goal: &Goal,
    stores: &[StoreFacts],
    now: SystemTime,
) -> Vec<Step> {
    let now = nanos(now);
    let oldest_if_ahead = |used: i64| {
        if used > now.saturating_add(FUTURE_NANOS) {
            i64::MIN
        } else {
            used
        }
    };
    let is_within = |used: i64, time: Duration| {
        let time = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        now.saturating_sub(used) < time
    };
    let (mut bytes, mut entries) = totals(candidates);
    let mut short = goal.short.clone();
    #[allow(clippy::cast_possible_truncation)] // more than 2^32 of them would not fit into memory
    let mut order: Vec<u32> = (0..candidates.len() as u32).collect();
    order.sort_unstable_by_key(|&index| (oldest_if_ahead(candidates[index as usize].used), index));
    let mut steps = Vec::new();
    for index in order {
        let candidate = &candidates[index as usize];
        let used = oldest_if_ahead(candidate.used);
        let store = &stores[usize::from(candidate.store)];
        let missing = &mut short[store.volume];
        let reason = if goal.max_age.is_some_and(|age| !is_within(used, age)) {
            GcReason::Age
        } else if bytes > goal.bytes {
            GcReason::Size
        } else if entries > goal.entries {
            GcReason::Entries
        } else if *missing > 0 && candidate.frees > 0 {
            GcReason::FreeSpace
        } else {
            continue;
        };
        let verdict = match candidate.state {
            State::Settled | State::Gone => continue,
            State::Pinned => Verdict::Keep(KeptReason::Pinned),
            State::Loose if is_within(used, store.min_idle) => Verdict::Keep(KeptReason::TooRecent),
            State::Loose => {
                bytes = bytes.saturating_sub(candidate.bytes);
                entries -= 1;
                *missing = missing.saturating_sub(candidate.frees);
                Verdict::Remove(reason)
            }
        };
        steps.push(Step { index, verdict });
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_000_000 * SECOND;
    const SECOND: i64 = 1_000_000_000;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(NOW.unsigned_abs())
    }

    fn candidate() -> impl Strategy<Value = Candidate> {
        // Few different values, so that they meet the limits and each other.
        let used = prop_oneof![(-10..20i64), Just(-90_000), Just(-86_400)];
        let state = prop_oneof![
            4 => Just(State::Loose),
            1 => Just(State::Pinned),
            1 => Just(State::Settled),
            1 => Just(State::Gone),
        ];
        (used, 0..6u64, any::<bool>(), 0..2u16, state).prop_map(
            |(age, bytes, is_linked, store, state)| Candidate {
                used: NOW - age * SECOND,
                bytes,
                frees: if is_linked { 0 } else { bytes },
                store,
                state,
            },
        )
    }

    fn policy() -> impl Strategy<Value = GcPolicy> {
        let limit = || proptest::option::of(0..30u64);
        (limit(), limit(), limit(), limit(), 0..=100u8).prop_map(
            |(age, size, entries, free, percent)| {
                let mut policy = GcPolicy::default().stop_at_percent(percent);
                policy.max_age = age.map(Duration::from_secs);
                policy.max_size_bytes = size;
                policy.max_entries = entries;
                policy.min_free_bytes = free;
                policy
            },
        )
    }

    const STORES: [StoreFacts; 2] = [
        StoreFacts {
            volume: 0,
            min_idle: Duration::from_secs(2),
        },
        StoreFacts {
            volume: 1,
            min_idle: Duration::ZERO,
        },
    ];

    /// Whether nothing more has to go, with all that is gone gone.
    fn holds(candidates: &[Candidate], goal: &Goal, short: &[i128]) -> bool {
        let (bytes, entries) = totals(candidates);
        bytes <= goal.bytes && entries <= goal.entries && short.iter().all(|&short| short <= 0)
    }

    fn age(candidate: &Candidate) -> i64 {
        match (NOW - candidate.used) / SECOND {
            age if age < -86_400 => i64::MAX / SECOND,
            age => age,
        }
    }

    /// Takes the oldest that may go, one at a time, until nothing more has to.
    fn oracle(candidates: &[Candidate], goal: &Goal) -> BTreeSet<u32> {
        let mut left = candidates.to_vec();
        let mut gone = BTreeSet::new();
        let mut short: Vec<i128> = goal.short.iter().map(|&short| short.into()).collect();
        let mut order: Vec<u32> = (0..).take(left.len()).collect();
        order.sort_by_key(|&n| std::cmp::Reverse(age(&left[n as usize])));
        for n in order {
            let one = left[n as usize];
            let store = STORES[usize::from(one.store)];
            let aged = goal
                .max_age
                .is_some_and(|most| age(&one) >= most.as_secs() as i64);
            let mut of_its_own = vec![0; 2];
            of_its_own[store.volume] = if one.frees > 0 {
                short[store.volume]
            } else {
                0
            };
            let is_free = one.state == State::Loose && age(&one) >= store.min_idle.as_secs() as i64;
            if is_free && (aged || !holds(&left, goal, &of_its_own)) {
                left[n as usize].state = State::Gone;
                short[store.volume] -= i128::from(one.frees);
                gone.insert(n);
            }
        }
        gone
    }

    fn removed(steps: &[Step]) -> Vec<u32> {
        let removed = steps
            .iter()
            .filter(|step| matches!(step.verdict, Verdict::Remove(_)));
        removed.map(|step| step.index).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn what_goes_is_what_the_oracle_takes(
            candidates in proptest::collection::vec(candidate(), 0..20),
            policy in policy(),
            free in [0..40u64, 0..40u64],
        ) {
            let goal = Goal::new(&policy, &candidates, &free);
            let steps = plan(&candidates, &goal, &STORES, now());
            let gone = removed(&steps);
            let distinct: BTreeSet<u32> = gone.iter().copied().collect();
            prop_assert_eq!(distinct.len(), gone.len());
            prop_assert_eq!(distinct, oracle(&candidates, &goal));
            for pair in gone.windows(2) {
                prop_assert!(age(&candidates[pair[0] as usize]) >= age(&candidates[pair[1] as usize]));
            }
        }

        /// What was planned and done leaves nothing to do; what could not be done, another's turn.
        #[test]
        fn a_plan_that_was_done_is_done(
            mut candidates in proptest::collection::vec(candidate(), 0..20),
            policy in policy(),
            free in [0..40u64, 0..40u64],
        ) {
            let mut goal = Goal::new(&policy, &candidates, &free);
            for step in plan(&candidates, &goal, &STORES, now()) {
                let one = &mut candidates[step.index as usize];
                match step.verdict {
                    Verdict::Keep(_) => one.state = State::Settled,
                    Verdict::Remove(_) => {
                        one.state = State::Gone;
                        let short = &mut goal.short[STORES[usize::from(one.store)].volume];
                        *short = short.saturating_sub(one.frees);
                    }
                }
            }
            prop_assert_eq!(plan(&candidates, &goal, &STORES, now()), vec![]);
        }
    }

    fn entry(age: i64, bytes: u64) -> Candidate {
        Candidate {
            used: NOW - age * SECOND,
            bytes,
            frees: bytes,
            store: 1,
            state: State::Loose,
        }
    }

    fn planned(candidates: &[Candidate], policy: &GcPolicy, free: u64) -> Vec<(u32, Verdict)> {
        let goal = Goal::new(policy, candidates, &[free, free]);
        let steps = plan(candidates, &goal, &STORES, now());
        steps
            .iter()
            .map(|step| (step.index, step.verdict))
            .collect()
    }

    #[test]
    fn over_a_limit_it_goes_down_to_ninety_per_cent_and_under_it_nothing_goes() {
        let ten: Vec<Candidate> = (0..10).map(|n| entry(n, 10)).collect();
        let at_limit = GcPolicy::default().max_size(100).max_entries(10);
        assert_eq!(planned(&ten, &at_limit, 0), []);
        let over = GcPolicy::default().max_size(99);
        let size = Verdict::Remove(GcReason::Size);
        assert_eq!(planned(&ten, &over, 0), [(9, size), (8, size)]);
        let exact = GcPolicy::default().max_size(99).stop_at_percent(100);
        assert_eq!(planned(&ten, &exact, 0), [(9, size)]);
        let free = GcPolicy::default().min_free(100);
        let space = Verdict::Remove(GcReason::FreeSpace);
        assert_eq!(planned(&ten, &free, 95), [(9, space), (8, space)]);
        assert_eq!(planned(&ten, &free, 100), []);
    }

    #[test]
    fn a_time_more_than_a_day_ahead_is_the_oldest_and_one_within_it_is_recent() {
        let candidates = [entry(50, 1), entry(-86_401, 1), entry(-86_399, 1)];
        let entries = Verdict::Remove(GcReason::Entries);
        let policy = GcPolicy::default().max_entries(2).stop_at_percent(100);
        assert_eq!(planned(&candidates, &policy, 0), [(1, entries)]);
        let aged = Verdict::Remove(GcReason::Age);
        let policy = GcPolicy::default().max_age(Duration::from_secs(60));
        assert_eq!(planned(&candidates, &policy, 0), [(1, aged)]);
    }
}
