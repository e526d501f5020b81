//! What to evict: a pure function of candidates, limits and the time.
//!
//! Does no I/O and knows no paths. Invariant: what it names is the least recently used of what may go,
//! and no more of it than the limits ask for; and each candidate is asked about once, whatever is kept.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::policy::GcPolicy;
use crate::report::{Exceeded, GcReason, KeptReason};

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

/// How much there is of something of which there is too much, and how far down it has to go.
///
/// It goes down to the limit in any case, and from there on to the low mark as far as it gets without
/// going below: one large entry that reaches beyond both marks stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    now: u64,
    limit: u64,
    low: u64,
}

impl Level {
    /// Nothing has to go.
    const FINE: Level = Level {
        now: 0,
        limit: u64::MAX,
        low: u64::MAX,
    };

    fn new(now: u64, limit: Option<u64>, percent: u8) -> Self {
        match limit {
            Some(limit) if now > limit => Level {
                now,
                limit,
                low: part(limit, percent),
            },
            _ => Level::FINE,
        }
    }

    fn asks_for(&self, bytes: u64) -> bool {
        bytes > 0 && (self.now > self.limit || bytes <= self.now.saturating_sub(self.low))
    }

    fn note_gone(&mut self, bytes: u64) {
        self.now = self.now.saturating_sub(bytes);
    }

    /// Something that may go stays because this does not ask for it. What was used later does not go
    /// in its place.
    fn note_spared(&mut self, bytes: u64) {
        if bytes > 0 {
            *self = Level::FINE;
        }
    }

    fn excess(&self) -> u64 {
        self.now.saturating_sub(self.limit)
    }
}

/// So many per cent, rounded up, so that some of what is more than nothing is left.
fn part(of: u64, percent: u8) -> u64 {
    let part = (u128::from(of) * u128::from(percent)).div_ceil(100);
    u64::try_from(part).unwrap_or(u64::MAX)
}

/// How far to go: the limits that are exceeded, with what is to be left then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Goal {
    max_age: Option<Duration>,
    bytes: Level,
    entries: Level,
    /// For each file system, the bytes that are still to be freed.
    short: Vec<Level>,
}

impl Goal {
    /// `beside` is how many bytes are in the stores that no candidate has, and `free` what each file system
    /// has.
    pub(crate) fn new(
        policy: &GcPolicy,
        candidates: &[Candidate],
        beside: u64,
        free: &[u64],
    ) -> Self {
        let percent = policy.percent();
        let (bytes, entries) = totals(candidates, beside);
        let short = free.iter().map(|&free| match policy.min_free_bytes {
            Some(least) if free < least => {
                let more = least - part(least, percent);
                Level {
                    now: (least - free).saturating_add(more),
                    limit: more,
                    low: 0,
                }
            }
            _ => Level::FINE,
        });
        Goal {
            max_age: policy.max_age,
            bytes: Level::new(bytes, policy.max_size_bytes, percent),
            entries: Level::new(entries, policy.max_entries, percent),
            short: short.collect(),
        }
    }

    /// How much of it does not come back to any.
    pub(crate) fn short(&self) -> u64 {
        let excesses = self.short.iter().map(Level::excess);
        excesses.fold(0, u64::saturating_add)
    }
}

