//! A day of one registration: two addresses, short outages of one, a long one of both, a registrar that grants less.

use std::time::{Duration, Instant};

use super::{Effect, Input, Registration, State, WAIT_LONGEST};

const HOUR: u64 = 3_600;
const LIFETIME: Duration = Duration::from_secs(600);
/// What the registrar grants whatever is asked for.
const GRANTED: Duration = Duration::from_secs(300);

/// Which of the two addresses answer at a second of the day.
fn alive(second: u64) -> [bool; 2] {
    match second {
        // the first is away for three hours, then the second for one
        second if (5 * HOUR..8 * HOUR).contains(&second) => [false, true],
        second if (10 * HOUR..11 * HOUR).contains(&second) => [true, false],
        // both for two hours
        second if (14 * HOUR..16 * HOUR).contains(&second) => [false, false],
        // half a minute of every hour in the evening: half of what is left of a lifetime when it is renewed
        second if second >= 18 * HOUR && second % HOUR < 30 => [false, false],
        _ => [true, true],
    }
}

/// One REGISTER of the day.
#[derive(Debug, Clone, Copy)]
struct Sent {
    second: u64,
    server: usize,
    taken: bool,
}

#[expect(clippy::disallowed_methods, reason = "a test needs some first moment")]
fn a_day(seed: u64) -> (Vec<Sent>, Vec<(u64, u64)>) {
    let start = Instant::now();
    let at = |now: Instant| (now - start).as_secs();
    let mut machine = Registration::new(start, LIFETIME, seed);
    let (mut now, mut sent, mut holds_at) = (start, Vec::new(), None);
    // gaps in which no call could come in, in seconds of the day
    let (mut gaps, mut held) = (Vec::new(), start);
    while at(now) < 24 * HOUR {
        let (due, _) = machine.deadline().expect("there is always a next step");
        assert!(due > now || at(now) == 0, "it never asks twice in one moment");
        now = due;
        let mut effect = machine.due(now);
        while let Some(wanted) = effect {
            let input = match wanted {
                // a name server mixes the two as it likes; the shell says where the registration is among them
                Effect::Resolve => Input::Resolved { servers: 2, holds_at },
                Effect::Register { server, expires } => {
                    assert!(server < 2 && expires == LIFETIME);
                    let taken = alive(at(now))[server];
                    sent.push(Sent { second: at(now), server, taken });
                    now += if taken { Duration::from_millis(40) } else { Duration::from_secs(8) };
                    if taken {
                        if now > held && at(held) > 0 {
                            gaps.push((at(held), at(now)));
                        }
                        (held, holds_at) = (now + GRANTED, Some(server));
                        Input::Registered(GRANTED)
                    } else {
                        Input::Unreachable
                    }
                }
            };
            effect = machine.handle(now, input);
        }
        assert_eq!(machine.state(now) == State::Registered, held > now, "at {} s", at(now));
    }
    (sent, gaps)
}

#[test]
fn a_day_of_registration_has_no_gap_that_the_registrar_did_not_make_and_no_flood() {
    for seed in 0..200 {
        let (sent, gaps) = a_day(seed);
        // The outage of both is the only one that is longer than a lifetime, and the way back is one longest wait.
        let [(from, to)] = gaps[..] else { panic!("seed {seed}: {gaps:?}") };
        assert!((14 * HOUR..14 * HOUR + GRANTED.as_secs() + 1).contains(&from), "seed {seed}: {gaps:?}");
        let longest = WAIT_LONGEST.as_secs() * 5 / 4 + 17;
        assert!((16 * HOUR..=16 * HOUR + longest).contains(&to), "seed {seed}: {gaps:?}");
        // 300 s are renewed after 240: 360 a day, and those that failed.
        let taken = sent.iter().filter(|sent| sent.taken).count();
        assert!((320..=380).contains(&taken), "seed {seed}: {taken}");
        let lost = sent.len() - taken;
        assert!(lost < 130, "seed {seed}: {lost}");
        let away: Vec<_> = sent.iter().filter(|sent| (14 * HOUR + 900..16 * HOUR).contains(&sent.second)).collect();
        assert!(away.len() < 60, "seed {seed}: {} in two dead hours", away.len());
        // While the first is away all is served by the second, which is asked once for it and then stayed with.
        let third: Vec<_> = sent.iter().filter(|sent| (5 * HOUR + 300..8 * HOUR).contains(&sent.second)).collect();
        assert!(third.iter().all(|sent| sent.server == 1 && sent.taken), "seed {seed}");
    }
}
