use proptest::prelude::*;

use super::super::verdict::Code;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
fn start() -> Instant {
    Instant::now()
}

/// A first provider, a second address, and the first one's smaller model.
fn three() -> Ladder {
    Ladder::new(vec![Kin { place: 0, account: 0 }, Kin { place: 1, account: 1 }, Kin { place: 0, account: 0 }])
}

fn fresh() -> Climb {
    Climb::default()
}

/// Calls fail at the rung until its breaker opens.
fn open(ladder: &mut Ladder, rung: usize, now: Instant) {
    for _ in 0..FAILURES {
        ladder.failed(now, rung, None, Mishap::Lost, &mut fresh());
    }
    assert_eq!(ladder.state(rung, now), State::Open);
}

#[test]
fn a_call_goes_back_once_then_to_the_second_address_then_to_the_smaller_model() {
    let (mut ladder, now, mut climb) = (three(), start(), fresh());
    let mut way = Vec::new();
    for _ in 0..6 {
        let pick = ladder.take(now, &climb);
        way.push(pick.rung);
        ladder.failed(now, pick.rung, pick.probe, Mishap::Lost, &mut climb);
        // Others are served meanwhile: the breakers stay closed.
        (0..3).for_each(|rung| ladder.worked(rung));
    }
    assert_eq!(way, [0, 0, 1, 1, 2, 2]);
}

#[test]
fn what_cannot_be_reached_is_left_at_once_with_all_that_is_there() {
    let (mut ladder, now, mut climb) = (three(), start(), fresh());
    ladder.failed(now, 0, None, Mishap::Unreachable, &mut climb);
    assert_eq!(ladder.take(now, &climb).rung, 1);
    ladder.failed(now, 1, None, Mishap::Busy, &mut climb);
    assert_eq!(ladder.next(now, &climb), None, "the smaller model is at the address that cannot be reached");
    assert!(!ladder.is_hopeless(&climb));
    assert_eq!(ladder.take(now + FORGIVES, &climb).rung, 0, "later the call forgives");
}

#[test]
fn a_dead_key_is_shared_and_a_missing_model_is_not() {
    let (mut ladder, now, mut climb) = (three(), start(), fresh());
    ladder.failed(now, 0, None, Mishap::Refused, &mut climb);
    assert_eq!([0, 1, 2].map(|rung| ladder.state(rung, now)), [State::Open, State::Closed, State::Open]);
    ladder.failed(now, 1, None, Mishap::Refused, &mut climb);
    assert!(ladder.is_hopeless(&climb));
    let (mut ladder, mut climb) = (three(), fresh());
    ladder.failed(now, 0, None, Mishap::Unfit, &mut climb);
    assert_eq!([0, 1, 2].map(|rung| ladder.state(rung, now)), [State::Open, State::Closed, State::Closed]);
    assert!(!ladder.is_hopeless(&climb));
}

#[test]
fn three_failures_close_together_open_a_breaker_and_others_do_not() {
    let now = start();
    let mut ladder = three();
    for seconds in [0, 20, 40, 60] {
        ladder.failed(now + seconds * SECOND, 0, None, Mishap::Busy, &mut fresh());
        assert_eq!(ladder.state(0, now + seconds * SECOND), State::Closed);
    }
    let mut ladder = three();
    for _ in 0..10 {
        ladder.failed(now, 0, None, Mishap::Lost, &mut fresh());
        ladder.failed(now, 0, None, Mishap::Lost, &mut fresh());
        ladder.worked(0);
    }
    assert_eq!(ladder.state(0, now), State::Closed, "successes between them");
    open(&mut ladder, 0, now);
}

#[test]
fn an_open_breaker_is_passed_over_at_once_then_one_call_tries_it() {
    let (mut ladder, now) = (three(), start());
    open(&mut ladder, 0, now);
    assert_eq!(ladder.take(now, &fresh()), Pick { rung: 1, probe: None, patience: BRIEF });
    assert_eq!(ladder.spare(now), Some(1));
    let later = now + FIRST_REST;
    assert_eq!(ladder.state(0, later), State::HalfOpen);
    assert_eq!(ladder.spare(later), None, "the next call owes a probe");
    let probe = ladder.take(later, &fresh());
    assert!(probe.rung == 0 && probe.probe.is_some() && probe.patience == BRIEF, "{probe:?}");
    assert_eq!(ladder.take(later, &fresh()).rung, 1, "only one call tries");
    assert_eq!(ladder.spare(later), Some(1));
    ladder.worked(0);
    assert_eq!((ladder.state(0, later), ladder.take(later, &fresh()).rung), (State::Closed, 0));
}