/// The bytes and the number of what is there, and so many bytes beside it.
fn totals(candidates: &[Candidate], beside: u64) -> (u64, u64) {
    let there = candidates
        .iter()
        .filter(|candidate| candidate.state != State::Gone);
    there.fold((beside, 0), |(bytes, entries), candidate| {
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

/// What is too far ahead to be true counts as the oldest.
fn last_use(candidate: &Candidate, now: i64) -> i64 {
    if candidate.used > now.saturating_add(FUTURE_NANOS) {
        i64::MIN
    } else {
        candidate.used
    }
}

fn is_within(used: i64, time: Duration, now: i64) -> bool {
    let time = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    now.saturating_sub(used) < time
}

/// The limits that do not hold, once all was done that could be, and so many bytes are not free that are
/// to be.
pub(crate) fn exceeded(
    candidates: &[Candidate],
    beside: u64,
    short: u64,
    policy: &GcPolicy,
    now: SystemTime,
) -> Vec<Exceeded> {
    let now = nanos(now);
    let is_old = |one: &&Candidate| {
        let is_there = one.state != State::Gone;
        is_there
            && policy
                .max_age
                .is_some_and(|age| !is_within(last_use(one, now), age, now))
    };
    let (bytes, entries) = totals(candidates, beside);
    let over = |now: u64, limit: Option<u64>| limit.map_or(0, |limit| now.saturating_sub(limit));
    let limits = [
        (
            GcReason::Age,
            candidates.iter().filter(is_old).count() as u64,
        ),
        (GcReason::Size, over(bytes, policy.max_size_bytes)),
        (GcReason::Entries, over(entries, policy.max_entries)),
        (GcReason::FreeSpace, short),
    ];
    let exceeded = limits.into_iter().filter(|&(_, by)| by > 0);
    exceeded.map(|(limit, by)| Exceeded { limit, by }).collect()
}

/// What is due, the least recently used first: what is to be removed until the goal is reached, and what
/// would have been if it might.
///
/// It hears what became of each before it names the next, so that another goes in place of what was kept.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    goal: Goal,
    now: i64,
    /// The indices of the candidates, the least recently used first, and where in them it is.
    order: Vec<u32>,
    at: usize,
}

impl Plan {
    pub(crate) fn new(candidates: &[Candidate], goal: Goal, now: SystemTime) -> Self {
        let now = nanos(now);
        #[allow(clippy::cast_possible_truncation)]
        // more than 2^32 of them would not fit into memory
        let mut order: Vec<u32> = (0..candidates.len() as u32).collect();
        order.sort_unstable_by_key(|&index| (last_use(&candidates[index as usize], now), index));
        let at = 0;
        Plan {
            goal,
            now,
            order,
            at,
        }
    }

    pub(crate) fn goal(&self) -> &Goal {
        &self.goal
    }

    /// The next that is due. What is to be removed counts as kept, unless it is noted to be gone.
    pub(crate) fn next(&mut self, candidates: &[Candidate], stores: &[StoreFacts]) -> Option<Step> {
        while let Some(&index) = self.order.get(self.at) {
            self.at += 1;
            let candidate = &candidates[index as usize];
            let store = &stores[usize::from(candidate.store)];
            if let Some(verdict) = self.goal.verdict(candidate, store, self.now) {
                return Some(Step { index, verdict });
            }
        }
        None
    }

    /// A candidate is gone, but for so many bytes of it.
    pub(crate) fn note_gone(&mut self, gone: &Candidate, stores: &[StoreFacts], left: u64) {
        self.goal.note_gone(gone, stores, left);
    }

    /// How many would be removed from here on, if nothing is kept.
    pub(crate) fn removals(&mut self, candidates: &[Candidate], stores: &[StoreFacts]) -> u64 {
        let (goal, at) = (self.goal.clone(), self.at);
        let mut removals = 0;
        while let Some(step) = self.next(candidates, stores) {
            if let Verdict::Remove(_) = step.verdict {
                self.note_gone(&candidates[step.index as usize], stores, 0);
                removals += 1;
            }
        }
        (self.goal, self.at) = (goal, at);
        removals
    }
}

impl Goal {
    /// What is to become of the least recently used that was not asked about yet. `None`: it stays, or is gone,
    /// and there is nothing to be told.
    fn verdict(&mut self, candidate: &Candidate, store: &StoreFacts, now: i64) -> Option<Verdict> {
        let used = last_use(candidate, now);
        let short = &mut self.short[store.volume];
        let is_recent = is_within(used, store.min_idle, now);
        let reason = if self.max_age.is_some_and(|age| !is_within(used, age, now)) {
            GcReason::Age
        } else if self.bytes.asks_for(candidate.bytes) {
            GcReason::Size
        } else if self.entries.asks_for(1) {
            GcReason::Entries
        } else if short.asks_for(candidate.frees) {
            GcReason::FreeSpace
        } else {
            if candidate.state == State::Loose && !is_recent {
                self.bytes.note_spared(candidate.bytes);
                self.entries.note_spared(1);
                short.note_spared(candidate.frees);
            }
            return None;
        };
        match candidate.state {
            State::Settled | State::Gone => None,
            State::Pinned => Some(Verdict::Keep(KeptReason::Pinned)),
            State::Loose if is_recent => Some(Verdict::Keep(KeptReason::TooRecent)),
            State::Loose => Some(Verdict::Remove(reason)),
        }
    }

    fn note_gone(&mut self, gone: &Candidate, stores: &[StoreFacts], left: u64) {
        self.bytes.note_gone(gone.bytes.saturating_sub(left));
        self.entries.note_gone(1);
        let volume = stores[usize::from(gone.store)].volume;
        self.short[volume].note_gone(gone.frees.saturating_sub(left));
    }
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

    /// All steps, where everything can be removed that is to be.
    fn plan(
        candidates: &[Candidate],
        goal: &Goal,
        stores: &[StoreFacts],
        now: SystemTime,
    ) -> Vec<Step> {
        let mut plan = Plan::new(candidates, goal.clone(), now);
        let mut steps = Vec::new();
        while let Some(step) = plan.next(candidates, stores) {
            if let Verdict::Remove(_) = step.verdict {
                plan.note_gone(&candidates[step.index as usize], stores, 0);
            }
            steps.push(step);
        }
        steps
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

    fn age(candidate: &Candidate) -> i64 {
        match (NOW - candidate.used) / SECOND {
            age if age < -86_400 => i64::MAX / SECOND,
            age => age,
        }
    }

    /// Takes the oldest that may go, one at a time, as long as a limit is exceeded, and then as long as
    /// what is left is at least the low mark. What stays is the last that a limit is asked about.
    fn oracle(policy: &GcPolicy, candidates: &[Candidate], free: &[u64; 2]) -> BTreeSet<u32> {
        let mut left = candidates.to_vec();
        let mut free = free.map(i128::from);
        let low = |limit: i128| (limit * i128::from(policy.percent()) + 99) / 100;
        // Of each limit: how much there is, the limit, the low mark. Of free space, what is missing.
        let levels = |left: &[Candidate], free: &[i128; 2]| {
            let (bytes, entries) = totals(left, 0);
            let below = |now: u64, limit: Option<u64>| {
                limit.map(|limit| (now.into(), limit.into(), low(limit.into())))
            };
            let missing = |free: i128| {
                let least = policy.min_free_bytes.map(i128::from);
                least.map(|least| (-free, -least, low(least) - 2 * least))
            };
            [
                below(bytes, policy.max_size_bytes),
                below(entries, policy.max_entries),
                missing(free[0]),
                missing(free[1]),
            ]
        };
        let at_first = levels(&left, &free);
        let mut asks = at_first.map(|level| level.is_some_and(|(now, limit, _)| now > limit));
        let mut gone = BTreeSet::new();
        let mut order: Vec<u32> = (0..).take(left.len()).collect();
        order.sort_by_key(|&n| std::cmp::Reverse(age(&left[n as usize])));
        for n in order {
            let one = left[n as usize];
            let store = STORES[usize::from(one.store)];
            if one.state != State::Loose || age(&one) < store.min_idle.as_secs() as i64 {
                continue;
            }
            let mut parts = [i128::from(one.bytes), 1, 0, 0];
            parts[2 + store.volume] = one.frees.into();
            let levels = levels(&left, &free);
            let is_wanted = (0..4).any(|which| match levels[which] {
                Some((now, limit, low)) => {
                    let part = parts[which];
                    asks[which] && part > 0 && (now > limit || now - part >= low)
                }
                None => false,
            });
            let most = policy.max_age.map(|most| most.as_secs() as i64);
            if is_wanted || most.is_some_and(|most| age(&one) >= most) {
                left[n as usize].state = State::Gone;
                free[store.volume] += i128::from(one.frees);
                gone.insert(n);
            } else {
                (0..4).for_each(|which| asks[which] &= parts[which] == 0);
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

    fn may_go(one: &Candidate) -> bool {
        let min_idle = STORES[usize::from(one.store)].min_idle;
        one.state == State::Loose && age(one) >= min_idle.as_secs() as i64
    }

    /// What one candidate takes of what each limit is for: size, number, and either file system's space.
    fn shares(one: &Candidate) -> [u64; 4] {
        let mut shares = [one.bytes, 1, 0, 0];
        shares[2 + STORES[usize::from(one.store)].volume] = one.frees;
        shares
    }

    /// For each of those limits, how much is beyond it, and beyond its low mark, once these are gone.
    fn excesses(
        policy: &GcPolicy,
        candidates: &[Candidate],
        free: &[u64; 2],
        gone: &[u32],
    ) -> [Option<(i128, i128)>; 4] {
        let (mut taken, mut freed) = ([0; 4], [0; 4]);
        for (index, one) in (0..).zip(candidates) {
            let into = match gone.contains(&index) {
                true => &mut freed,
                false if one.state == State::Gone => continue,
                false => &mut taken,
            };
            into.iter_mut()
                .zip(shares(one))
                .for_each(|(sum, share)| *sum += i128::from(share));
        }
        // Of which so much lies between the limit and the low mark.
        let between = |limit: i128| limit * (100 - i128::from(policy.percent())) / 100;
        let over = |taken: i128, limit: Option<u64>| {
            let limit = i128::from(limit?);
            Some((taken - limit, taken - limit + between(limit)))
        };
        let missing = |free: u64, freed: i128| {
            let least = i128::from(policy.min_free_bytes?);
            let missing = least - i128::from(free) - freed;
            Some((missing, missing + between(least)))
        };
        [
            over(taken[0], policy.max_size_bytes),
            over(taken[1], policy.max_entries),
            missing(free[0], freed[2]),
            missing(free[1], freed[3]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn what_goes_is_what_the_oracle_takes(
            candidates in proptest::collection::vec(candidate(), 0..20),
            policy in policy(),
            free in [0..40u64, 0..40u64],
        ) {
            let goal = Goal::new(&policy, &candidates, 0, &free);
            let steps = plan(&candidates, &goal, &STORES, now());
            let gone = removed(&steps);
            let distinct: BTreeSet<u32> = gone.iter().copied().collect();
            prop_assert_eq!(distinct.len(), gone.len());
            prop_assert_eq!(distinct, oracle(&policy, &candidates, &free));
            for pair in gone.windows(2) {
                prop_assert!(age(&candidates[pair[0] as usize]) >= age(&candidates[pair[1] as usize]));
            }
        }

        /// Said of the outcome alone: no limit is exceeded by what might have gone for it, and each that
        /// goes was too old, or one too many, or leaves no less than the low mark.
        #[test]
        fn enough_goes_and_nothing_needless(
            candidates in proptest::collection::vec(candidate(), 0..20),
            policy in policy(),
            free in [0..40u64, 0..40u64],
        ) {
            let goal = Goal::new(&policy, &candidates, 0, &free);
            let gone = removed(&plan(&candidates, &goal, &STORES, now()));
            let is_old = |one: &Candidate| {
                policy.max_age.is_some_and(|most| age(one) >= most.as_secs() as i64)
            };
            let at_first = excesses(&policy, &candidates, &free, &[]);
            for (done, &index) in gone.iter().enumerate() {
                let one = &candidates[index as usize];
                prop_assert!(may_go(one), "{:?}", one);
                let before = excesses(&policy, &candidates, &free, &gone[..done]);
                let after = excesses(&policy, &candidates, &free, &gone[..=done]);
                let is_needed = (0..4).any(|limit| {
                    let was_exceeded = at_first[limit].is_some_and(|(excess, _)| excess > 0);
                    let matters = was_exceeded && shares(one)[limit] > 0;
                    let is_exceeded = before[limit].is_some_and(|(excess, _)| excess > 0);
                    let stays_above = after[limit].is_some_and(|(_, above_low)| above_low >= 0);
                    matters && (is_exceeded || stays_above)
                });
                prop_assert!(is_old(one) || is_needed, "{:?} of {:?}", one, gone);
            }
            let in_the_end = excesses(&policy, &candidates, &free, &gone);
            for (index, one) in candidates.iter().enumerate() {
                if !may_go(one) || gone.contains(&(index as u32)) {
                    continue;
                }
                prop_assert!(!is_old(one), "{:?}", one);
                for (excess, share) in in_the_end.iter().zip(shares(one)) {
                    let holds = excess.is_none_or(|(excess, _)| excess <= 0);
                    prop_assert!(holds || share == 0, "{:?}", one);
                }
            }
        }

        /// For one limit, nothing goes that was used after something that stays and might have gone.
        #[test]
        fn the_least_recently_used_go_for_a_limit(
            candidates in proptest::collection::vec(candidate(), 0..20),
            (most, percent) in (0..30u64, 0..=100u8),
            limit in 0..4usize,
            free in [0..40u64, 0..40u64],
        ) {
            let policy = GcPolicy::default().stop_at_percent(percent);
            let (policy, limits) = match limit {
                0 => (policy.max_size(most), 0..1),
                1 => (policy.max_entries(most), 1..2),
                2 => (policy.min_free(most), 2..4),
                _ => (policy.max_age(Duration::from_secs(most)), 1..2),
            };
            let goal = Goal::new(&policy, &candidates, 0, &free);
            let gone = removed(&plan(&candidates, &goal, &STORES, now()));
            for limit in limits {
                let has_share = |index: &usize| shares(&candidates[*index])[limit] > 0;
                let goes = |index: &usize| gone.contains(&(*index as u32));
                let all = (0..candidates.len()).filter(has_share);
                let stays = all.filter(|index| may_go(&candidates[*index]) && !goes(index));
                let oldest = stays.map(|index| age(&candidates[index])).max();
                let going = gone.iter().map(|index| *index as usize).filter(has_share);
                let youngest = going.map(|index| age(&candidates[index])).min();
                if let (Some(oldest), Some(youngest)) = (oldest, youngest) {
                    prop_assert!(youngest >= oldest, "{} {}", youngest, oldest);
                }
            }
        }

        /// What could not be removed is as if it had not been loose from the beginning: others go in its place,
        /// those that the oracle would have taken. Nothing is asked about twice, however much is kept.
        #[test]
        fn others_go_in_place_of_what_is_kept(
            candidates in proptest::collection::vec((candidate(), any::<bool>()), 0..20),
            policy in policy(),
            free in [0..40u64, 0..40u64],
        ) {
            let (mut candidates, kept): (Vec<_>, Vec<_>) = candidates.into_iter().unzip();
            let goal = Goal::new(&policy, &candidates, 0, &free);
            let mut plan = Plan::new(&candidates, goal, now());
            let expected = plan.clone().removals(&candidates, &STORES);
            let gone = removed(&super::tests::plan(&candidates, plan.goal(), &STORES, now()));
            prop_assert_eq!(expected, gone.len() as u64);
            let mut gone = BTreeSet::new();
            let mut asked = BTreeSet::new();
            while let Some(step) = plan.next(&candidates, &STORES) {
                prop_assert!(asked.insert(step.index));
                let one = &mut candidates[step.index as usize];
                one.state = match step.verdict {
                    Verdict::Remove(_) if !kept[step.index as usize] => {
                        plan.note_gone(one, &STORES, 0);
                        gone.insert(step.index);
                        State::Gone
                    }
                    _ => State::Settled,
                };
            }
            let mut at_first = candidates.clone();
            for (index, one) in (0..).zip(&mut at_first) {
                if gone.contains(&index) {
                    one.state = State::Loose;
                }
            }
            prop_assert_eq!(gone, oracle(&policy, &at_first, &free));
        }

        /// What was planned and done leaves nothing to do; what could not be done, another's turn.
        #[test]
        fn a_plan_that_was_done_is_done(
            mut candidates in proptest::collection::vec(candidate(), 0..20),
            policy in policy(),
            free in [0..40u64, 0..40u64],
        ) {
            let mut goal = Goal::new(&policy, &candidates, 0, &free);
            for step in plan(&candidates, &goal, &STORES, now()) {
                let one = &mut candidates[step.index as usize];
                match step.verdict {
                    Verdict::Keep(_) => one.state = State::Settled,
                    Verdict::Remove(_) => {
                        goal.note_gone(one, &STORES, 0);
                        one.state = State::Gone;
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
        let goal = Goal::new(policy, candidates, 0, &[free, free]);
        let steps = plan(candidates, &goal, &STORES, now());
        steps
            .iter()
            .map(|step| (step.index, step.verdict))
            .collect()
    }

    /// Each that was kept was a round of its own, which sorted and looked at all of them.
    #[test]
    fn each_candidate_is_looked_at_once_even_if_all_are_kept() {
        let mut many: Vec<Candidate> = (0..1000).map(|n| entry(100 + n, 1)).collect();
        let policy = GcPolicy::default().max_entries(999).stop_at_percent(100);
        let mut plan = Plan::new(&many, Goal::new(&policy, &many, 0, &[0, 0]), now());
        assert_eq!(plan.removals(&many, &STORES), 1);
        for looked_at in 1..=many.len() {
            let step = plan.next(&many, &STORES).unwrap();
            assert_eq!((plan.at, step.index), (looked_at, 1000 - looked_at as u32));
            many[step.index as usize].state = State::Settled;
        }
        assert_eq!(plan.next(&many, &STORES), None);
    }

    #[test]
    fn over_a_limit_it_goes_down_to_ninety_per_cent_and_under_it_nothing_goes() {
        let ten: Vec<Candidate> = (0..10).map(|n| entry(n, 10)).collect();
        let at_limit = GcPolicy::default().max_size(100).max_entries(10);
        assert_eq!(planned(&ten, &at_limit, 0), []);
        let hundred: Vec<Candidate> = (0..100).map(|n| entry(n, 1)).collect();
        let size = Verdict::Remove(GcReason::Size);
        let over = GcPolicy::default().max_entries(10);
        assert_eq!(planned(&hundred, &over, 0).len(), 91);
        let over = GcPolicy::default().max_size(99);
        assert_eq!(planned(&hundred, &over, 0).len(), 10);
        let exact = GcPolicy::default().max_size(99).stop_at_percent(100);
        assert_eq!(planned(&ten, &exact, 0), [(9, size)]);
        let free = GcPolicy::default().min_free(100);
        let space = Verdict::Remove(GcReason::FreeSpace);
        assert_eq!(planned(&hundred, &free, 95).len(), 15);
        assert_eq!(planned(&ten, &free, 90), [(9, space), (8, space)]);
        assert_eq!(planned(&ten, &free, 100), []);
    }

    /// Of ten entries under a limit of one, none was left; of two that each took nearly all that there was
    /// room for, neither.
    #[test]
    fn what_fits_under_a_limit_stays_even_if_the_low_mark_is_below_it() {
        let ten: Vec<Candidate> = (0..10).map(|n| entry(n, 10)).collect();
        for (limit, left) in [(0, 0), (1, 1), (3, 3), (9, 9), (10, 10)] {
            let policy = GcPolicy::default().max_entries(limit);
            assert_eq!(planned(&ten, &policy, 0).len(), 10 - left, "{limit}");
        }
        let two = [entry(0, 977), entry(1, 977)];
        let size = Verdict::Remove(GcReason::Size);
        let policy = GcPolicy::default().max_size(1000);
        assert_eq!(planned(&two, &policy, 0), [(1, size)]);
        // The large one stays, and the small one that was used after it does too.
        let three = [entry(0, 10), entry(1, 950), entry(2, 100)];
        assert_eq!(planned(&three, &policy, 0), [(2, size)]);
    }

    #[test]
    fn what_does_not_hold_in_the_end_is_told() {
        let mut three: Vec<Candidate> = (0..3).map(|n| entry(10 * n, 10)).collect();
        three[1].state = State::Gone;
        three[2].state = State::Pinned;
        let policy = GcPolicy::default().max_size(15).max_entries(2);
        let policy = policy.min_free(100).max_age(Duration::from_secs(20));
        let mut goal = Goal::new(&policy, &three, 0, &[90, 100]);
        goal.short[0].note_gone(3);
        let told = exceeded(&three, 0, goal.short(), &policy, now());
        let told: Vec<_> = told.iter().map(|one| (one.limit, one.by)).collect();
        use GcReason::{Age, FreeSpace, Size};
        assert_eq!(told, [(Age, 1), (Size, 5), (FreeSpace, 7)]);
        // What is left of something that is gone takes room like what is there.
        let told = exceeded(&three, 4, 0, &GcPolicy::default().max_size(20), now());
        assert_eq!(told, [Exceeded { limit: Size, by: 4 }]);
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
