//! Session timers (RFC 4028): a dialog whose far end is gone does not stay up for ever.
//!
//! We take part when the far end wants to, in either role, and ask for none ourselves: `[limits] max_call` ends every
//! call anyway. Towards WhatsApp there are none: its servers answer a re-INVITE with 500 (whatsapp-calling §4), so
//! whoever drives a dialog with it does not come here. The refresh is sent by the shell.

use std::time::{Duration, Instant};

/// The shortest interval that is taken, s; the RFC's own least (§5).
pub const MIN_SE: u32 = 90;
/// How long before its end an unrefreshed session is given up: 32 s or a third, whichever is less (§10).
const BEFORE_THE_END: Duration = Duration::from_secs(32);

/// Who sends the refresh, in the roles of the request that carried the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresher {
    /// Who sent the request.
    Uac,
    /// Who answers it.
    Uas,
}

/// `Session-Expires`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionExpires {
    /// The interval, s.
    pub seconds: u32,
    /// Who refreshes, if that was said.
    pub refresher: Option<Refresher>,
}

impl SessionExpires {
    /// Reads the header's value, `1800;refresher=uas`. `None` when it cannot be read: then it counts as absent.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let mut parts = value.split(';').map(str::trim);
        let seconds = parts.next()?.parse().ok()?;
        let refresher = parts.filter_map(|parameter| parameter.split_once('=')).find_map(|(name, value)| {
            let named = name.trim().eq_ignore_ascii_case("refresher");
            match value.trim() {
                who if named && who.eq_ignore_ascii_case("uac") => Some(Refresher::Uac),
                who if named && who.eq_ignore_ascii_case("uas") => Some(Refresher::Uas),
                _ => None,
            }
        });
        Some(Self { seconds, refresher })
    }

    /// The header's value.
    #[must_use]
    pub fn write(self) -> String {
        let who = match self.refresher {
            Some(Refresher::Uac) => ";refresher=uac",
            Some(Refresher::Uas) => ";refresher=uas",
            None => "",
        };
        format!("{}{who}", self.seconds)
    }
}

/// What a request that we answer says about timers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// Its `Session-Expires`.
    pub expires: Option<SessionExpires>,
    /// Whether `Supported` or `Require` names `timer`: only then can the far end refresh.
    pub supported: bool,
}

/// What we answer.
#[derive(Debug, Clone, Copy)]
pub enum Agreed {
    /// No timer.
    None,
    /// 422 with `Min-SE:` [`MIN_SE`] (§6).
    TooSmall,
    /// 2xx with this header, and `Require: timer` when the far end refreshes (§9).
    Timer {
        /// The header of the answer.
        header: SessionExpires,
        /// Whether the answer must require `timer`.
        require: bool,
        /// The running timer.
        timer: SessionTimer,
    },
}

/// Answers a request with or without a timer in it; `now` is when the 2xx is sent.
#[must_use]
pub fn answer(now: Instant, asked: Asked) -> Agreed {
    let Some(expires) = asked.expires else { return Agreed::None };
    if expires.seconds < MIN_SE && asked.supported {
        return Agreed::TooSmall;
    }
    // a proxy may have added the header for an end that knows no timers: nobody there understands 422, and only we
    // can refresh (§9, table 2)
    let refresher = if asked.supported { expires.refresher.unwrap_or(Refresher::Uac) } else { Refresher::Uas };
    let header = SessionExpires { seconds: expires.seconds.max(MIN_SE), refresher: Some(refresher) };
    let timer = SessionTimer::new(now, header.seconds, refresher == Refresher::Uas);
    Agreed::Timer { header, require: refresher == Refresher::Uac, timer }
}

/// The timer that a 2xx to a request of ours sets up, if any (§7.2).
#[must_use]
pub fn answered(now: Instant, expires: Option<SessionExpires>) -> Option<SessionTimer> {
    let expires = expires.filter(|expires| expires.seconds >= MIN_SE)?;
    Some(SessionTimer::new(now, expires.seconds, expires.refresher != Some(Refresher::Uas)))
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Send a refresh: UPDATE or re-INVITE without a new offer.
    Refresh,
    /// Nobody refreshed: send BYE.
    Expired,
}

/// The timer of one dialog.
#[derive(Debug, Clone, Copy)]
pub struct SessionTimer {
    interval: Duration,
    ours: bool,
    since: Instant,
    asked: bool,
}