#[test]
fn a_probe_that_fails_rests_twice_as_long_and_no_longer_than_the_longest() {
    let (mut ladder, mut now) = (three(), start());
    open(&mut ladder, 0, now);
    let mut rests = Vec::new();
    for rest in [10, 20, 40, 80, 120, 120] {
        assert_eq!(ladder.state(0, now + rest * SECOND - SECOND / 10), State::Open);
        now += rest * SECOND;
        let pick = ladder.take(now, &fresh());
        assert_eq!(pick.rung, 0);
        ladder.failed(now, 0, pick.probe, Mishap::Unreachable, &mut fresh());
        rests.push(rest);
    }
    assert_eq!(rests.len(), 6);
}

#[test]
fn a_probe_whose_call_ends_before_it_knew_is_given_back() {
    let (mut ladder, now) = (three(), start());
    open(&mut ladder, 0, now);
    let later = now + FIRST_REST;
    let ticket = ladder.take(later, &fresh()).probe.unwrap();
    ladder.give_back(later, ticket);
    let second = ladder.take(later, &fresh()).probe.unwrap();
    ladder.give_back(later, ticket);
    assert_eq!(ladder.take(later, &fresh()).rung, 1, "an old ticket gives nothing back");
    ladder.failed(later, 0, Some(ticket), Mishap::Aged, &mut fresh());
    assert_eq!(ladder.take(later, &fresh()).rung, 1);
    let much_later = later + PROBE_LAPSES;
    assert!(ladder.take(much_later, &fresh()).probe.is_some_and(|third| third != second), "a lost ticket lapses");
}

#[test]
fn when_all_are_open_the_least_bad_is_tried() {
    let (mut ladder, now) = (three(), start());
    ladder.failed(now, 0, None, Mishap::Refused, &mut fresh());
    open(&mut ladder, 1, now);
    let pick = ladder.take(now + SECOND, &fresh());
    assert_eq!((pick.rung, pick.probe, pick.patience), (1, None, PATIENT), "a dead key is worse than a dead line");
    let mut only = Ladder::new(Vec::new());
    open(&mut only, 0, now);
    assert_eq!((only.len(), only.is_empty(), only.take(now, &fresh()).rung), (1, false, 0));
}

#[test]
fn a_place_that_answers_again_frees_what_could_not_be_reached_there() {
    let (mut ladder, now) = (three(), start());
    for _ in 0..FAILURES {
        ladder.failed(now, 0, None, Mishap::Unreachable, &mut fresh());
    }
    assert_eq!([0, 1, 2].map(|rung| ladder.state(rung, now)), [State::Open, State::Closed, State::Open]);
    ladder.worked(0);
    assert_eq!(ladder.state(2, now), State::Closed);
}

#[test]
fn a_session_that_reached_its_greatest_age_counts_against_nobody() {
    let (mut ladder, now, mut climb) = (three(), start(), fresh());
    for _ in 0..10 {
        ladder.failed(now, 0, None, Mishap::Aged, &mut climb);
    }
    assert_eq!((ladder.state(0, now), ladder.take(now, &climb).rung), (State::Closed, 0));
}

#[test]
fn failures_are_sorted_by_what_they_say_about_the_next_session() {
    let said = |status, code| Mishap::of(&Failure::from_handshake(status, code), false);
    assert_eq!(said(401, None), Mishap::Refused);
    assert_eq!(said(429, Some("insufficient_quota")), Mishap::Refused);
    assert_eq!(said(404, Some("model_not_found")), Mishap::Unfit);
    assert_eq!(said(429, None), Mishap::Busy);
    assert_eq!(said(503, Some("overloaded")), Mishap::Busy);
    assert_eq!(said(500, None), Mishap::Busy);
    assert_eq!(said(302, None), Mishap::Unfit);
    let broken = |code| Failure::broken(Code::known(code));
    for code in ["connect_timeout", "connect_failed", "dns_failed", "tls_failed", "handshake_failed"] {
        assert_eq!(Mishap::of(&broken(code), false), Mishap::Unreachable);
    }
    for code in ["connection_lost", "going_away", "closed_1011", "no_session_created", "server_error"] {
        assert_eq!(Mishap::of(&broken(code), true), Mishap::Lost);
    }
    assert_eq!(Mishap::of(&broken("inference_rate_limit_exceeded"), true), Mishap::Busy);
    assert_eq!(Mishap::of(&broken("session_expired"), true), Mishap::Aged);
    assert_eq!(Mishap::of(&Failure::aged(), true), Mishap::Aged);
    assert_eq!(Mishap::of(&Failure::from_close(Some(3000), ""), true), Mishap::Refused);
    let unfit = Failure { loss: Loss::Broken, code: Code::known("unknown_parameter"), retry: false };
    assert_eq!(Mishap::of(&unfit, true), Mishap::Unfit);
}

