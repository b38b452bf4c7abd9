//! Stories of one call in virtual time.

use super::*;

const LIMITS: Limits = Limits {
    door: Door::Whatsapp,
    connect_within: Duration::from_secs(3),
    no_media: Duration::from_secs(20),
    model_silence: Duration::from_secs(10),
    max_call: Duration::from_secs(900),
    spread: 0,
};

/// One call in virtual time: sleeps exactly to the machine's deadline.
struct World {
    call: Call,
    start: Instant,
    now: Instant,
    seen: Vec<Effect>,
}

impl World {
    fn new() -> Self {
        Self::at(Door::Whatsapp)
    }

    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    fn at(door: Door) -> Self {
        let start = Instant::now();
        let mut seen = Vec::new();
        let call = Call::start(start, start, Limits { door, ..LIMITS }, &mut seen);
        Self { call, start, now: start, seen }
    }

    fn input(&mut self, input: Input) -> &mut Self {
        self.call.handle(self.now, input, &mut self.seen);
        self
    }

    /// Lets time pass up to `at` after the start, firing each deadline at its moment.
    fn until(&mut self, at: Duration) -> &mut Self {
        for _ in 0..1000 {
            match self.call.deadline() {
                Some((due, _)) if due <= self.start + at => {
                    self.now = self.now.max(due);
                    self.input(Input::Timer);
                }
                _ => break,
            }
        }
        self.now = self.start + at;
        self
    }

    fn ringing() -> Self {
        let mut world = Self::new();
        world.input(Input::LegAnswered).input(Input::Door(Action::PreAccept, DoorVerdict::Done));
        world
    }

    fn talking() -> Self {
        let mut world = Self::ringing();
        world.input(Input::LegUp).input(Input::ModelReady).input(Input::Door(Action::Accept, DoorVerdict::Done));
        world
    }

    fn actions(&self) -> Vec<Action> {
        self.seen.iter().filter_map(|e| if let Effect::Door(action) = e { Some(*action) } else { None }).collect()
    }

    fn outcome(&self) -> Option<(Outcome, Fault)> {
        let ends: Vec<_> = self
            .seen
            .iter()
            .filter_map(|e| if let Effect::End(outcome, fault) = e { Some((*outcome, *fault)) } else { None })
            .collect();
        assert!(ends.len() <= 1, "more than one outcome: {ends:?}");
        ends.first().copied()
    }

    fn count(&self, effect: &Effect) -> usize {
        self.seen.iter().filter(|seen| *seen == effect).count()
    }