impl SessionTimer {
    fn new(now: Instant, seconds: u32, ours: bool) -> Self {
        Self { interval: Duration::from_secs(u64::from(seconds)), ours, since: now, asked: false }
    }

    /// The header of a refresh that we send; we go on refreshing.
    #[must_use]
    pub fn header(&self) -> SessionExpires {
        let seconds = u32::try_from(self.interval.as_secs()).unwrap_or(u32::MAX);
        SessionExpires { seconds, refresher: Some(Refresher::Uac) }
    }

    /// When something is due, and what, in a word.
    #[must_use]
    pub fn deadline(&self) -> (Instant, &'static str) {
        if self.ours && !self.asked {
            return (self.since + self.interval / 2, "session refresh");
        }
        (self.since + self.interval - BEFORE_THE_END.min(self.interval / 3), "session expiry")
    }

    /// What is due at `now`.
    pub fn due(&mut self, now: Instant) -> Option<Due> {
        if now < self.deadline().0 {
            return None;
        }
        if self.ours && !self.asked {
            self.asked = true;
            return Some(Due::Refresh);
        }
        Some(Due::Expired)
    }

    /// The session was refreshed, by whichever side.
    pub fn refreshed(&mut self, now: Instant) {
        self.since = now;
        self.asked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test needs some first moment")]
    fn start() -> Instant {
        Instant::now()
    }

    fn asked(value: &str, supported: bool) -> Asked {
        Asked { expires: SessionExpires::parse(value), supported }
    }

    fn timer(agreed: Agreed) -> (String, bool, SessionTimer) {
        let Agreed::Timer { header, require, timer } = agreed else { panic!("{agreed:?}") };
        (header.write(), require, timer)
    }

    #[test]
    fn a_far_end_that_refreshes_must_do_so_before_the_end() {
        let start = start();
        let (header, require, mut timer) = timer(answer(start, asked("1800;refresher=uac", true)));
        assert_eq!((header.as_str(), require), ("1800;refresher=uac", true));
        let end = start + Duration::from_secs(1800 - 32);
        assert_eq!(timer.deadline(), (end, "session expiry"));
        assert_eq!(timer.due(end - Duration::from_millis(1)), None);
        timer.refreshed(start + Duration::from_secs(900));
        assert_eq!(timer.due(end), None);
        assert_eq!(timer.due(end + Duration::from_secs(900)), Some(Due::Expired));
    }

    #[test]
    fn we_refresh_at_half_time_and_give_up_when_nobody_answers() {
        let start = start();
        let (header, require, mut timer) = timer(answer(start, asked(" 90 ; refresher=UAS", true)));
        assert_eq!((header.as_str(), require), ("90;refresher=uas", false));
        assert_eq!(timer.due(start + Duration::from_secs(45)), Some(Due::Refresh));
        assert_eq!(timer.due(start + Duration::from_secs(59)), None);
        assert_eq!(timer.due(start + Duration::from_secs(60)), Some(Due::Expired), "a third before the end");
        timer.refreshed(start + Duration::from_secs(46));
        assert_eq!(timer.deadline().0, start + Duration::from_secs(46 + 45));
        assert_eq!(timer.header().write(), "90;refresher=uac");
    }

    #[test]
    fn too_short_is_refused_to_whom_it_can_be_said() {
        assert!(matches!(answer(start(), asked("60", true)), Agreed::TooSmall));
        let (header, require, _) = timer(answer(start(), asked("60", false)));
        assert_eq!((header.as_str(), require), ("90;refresher=uas", false));
        let (header, ..) = timer(answer(start(), asked("600", true)));
        assert_eq!(header, "600;refresher=uac", "who asks without saying who, refreshes");
    }

    #[test]
    fn no_header_and_an_unreadable_one_mean_no_timer() {
        for value in ["", "soon", "-1", "99999999999999"] {
            assert!(matches!(answer(start(), asked(value, true)), Agreed::None), "{value}");
        }
        assert!(answered(start(), None).is_none());
        assert!(answered(start(), SessionExpires::parse("30")).is_none());
        let mut ours = answered(start(), SessionExpires::parse("180;refresher=uac")).unwrap();
        assert_eq!(ours.deadline().1, "session refresh");
        ours = answered(start(), SessionExpires::parse("180;refresher=uas")).unwrap();
        assert_eq!(ours.deadline().1, "session expiry");
    }
}