/// Something that happens to a ladder.
#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Begin,
    Works(usize),
    Fails(usize, Mishap),
    Leaves(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let mishap = prop::sample::select(Mishap::ALL.to_vec());
    prop_oneof![
        (0_u64..40_000).prop_map(Step::Wait),
        Just(Step::Begin),
        Just(Step::Begin),
        (0_usize..8).prop_map(Step::Works),
        ((0_usize..8), mishap).prop_map(|(call, mishap)| Step::Fails(call, mishap)),
        (0_usize..8).prop_map(Step::Leaves),
    ]
}

fn kin() -> impl Strategy<Value = Vec<Kin>> {
    prop::collection::vec((0_usize..3, 0_usize..2), 0..8)
        .prop_map(|all| all.into_iter().map(|(place, account)| Kin { place, account }).collect())
}

proptest! {
    #[test]
    fn whatever_happens_a_call_gets_a_rung_and_probes_are_single(
        kin in kin(),
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut ladder = Ladder::new(kin);
        let mut now = start();
        let mut calls: Vec<(Climb, Pick, Instant)> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(ms) => now += Duration::from_millis(ms),
                Step::Begin => {
                    let before: Vec<State> = (0..ladder.len()).map(|rung| ladder.state(rung, now)).collect();
                    let pick = ladder.take(now, &fresh());
                    prop_assert!(pick.rung < ladder.len());
                    // Nobody waits for an open breaker while another rung is closed.
                    if before.contains(&State::Closed) {
                        prop_assert!(before[pick.rung] != State::Open);
                    }
                    if pick.probe.is_some() {
                        prop_assert_eq!(before[pick.rung], State::HalfOpen);
                        let others = calls.iter().filter(|(_, other, began)| {
                            other.rung == pick.rung && other.probe.is_some() && now - *began < PROBE_LAPSES
                        });
                        prop_assert_eq!(others.count(), 0, "two calls try one rung");
                    }
                    calls.push((fresh(), pick, now));
                }
                Step::Works(call) if !calls.is_empty() => {
                    let (_, pick, _) = calls.remove(call % calls.len());
                    ladder.worked(pick.rung);
                    prop_assert_eq!(ladder.state(pick.rung, now), State::Closed);
                    // Whoever tried it still is told so.
                    calls.iter_mut().filter(|(_, other, _)| other.rung == pick.rung).for_each(|call| call.1.probe = None);
                }
                Step::Fails(call, mishap) if !calls.is_empty() => {
                    let (mut climb, pick, _) = calls.remove(call % calls.len());
                    ladder.failed(now, pick.rung, pick.probe, mishap, &mut climb);
                    if is_refusal(mishap) {
                        prop_assert!(ladder.state(pick.rung, now) != State::Closed);
                    }
                }
                Step::Leaves(call) if !calls.is_empty() => {
                    let (_, pick, _) = calls.remove(call % calls.len());
                    if let Some(ticket) = pick.probe {
                        ladder.give_back(now, ticket);
                    }
                }
                Step::Works(_) | Step::Fails(..) | Step::Leaves(_) => {}
            }
        }
        // The first rung is never lost: after the longest rest the next call tries it.
        let later = now + LONGEST_REST.max(PROBE_LAPSES);
        prop_assert_eq!(ladder.take(later, &fresh()).rung, 0);
    }

    #[test]
    fn one_call_tries_every_rung_before_it_comes_back(
        kin in kin(),
        mishaps in prop::collection::vec(prop::sample::select(vec![Mishap::Busy, Mishap::Unfit]), MAX_RUNGS),
    ) {
        let (mut ladder, now, mut climb) = (Ladder::new(kin), start(), fresh());
        let mut seen = std::collections::BTreeSet::new();
        for mishap in mishaps.into_iter().take(ladder.len()) {
            let pick = ladder.take(now, &climb);
            prop_assert!(seen.insert(pick.rung), "{seen:?} {}", pick.rung);
            ladder.failed(now, pick.rung, pick.probe, mishap, &mut climb);
        }
        prop_assert_eq!(ladder.next(now, &climb), None);
    }
}
