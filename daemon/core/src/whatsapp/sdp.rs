//! How old a call is: what the offer's `o=` line and the webhook's timestamp say about it.
//!
//! Meta's client writes the moment of creation into the session id of `o=` (RFC 8866 §5.2), in epoch milliseconds;
//! other clients write a random number there. This file reads no other line: offers are the media crate's business.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// A session id further than this from now is no time of creation but a random number.
const PLAUSIBLE: SignedDuration = SignedDuration::from_hours(24);

/// What an age was measured from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgeSource {
    /// The session id of `o=`: to the millisecond, and before any delay in Meta's delivery.
    Origin,
    /// The webhook's own timestamp: whole seconds.
    Webhook,
}

/// How long ago the caller pressed the button, as far as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectAge {
    /// The age; zero when the other side's clock runs ahead of ours.
    pub age: Duration,
    /// What it was measured from.
    pub source: AgeSource,
}

/// The time in the session id of the first `o=` line, read as epoch milliseconds.
///
/// `None` when there is no such line, or the id is no number that a clock could show.
#[must_use]
pub fn origin_time(sdp: &str) -> Option<Timestamp> {
    let origin = sdp.lines().find_map(|line| line.trim_start().strip_prefix("o="))?;
    let session_id = origin.split_ascii_whitespace().nth(1)?;
    Timestamp::from_millisecond(session_id.parse().ok()?).ok()
}

/// The age of a connect: since `o=` if that lies within a day of `now`, else since the webhook's timestamp.
///
/// Never negative. `None` when neither is known; such a call is taken for new.
#[must_use]
pub fn connect_age(now: Timestamp, sdp: Option<&str>, webhook: Option<Timestamp>) -> Option<ConnectAge> {
    let origin = sdp.and_then(origin_time).filter(|origin| now.duration_since(*origin).abs() <= PLAUSIBLE);
    let (since, source) = match (origin, webhook) {
        (Some(origin), _) => (origin, AgeSource::Origin),
        (None, Some(webhook)) => (webhook, AgeSource::Webhook),
        (None, None) => return None,
    };
    let age = Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO);
    Some(ConnectAge { age, source })
}

/// True when a connect is too old to be worth answering: older than `stale_after`, on a clock that can be trusted.
#[must_use]
pub fn is_stale(age: Option<ConnectAge>, stale_after: Duration, clock_synchronised: bool) -> bool {
    clock_synchronised && age.is_some_and(|known| known.age > stale_after)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SENT: i64 = 1_762_336_250_050;

    fn offer(session_id: &str) -> String {
        format!("v=0\r\no=- {session_id} 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=ice-lite\r\n")
    }

    fn at(millisecond: i64) -> Timestamp {
        Timestamp::from_millisecond(millisecond).unwrap()
    }

    fn age_ms(now: i64, sdp: &str, webhook: Option<i64>) -> Option<(u128, AgeSource)> {
        connect_age(at(now), Some(sdp), webhook.map(at)).map(|known| (known.age.as_millis(), known.source))
    }

    #[test]
    fn the_origin_line_gives_the_age_to_the_millisecond() {
        let sdp = offer(&SENT.to_string());
        assert_eq!(age_ms(SENT + 2_049, &sdp, Some(SENT + 2_000)), Some((2_049, AgeSource::Origin)));
        assert_eq!(age_ms(SENT + 2_049, &sdp.replace("\r\n", "\n"), None), Some((2_049, AgeSource::Origin)));
    }

    #[test]
    fn a_random_session_id_leaves_the_age_to_the_webhook() {
        for id in ["4611732891726351234", "1762336250", "0", "-7", "99999999999999999999999", "x", ""] {
            assert_eq!(age_ms(SENT, &offer(id), Some(SENT - 3_000)), Some((3_000, AgeSource::Webhook)), "{id}");
        }
        let day_old = offer(&(SENT - 86_400_001).to_string());
        assert_eq!(age_ms(SENT, &day_old, Some(SENT - 1_000)), Some((1_000, AgeSource::Webhook)));
        let almost = offer(&(SENT - 86_400_000).to_string());
        assert_eq!(age_ms(SENT, &almost, None), Some((86_400_000, AgeSource::Origin)));
    }

    #[test]
    fn a_clock_that_runs_ahead_gives_age_zero() {
        assert_eq!(age_ms(SENT, &offer(&(SENT + 5_000).to_string()), None), Some((0, AgeSource::Origin)));
        assert_eq!(age_ms(SENT, "v=0", Some(SENT + 5_000)), Some((0, AgeSource::Webhook)));
    }

    #[test]
    fn a_connect_without_any_time_is_not_judged() {
        assert_eq!(connect_age(at(SENT), None, None), None);
        assert!(!is_stale(None, Duration::from_secs(45), true));
    }

    #[test]
    fn staleness_begins_after_the_limit_and_needs_a_trusted_clock() {
        let limit = Duration::from_secs(45);
        let age = |ms| connect_age(at(SENT + ms), Some(&offer(&SENT.to_string())), None);
        assert!(!is_stale(age(45_000), limit, true));
        assert!(is_stale(age(45_001), limit, true));
        assert!(!is_stale(age(45_001), limit, false));
    }

    proptest! {
        #[test]
        fn no_text_and_no_time_make_the_age_panic(sdp in ".{0,200}", now in any::<i64>(), webhook in any::<i64>()) {
            let Ok(now) = Timestamp::from_millisecond(now % 253_402_207_200_000) else { return Ok(()) };
            let webhook = Timestamp::from_second(webhook % 253_402_207_200).ok();
            let age = connect_age(now, Some(&sdp), webhook);
            prop_assert!(age.is_some() || webhook.is_none());
            let lined = connect_age(now, Some(&format!("o={sdp}")), webhook);
            prop_assert!(lined.is_some() || webhook.is_none());
        }
    }
}