    fn owes_text(&self) -> bool {
        self.seen.contains(&Effect::OweText)
    }
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_call_is_accepted_once_both_legs_are_up_and_audio_follows_the_accept() {
    let mut world = World::ringing();
    assert_eq!(world.actions(), [Action::PreAccept]);
    world.input(Input::LegUp);
    assert_eq!(world.actions(), [Action::PreAccept], "the model is not there yet");
    world.input(Input::ModelReady);
    assert_eq!(world.actions(), [Action::PreAccept, Action::Accept]);
    assert!(!world.seen.contains(&Effect::OpenAudio));
    world.input(Input::Door(Action::Accept, DoorVerdict::Done));
    assert!(world.seen.contains(&Effect::OpenAudio));
    world.input(Input::FirstAudio).input(Input::Terminated { failure: None });
    assert_eq!(world.outcome(), Some((Outcome::Completed, Fault::None)));
    assert!(!world.owes_text());
}

#[test]
fn milestones_stand_in_the_contracts_order_whatever_comes_first() {
    let mut world = World::new();
    world.input(Input::ModelReady).input(Input::LegAnswered).input(Input::LegUp);
    world.input(Input::Door(Action::PreAccept, DoorVerdict::Done));
    world.input(Input::FirstAudio).input(Input::Door(Action::Accept, DoorVerdict::Done));
    let order: Vec<_> =
        world.seen.iter().filter_map(|e| if let Effect::Milestone(m, _) = e { Some(*m) } else { None }).collect();
    assert_eq!(order, Milestone::ALL);
}

#[test]
fn a_leg_without_a_model_is_accepted_at_connect_within_and_given_up_four_seconds_later() {
    let mut world = World::ringing();
    world.input(Input::LegUp).until(secs(3));
    assert_eq!(world.actions(), [Action::PreAccept, Action::Accept]);
    world.input(Input::Door(Action::Accept, DoorVerdict::Done)).until(secs(6));
    assert_eq!(world.outcome(), None);
    world.until(secs(7));
    assert!(world.seen.contains(&Effect::Clip(ClipName::Apology)), "the caller hears why");
    world.input(Input::ClipOver);
    assert_eq!(world.outcome(), Some((Outcome::ModelFailed, Fault::Model)));
    assert_eq!(world.actions().last(), Some(&Action::Terminate));
    assert!(world.owes_text());
}

#[test]
fn a_leg_that_never_comes_up_is_never_accepted_and_rejected_at_twenty_seconds() {
    let mut world = World::ringing();
    world.input(Input::ModelReady).until(secs(19));
    assert_eq!(world.outcome(), None);
    world.until(secs(20));
    assert_eq!(world.actions(), [Action::PreAccept, Action::Reject]);
    assert_eq!(world.outcome(), Some((Outcome::NoMedia, Fault::Whatsapp)));
    assert!(world.owes_text());
}

#[test]
fn a_refused_key_rejects_at_once_with_a_text() {
    let mut world = World::ringing();
    world.input(Input::ModelLost { refused: true });
    assert_eq!(world.actions(), [Action::PreAccept, Action::Reject]);
    assert_eq!(world.outcome(), Some((Outcome::ModelRefused, Fault::Operator)));
    assert!(world.owes_text());
}

#[test]
fn a_broken_session_is_opened_again_while_the_caller_rings_and_given_up_in_the_end() {
    let mut world = World::ringing();
    world.input(Input::ModelLost { refused: false }).until(Duration::from_millis(150));
    let opened = |world: &World| world.seen.iter().filter(|e| **e == Effect::OpenModel).count();
    assert_eq!(opened(&world), 2);
    world.input(Input::ModelReady).input(Input::LegUp);
    assert_eq!(world.actions(), [Action::PreAccept, Action::Accept]);

    let mut world = World::ringing();
    for step in 1..=3 {
        world.input(Input::ModelLost { refused: false }).until(secs(step));
    }
    assert_eq!(opened(&world), 4);
    world.input(Input::ModelLost { refused: false });
    assert_eq!(world.outcome(), Some((Outcome::ModelFailed, Fault::Model)));
}

#[test]
fn an_accept_without_an_answer_is_tried_once_more_and_media_decides_a_400() {
    let doubtful = || {
        let mut world = World::ringing();
        world.input(Input::LegUp).input(Input::ModelReady);
        world.input(Input::Door(Action::Accept, DoorVerdict::Unknown));
        world.input(Input::Door(Action::Accept, DoorVerdict::Refused));
        world
    };
    let mut world = doubtful();
    assert_eq!(world.actions(), [Action::PreAccept, Action::Accept, Action::Accept]);
    world.input(Input::MediaSeen);
    assert!(world.seen.contains(&Effect::OpenAudio), "media within the second counts as accepted");

    let mut world = doubtful();
    world.until(secs(1));
    assert_eq!(world.actions().last(), Some(&Action::Terminate));
    assert_eq!(world.outcome(), Some((Outcome::GraphFailed, Fault::Whatsapp)));
}

#[test]
fn a_first_400_to_the_accept_ends_the_call_with_a_text() {
    let mut world = World::ringing();
    world.input(Input::LegUp).input(Input::ModelReady);
    world.input(Input::Door(Action::Accept, DoorVerdict::Refused));
    assert_eq!(world.outcome(), Some((Outcome::GraphFailed, Fault::Whatsapp)));
    assert!(world.owes_text());
}

#[test]
fn a_caller_who_leaves_before_hearing_anything_left_early() {
    let mut world = World::ringing();
    world.input(Input::Terminated { failure: None });
    assert_eq!(world.outcome(), Some((Outcome::CallerLeftEarly, Fault::Caller)));
    assert_eq!(world.actions(), [Action::PreAccept], "Meta need not be told");
}

#[test]
fn a_terminate_that_overtakes_the_answer_to_our_accept_lets_no_audio_out() {
    let mut world = World::ringing();
    world.input(Input::LegUp).input(Input::ModelReady);
    assert_eq!(world.actions().last(), Some(&Action::Accept));
    world.input(Input::Terminated { failure: None }).input(Input::Door(Action::Accept, DoorVerdict::Done));
    assert!(!world.seen.contains(&Effect::OpenAudio), "{:?}", world.seen);
    assert_eq!(world.outcome(), Some((Outcome::CallerLeftEarly, Fault::Caller)));
}

#[test]
fn media_that_stops_ends_the_call_after_the_configured_silence() {
    let mut world = World::talking();
    world.until(secs(15)).input(Input::MediaSeen).until(secs(34));
    assert_eq!(world.outcome(), None);
    world.until(secs(35));
    assert_eq!(world.outcome(), Some((Outcome::NoMedia, Fault::Whatsapp)));
    assert_eq!(world.actions().last(), Some(&Action::Terminate));
}

#[test]
fn a_model_that_owes_an_event_for_too_long_is_given_up_and_opened_again() {
    let mut world = World::talking();
    world.until(secs(5));
    let now = world.now;
    world.input(Input::MediaSeen).input(Input::ModelOwes(Some(now))).until(secs(14));
    assert!(!world.seen.contains(&Effect::CloseModel));
    world.until(secs(15));
    assert!(world.seen.contains(&Effect::CloseModel));
    world.input(Input::ModelLost { refused: false }).until(secs(16));
    assert_eq!(world.count(&Effect::OpenModel), 2, "the loss that we made ourselves counts once");
}

#[test]
fn a_session_lost_in_mid_call_is_opened_again_and_the_call_goes_on() {
    let mut world = World::talking();
    world.until(secs(2)).input(Input::ModelLost { refused: false });
    world.until(Duration::from_millis(2_100));
    assert_eq!(world.count(&Effect::OpenModel), 2);
    world.input(Input::ModelReady).until(secs(4)).input(Input::Terminated { failure: None });
    assert_eq!(world.outcome().map(|(_, fault)| fault), Some(Fault::Caller), "nothing was heard in this story");
    assert!(!world.owes_text());
}

#[test]
fn a_session_that_cannot_be_had_again_ends_in_an_apology_and_a_text() {
    let mut world = World::talking();
    world.until(secs(2));
    for second in 2..17 {
        world.input(Input::MediaSeen).input(Input::ModelLost { refused: false }).until(secs(second + 1));
    }
    assert!(world.count(&Effect::OpenModel) <= 6, "{}", world.count(&Effect::OpenModel));
    assert_eq!(world.count(&Effect::Clip(ClipName::Apology)), 1);
    assert_eq!(world.outcome(), None, "the apology is played to its end");
    world.input(Input::ClipOver);
    assert_eq!(world.outcome(), Some((Outcome::ModelFailed, Fault::Model)));
    assert!(world.owes_text());
}

#[test]
fn an_attempt_that_hangs_does_not_prolong_the_wait() {
    let mut world = World::talking();
    world.until(secs(2)).input(Input::ModelLost { refused: false }).until(secs(16));
    world.input(Input::MediaSeen).until(secs(17));
    assert_eq!(world.count(&Effect::Clip(ClipName::Apology)), 1);
}

#[test]
fn a_session_that_breaks_again_and_again_uses_its_attempts_up() {
    let mut world = World::talking();
    for round in 0..8 {
        world.input(Input::MediaSeen).input(Input::ModelLost { refused: false }).until(secs(5 * (round + 1)));
        world.input(Input::ModelReady);
    }
    assert_eq!(world.count(&Effect::Clip(ClipName::Apology)), 1, "never steady for ten seconds");

    let mut world = World::talking();
    for round in 0..8 {
        world.input(Input::MediaSeen).input(Input::ModelLost { refused: false }).until(secs(15 * round + 1));
        world.input(Input::ModelReady).until(secs(15 * (round + 1)));
    }
    assert_eq!(world.outcome(), None, "one that holds earns its attempts anew");
}

#[test]
fn a_key_that_dies_in_mid_call_is_not_tried_again() {
    let mut world = World::talking();
    world.input(Input::ModelLost { refused: true });
    assert_eq!(world.count(&Effect::OpenModel), 1);
    world.until(secs(12));
    assert_eq!(world.outcome(), Some((Outcome::ModelRefused, Fault::Operator)), "also if no clip ever ends");
    assert!(world.owes_text());
}

#[test]
fn a_caller_who_hangs_up_during_the_apology_gets_the_text_and_graph_is_not_told() {
    let mut world = World::talking();
    world.input(Input::ModelLost { refused: true });
    let before = world.actions().len();
    world.input(Input::Terminated { failure: None });
    assert_eq!(world.outcome(), Some((Outcome::ModelRefused, Fault::Operator)));
    assert!(world.owes_text());
    assert_eq!(world.actions().len(), before);
}

#[test]
fn attempts_of_many_calls_are_spread() {
    let due = |spread| {
        let mut world = World::talking();
        world.call.limits.spread = spread;
        world.input(Input::ModelLost { refused: false });
        world.call.deadline().unwrap().0 - world.now
    };
    assert_eq!(due(0), Duration::from_millis(100));
    assert!(due(999) < Duration::from_millis(76));
}

#[test]
fn a_concluded_conversation_is_completed() {
    for fault in [Fault::None, Fault::Caller] {
        let mut world = World::talking();
        world.input(Input::FirstAudio).input(Input::Concluded(fault));
        assert_eq!(world.outcome(), Some((Outcome::Completed, fault)));
        assert_eq!(world.actions().last(), Some(&Action::Terminate));
        assert!(!world.owes_text());
    }
}

#[test]
fn a_goodbye_is_spoken_before_the_limit_and_the_call_ends_when_it_was_played() {
    let mut world = World::talking();
    for second in (10..888).step_by(10) {
        world.until(secs(second)).input(Input::MediaSeen);
    }
    world.until(secs(888));
    assert!(world.seen.contains(&Effect::SayGoodbye));
    world.until(secs(891)).input(Input::GoodbyePlayed);
    assert_eq!(world.outcome(), Some((Outcome::Limit, Fault::None)));
    assert!(!world.owes_text());

    let mut world = World::talking();
    for second in (10..900).step_by(10) {
        world.until(secs(second)).input(Input::MediaSeen);
    }
    world.until(secs(900));
    assert_eq!(world.outcome(), Some((Outcome::Limit, Fault::None)), "the limit holds without a goodbye too");
}

#[test]
fn where_the_model_is_away_at_the_end_the_box_says_goodbye_itself() {
    let mut world = World::talking();
    for second in (10..885).step_by(10) {
        world.until(secs(second)).input(Input::MediaSeen);
    }
    world.until(secs(886)).input(Input::ModelLost { refused: false }).until(secs(888));
    assert!(world.seen.contains(&Effect::Clip(ClipName::Goodbye)) && !world.seen.contains(&Effect::SayGoodbye));
    world.until(secs(891)).input(Input::ClipOver);
    assert_eq!(world.outcome(), None, "the model may come back, and the limit is the limit");
    world.input(Input::MediaSeen).until(secs(900));
    assert_eq!(world.outcome(), Some((Outcome::Limit, Fault::None)));
}

#[test]
fn nothing_comes_out_after_the_end() {
    let mut world = World::talking();
    world.input(Input::HangUp);
    let before = world.seen.len();
    for input in [
        Input::LegUp,
        Input::ModelReady,
        Input::Terminated { failure: Some(Fault::Whatsapp) },
        Input::Door(Action::Accept, DoorVerdict::Done),
        Input::Drain,
        Input::Timer,
        Input::LegLost,
    ] {
        world.input(input);
    }
    assert_eq!(world.seen.len(), before);
    assert_eq!(world.call.deadline(), None);
}

/// An INVITE that is taken in hand: 180 went out.
fn invited(door: Door) -> World {
    let mut world = World::at(door);
    world.input(Input::LegAnswered).input(Input::Door(Action::PreAccept, DoorVerdict::Done));
    world
}

#[test]
fn a_call_of_sip_is_answered_before_its_media_can_come_up() {
    let mut world = invited(Door::WhatsappSip);
    world.input(Input::ModelReady);
    assert_eq!(world.actions(), [Action::PreAccept, Action::Accept]);
    world.input(Input::Door(Action::Accept, DoorVerdict::Done)).until(secs(20));
    assert_eq!(world.outcome(), Some((Outcome::NoMedia, Fault::Whatsapp)), "and ends if it never does");
    let mut world = invited(Door::Trunk);
    world.until(secs(3));
    assert_eq!(world.actions(), [Action::PreAccept, Action::Accept], "`connect_within` holds for every door");
}

#[test]
fn a_call_on_hold_is_not_taken_for_dead_and_silence_counts_from_the_end_of_the_hold() {
    let mut world = invited(Door::Trunk);
    world.input(Input::LegUp).input(Input::ModelReady).input(Input::Door(Action::Accept, DoorVerdict::Done));
    world.input(Input::Held(true)).until(secs(300));
    assert_eq!(world.outcome(), None);
    world.input(Input::Held(false)).until(secs(319));
    assert_eq!(world.outcome(), None);
    world.until(secs(321));
    assert_eq!(world.outcome(), Some((Outcome::NoMedia, Fault::Carrier)));
}

#[test]
fn a_goodbye_in_rtcp_does_not_end_a_call_that_has_a_bye_of_its_own() {
    let mut world = invited(Door::Trunk);
    world.input(Input::LegUp).input(Input::ModelReady).input(Input::Door(Action::Accept, DoorVerdict::Done));
    world.input(Input::MediaBye);
    assert_eq!(world.outcome(), None);
    world.input(Input::Terminated { failure: None });
    assert!(world.outcome().is_some());
}

#[test]
fn an_answer_that_meta_does_not_take_is_our_fault_and_a_dead_token_the_operators() {
    for (verdict, fault) in [
        (DoorVerdict::SdpRefused, Fault::Box),
        (DoorVerdict::Forbidden, Fault::Operator),
        (DoorVerdict::Unknown, Fault::Whatsapp),
    ] {
        let mut world = World::new();
        world.input(Input::LegAnswered).input(Input::Door(Action::PreAccept, verdict));
        assert_eq!(world.outcome(), Some((Outcome::GraphFailed, fault)));
        assert!(world.owes_text());
    }
}

#[test]
fn a_caller_who_speaks_with_a_person_needs_no_model_and_is_not_cut_off_for_want_of_one() {
    let mut world = World::talking();
    world.input(Input::ModelOwes(Some(world.now))).input(Input::ModelOut).input(Input::ModelLost { refused: true });
    for second in 1..=600 {
        world.until(Duration::from_secs(second)).input(Input::MediaSeen);
    }
    assert_eq!(world.outcome(), None);
    assert_eq!(world.count(&Effect::OpenModel), 1, "none is opened again");
    world.input(Input::Concluded(Fault::None));
    assert_eq!(world.outcome(), Some((Outcome::Completed, Fault::None)));
    // The limits of a call hold all the same, without a goodbye that nobody could speak.
    let mut world = World::talking();
    world.input(Input::ModelOut);
    for second in 1..=900 {
        world.until(Duration::from_secs(second)).input(Input::MediaSeen);
    }
    assert_eq!(world.outcome(), Some((Outcome::Limit, Fault::None)));
    assert_eq!(world.count(&Effect::SayGoodbye), 0);
    let mut silent = World::talking();
    silent.input(Input::ModelOut).until(Duration::from_secs(30));
    assert_eq!(silent.outcome(), Some((Outcome::NoMedia, Fault::Whatsapp)));
}
