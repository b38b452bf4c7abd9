//! In which order the targets behind a name are tried (RFC 3263 §4.2, RFC 2782), and which are left for last.
//!
//! DNS says what its owner wants; what this box has seen comes on top: an address that did not answer is tried after all
//! others, until it answers or a while has passed. Look-ups, addresses and requests are the shell's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long an address that did not answer is tried last; where OPTIONS are sent it is asked meanwhile.
const SILENT_FOR: Duration = Duration::from_secs(300);
/// Addresses that are remembered so: 8 behind each of 32 trunks.
const SILENT: usize = 256;

/// One SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Srv {
    /// Lower is tried first.
    pub priority: u16,
    /// Share among those of one priority.
    pub weight: u16,
    /// Where the service is.
    pub port: u16,
    /// On which host; `.` = the service is decidedly not there.
    pub target: String,
}

/// The records in the order in which they are tried; `seed` draws the lots of RFC 2782. `None` when the domain says
/// that it has no such service: then its A records are not to be tried either.
#[must_use]
pub fn in_order(mut records: Vec<Srv>, seed: u64) -> Option<Vec<Srv>> {
    if let [only] = records.as_slice()
        && matches!(only.target.as_str(), "." | "")
    {
        return None;
    }
    records.retain(|record| !matches!(record.target.as_str(), "." | ""));
    // Those without weight first: RFC 2782 gives them a small chance so.
    records.sort_by_key(|record| (record.priority, record.weight != 0));
    let (mut ordered, mut lots) = (Vec::with_capacity(records.len()), seed | 1);
    while let Some(priority) = records.first().map(|record| record.priority) {
        let same = records.iter().take_while(|record| record.priority == priority);
        let total: u64 = same.clone().map(|record| u64::from(record.weight)).sum();
        let lot = draw(&mut lots, total + 1);
        let mut sum = 0;
        let chosen = same.take_while(|record| {
            sum += u64::from(record.weight);
            sum < lot
        });
        let place = chosen.count();
        ordered.push(records.remove(place));
    }
    Some(ordered)
}

/// A number below `bound` (xorshift64).
const fn draw(lots: &mut u64, bound: u64) -> u64 {
    *lots ^= *lots << 13;
    *lots ^= *lots >> 7;
    *lots ^= *lots << 17;
    (*lots >> 16) % bound
}

/// The addresses that did not answer lately.
#[derive(Debug, Default)]
pub struct Silent(BTreeMap<SocketAddr, Instant>);

impl Silent {
    /// An address was asked something: whether it answered.
    pub fn note(&mut self, now: Instant, server: SocketAddr, answered: bool) {
        if answered {
            self.0.remove(&server);
            return;
        }
        self.0.retain(|_, until| *until > now);
        if self.0.len() < SILENT || self.0.contains_key(&server) {
            self.0.insert(server, now + SILENT_FOR);
        }
    }

    /// Whether an address is one to be tried last.
    #[must_use]
    pub fn is_silent(&self, now: Instant, server: SocketAddr) -> bool {
        self.0.get(&server).is_some_and(|until| *until > now)
    }

    /// Puts those that did not answer behind the others; among each other all stay as they were.
    pub fn sort(&self, now: Instant, servers: &mut [SocketAddr]) {
        servers.sort_by_key(|server| self.is_silent(now, *server));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn srv(priority: u16, weight: u16, target: &str) -> Srv {
        Srv { priority, weight, port: 5060, target: target.to_owned() }
    }

    fn targets(records: Vec<Srv>, seed: u64) -> Vec<String> {
        in_order(records, seed).unwrap().into_iter().map(|record| record.target).collect()
    }

    #[test]
    fn a_lower_priority_is_always_first_and_weights_are_shares_of_it() {
        let records = || vec![srv(20, 900, "late"), srv(10, 75, "most"), srv(10, 25, "some"), srv(10, 0, "rare")];
        let mut first = BTreeMap::<String, u32>::new();
        for seed in 0..4_000_u64 {
            let order = targets(records(), seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            assert_eq!((order.len(), order[3].as_str()), (4, "late"));
            *first.entry(order[0].clone()).or_default() += 1;
        }
        let share = |target: &str| first.get(target).copied().unwrap_or(0);
        assert!((2_700..3_250).contains(&share("most")), "{first:?}");
        assert!((800..1_250).contains(&share("some")), "{first:?}");
        assert!((1..150).contains(&share("rare")), "{first:?}");
    }

    #[test]
    fn a_domain_may_say_that_it_has_no_such_service() {
        assert_eq!(in_order(vec![srv(0, 0, ".")], 1), None);
        assert_eq!(in_order(Vec::new(), 1), Some(Vec::new()));
        assert_eq!(targets(vec![srv(0, 0, "."), srv(1, 0, "a")], 1), ["a"]);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test needs some first moment")]
    fn what_did_not_answer_is_tried_last_until_it_answers_or_a_while_has_passed() {
        let now = Instant::now();
        let server = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let sorted = |silent: &Silent, at: Instant| {
            let mut servers = [server(1), server(2), server(3)];
            silent.sort(at, &mut servers);
            servers.map(|server| server.port())
        };
        let mut silent = Silent::default();
        assert_eq!(sorted(&silent, now), [1, 2, 3]);
        silent.note(now, server(1), false);
        assert_eq!(sorted(&silent, now), [2, 3, 1]);
        silent.note(now, server(3), false);
        assert_eq!(sorted(&silent, now), [2, 1, 3]);
        silent.note(now, server(1), true);
        assert_eq!(sorted(&silent, now), [1, 2, 3]);
        silent.note(now, server(2), false);
        assert_eq!(sorted(&silent, now + SILENT_FOR), [1, 2, 3]);
        for port in 0..2_000 {
            silent.note(now, server(port), false);
        }
        assert!(silent.0.len() <= SILENT);
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost_or_doubled(records in proptest::collection::vec((0_u16..4, 0_u16..9, "[a-z]{1,3}"), 0..20), seed: u64) {
            let records: Vec<Srv> = records.into_iter().map(|(priority, weight, target)| srv(priority, weight, &target)).collect();
            let mut ordered = in_order(records.clone(), seed).unwrap();
            proptest::prop_assert!(ordered.is_sorted_by_key(|record| record.priority));
            let (mut before, key) = (records, |record: &Srv| (record.priority, record.weight, record.target.clone()));
            before.sort_by_key(key);
            ordered.sort_by_key(key);
            proptest::prop_assert_eq!(before, ordered);
        }
    }
}
