//! Keys that the box presses, as telephone events (RFC 4733): what goes out in which tick.
//!
//! One key is a row of packets with one timestamp, 20 ms apart, whose duration grows; only the first has the marker, and
//! the last is sent three times. No bytes of audio and no clock: [`super::speaking`] drives it, one step a tick.

/// Keys that may wait: the longest number that anybody dials, and as much again.
const KEYS: usize = 32;
/// Ticks that a key is held, 100 ms: above what any receiver asks for (ITU-T Q.24 wants 40), short enough for a menu.
const HELD: u16 = 5;
/// How often the end is told (RFC 4733 §2.5.1.4).
const ENDS: u8 = 3;
/// Ticks between two keys: 60 ms, so that the same key twice is two.
const APART: u8 = 3;
/// Power of the tone that the event stands for, in dBm0 without its sign: the usual −10.
const VOLUME: u8 = 10;

/// A packet of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    /// Media time at which the key went down.
    pub(super) timestamp: u32,
    /// First packet of the key.
    pub(super) marker: bool,
    /// Event, end and volume, duration.
    pub(super) payload: [u8; 4],
}

#[derive(Debug, Clone, Copy)]
enum State {
    Idle,
    Held { event: u8, timestamp: u32, ticks: u16, ends: u8 },
    Apart { left: u8 },
}

/// The keys of one leg.
#[derive(Debug)]
pub(super) struct Dialling {
    keys: [u8; KEYS],
    from: usize,
    count: usize,
    state: State,
}

impl Dialling {
    pub(super) const fn new() -> Self {
        Self { keys: [0; KEYS], from: 0, count: 0, state: State::Idle }
    }

    /// Takes a key: `0`–`9`, `*`, `#`, `A`–`D`. False when it is none or too many wait.
    pub(super) fn press(&mut self, key: char) -> bool {
        let event = match key {
            '0'..='9' => key.to_digit(10).and_then(|digit| u8::try_from(digit).ok()),
            '*' => Some(10),
            '#' => Some(11),
            'A'..='D' => u8::try_from(u32::from(key) - u32::from('A') + 12).ok(),
            _ => None,
        };
        let Some(event) = event.filter(|_| self.count < KEYS) else { return false };
        self.keys[(self.from + self.count) % KEYS] = event;
        self.count += 1;
        true
    }

    /// True while a key is held or waits; speech is to wait too.
    pub(super) const fn is_busy(&self) -> bool {
        self.count > 0 || !matches!(self.state, State::Idle)
    }

    /// One tick of `ticks` of the event's clock has begun at `timestamp`: the packet that goes out in it instead of audio.
    pub(super) fn step(&mut self, timestamp: u32, ticks: u32) -> Option<Event> {
        if let State::Apart { left } = &mut self.state {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.state = State::Idle;
            }
            return None;
        }
        if matches!(self.state, State::Idle) {
            self.count = self.count.checked_sub(1)?;
            let event = self.keys[self.from];
            self.from = (self.from + 1) % KEYS;
            self.state = State::Held { event, timestamp, ticks: 0, ends: 0 };
        }
        let State::Held { event, timestamp, ticks: held, ends } = &mut self.state else { return None };
        let marker = *held == 0;
        *held = (*held + 1).min(HELD);
        let over = *held == HELD;
        let duration = u16::try_from(u32::from(*held) * ticks).unwrap_or(u16::MAX);
        let [high, low] = duration.to_be_bytes();
        let packet =
            Event { timestamp: *timestamp, marker, payload: [*event, VOLUME | if over { 0x80 } else { 0 }, high, low] };
        if over {
            *ends += 1;
            if *ends == ENDS {
                self.state = State::Apart { left: APART };
            }
        }
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as RFC 4733 §2.3 and §2.5.1 want them; field bug 30 lists who got which of them wrong.
    #[test]
    fn a_key_is_eight_packets_with_one_timestamp_a_growing_duration_and_three_ends() {
        let mut dialling = Dialling::new();
        assert!(dialling.press('5'));
        let packets: Vec<Event> = (0..7).filter_map(|tick| dialling.step(1_000 + tick * 160, 160)).collect();
        let payloads: Vec<[u8; 4]> = packets.iter().map(|packet| packet.payload).collect();
        assert_eq!(
            payloads,
            [
                [5, 10, 0, 160],
                [5, 10, 1, 64],
                [5, 10, 1, 224],
                [5, 10, 2, 128],
                [5, 0x8A, 3, 32],
                [5, 0x8A, 3, 32],
                [5, 0x8A, 3, 32],
            ]
        );
        assert!(packets.iter().all(|packet| packet.timestamp == 1_000));
        assert_eq!(packets.iter().filter(|packet| packet.marker).count(), 1);
        assert!(packets[0].marker);
        assert!(dialling.is_busy(), "the pause behind it belongs to it");
        for tick in 7..10 {
            assert_eq!(dialling.step(1_000 + tick * 160, 160), None);
        }
        assert!(!dialling.is_busy());
    }

    #[test]
    fn the_same_key_twice_has_two_timestamps_and_sixty_milliseconds_between() {
        let mut dialling = Dialling::new();
        assert!(dialling.press('#') && dialling.press('#'));
        let told: Vec<_> = (0..30_u32).map(|tick| (tick, dialling.step(tick * 960, 960))).collect();
        let marks: Vec<u32> = told.iter().filter(|(_, e)| e.is_some_and(|e| e.marker)).map(|(tick, _)| *tick).collect();
        assert_eq!(marks, [0, 10]);
        assert_eq!(told[4].1.map(|event| event.payload), Some([11, 0x8A, 0x12, 0xC0]));
    }

    #[test]
    fn what_is_no_key_and_what_is_too_much_is_refused() {
        let mut dialling = Dialling::new();
        for key in ['e', 'E', ' ', 'é', '+'] {
            assert!(!dialling.press(key), "{key}");
        }
        assert_eq!((0..100).filter(|_| dialling.press('D')).count(), KEYS);
    }
}
