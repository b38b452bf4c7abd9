//! The scripted mind: which clips, texts and tool calls the emulated model answers with.
//!
//! It has no understanding. A line is chosen by what asked for it: greeting, turn number, a keyword in a typed
//! message, a DTMF tone in the caller's audio, an order to read a known text, a goodbye.

use std::{sync::Arc, time::Duration};

/// Samples per millisecond at 24 kHz.
const SAMPLES_PER_MS: u64 = 24;

/// A piece of speech with its words.
#[derive(Clone)]
pub struct Clip {
    /// What is said, word for word.
    pub transcript: String,
    /// PCM at 24 kHz, mono.
    pub samples: Arc<[i16]>,
}

impl std::fmt::Debug for Clip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clip({} ms)", self.millis())
    }
}

impl Clip {
    /// Takes speech at 24 kHz and its words.
    pub fn new(transcript: impl Into<String>, samples: Arc<[i16]>) -> Self {
        Self { transcript: transcript.into(), samples }
    }

    /// Makes a clip of a sine tone, for runs without recorded speech.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the sine is scaled to ±8000")]
    pub fn tone(transcript: impl Into<String>, hertz: u32, length: Duration) -> Self {
        let count = u64::try_from(length.as_millis()).unwrap_or(u64::MAX).saturating_mul(SAMPLES_PER_MS);
        let step = std::f64::consts::TAU * f64::from(hertz) / 24_000.0;
        // A whole number of hertz repeats within a second, most of them much sooner.
        let period = (1..=24_000).find(|length| (length * hertz).is_multiple_of(24_000)).unwrap_or(24_000);
        let period: Vec<i16> = (0..period).map(|at| ((step * f64::from(at)).sin() * 8_000.0) as i16).collect();
        let count = usize::try_from(count.min(24_000 * 600)).unwrap_or_default();
        let mut samples = Vec::with_capacity(count);
        while samples.len() < count {
            samples.extend_from_slice(&period[..period.len().min(count - samples.len())]);
        }
        Self { transcript: transcript.into(), samples: samples.into() }
    }

    /// Puts clips one after the other, words and sound.
    #[must_use]
    pub fn joined<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let (mut words, mut samples) = (Vec::new(), Vec::new());
        for part in parts {
            words.push(part.transcript.as_str());
            samples.extend_from_slice(&part.samples);
        }
        Self { transcript: words.join(" "), samples: samples.into() }
    }

    /// Returns the length in whole milliseconds.
    #[must_use]
    pub fn millis(&self) -> u64 {
        self.samples.len() as u64 / SAMPLES_PER_MS
    }

    /// Returns the clip cut, or repeated, to exactly `length`; words are cut or repeated with it.
    #[must_use]
    pub fn lasting(&self, length: Duration) -> Self {
        let wanted = u64::try_from(length.as_millis()).unwrap_or(u64::MAX).saturating_mul(SAMPLES_PER_MS);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).min(24_000 * 600);
        let have = self.samples.len();
        if have == 0 || wanted == have {
            return self.clone();
        }
        let words: Vec<&str> = self.transcript.split_whitespace().collect();
        let count = (words.len().saturating_mul(wanted) / have).max(1);
        let transcript = words.iter().cycle().take(count).copied().collect::<Vec<_>>().join(" ");
        let samples: Vec<i16> = self.samples.iter().cycle().take(wanted).copied().collect();
        Self { transcript, samples: samples.into() }
    }
}

/// One output item of a response.
#[derive(Debug, Clone)]
pub enum Say {
    /// Speech (its words alone when the client asked for text).
    Clip(Clip),
    /// Speech cut or repeated to a length.
    Lasting(Clip, Duration),
    /// A tool call; the arguments are sent in this many pieces.
    Call {
        /// Function name.
        name: String,
        /// JSON text of the arguments.
        arguments: String,
        /// Number of deltas, at least one.
        pieces: usize,
    },
}

/// What one response says; more than one item is legal and common with reasoning models.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// The items, in order.
    pub items: Vec<Say>,
    /// What the response to the tool results says, when the items hold calls; empty = the next turn's line.
    pub after_tools: Vec<Say>,
}

impl Line {
    /// A line of one clip.
    #[must_use]
    pub fn clip(clip: Clip) -> Self {
        Self { items: vec![Say::Clip(clip)], after_tools: Vec::new() }
    }
}

/// Everything the emulated model will ever say, and what its transcription claims to have heard.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// Turn 0: the answer to the client's first `response.create`.
    pub greeting: Line,
    /// Turns 1, 2, …; after the last the first again. Empty = the greeting over and over.
    pub turns: Vec<Line>,
    /// Played when a `response.create` orders a goodbye; `None` = the next turn.
    pub goodbye: Option<Line>,
    /// Played when the caller has been silent beyond `idle_timeout_ms`; `None` = the next turn.
    pub idle: Option<Line>,
    /// Lines chosen by a word in the latest typed user message, ignoring case.
    pub on_keyword: Vec<(String, Line)>,
    /// Lines chosen by a DTMF digit heard in the caller's turn.
    pub on_tone: Vec<(char, Line)>,
    /// What transcription reports for the caller's turns, in a loop; there is no recogniser here.
    pub caller_lines: Vec<String>,
    /// Answer of out-of-band text responses.
    pub summary: String,
}

impl Script {
    /// A script of tones that needs no audio files: a greeting, `turns` answers of `length` each, a goodbye.
    #[must_use]
    pub fn tones(turns: u32, length: Duration) -> Self {
        let answer =
            |n: u32| Line::clip(Clip::tone(format!("this is answer number {n} of the script"), 300 + 100 * n, length));
        Self {
            greeting: Line::clip(Clip::tone("Hello! How can I help you today?", 300, Duration::from_millis(1_600))),
            turns: (1..=turns).map(answer).collect(),
            goodbye: Some(Line::clip(Clip::tone("Goodbye and thank you.", 250, Duration::from_millis(900)))),
            idle: Some(Line::clip(Clip::tone("Are you still there?", 350, Duration::from_millis(800)))),
            caller_lines: vec!["I need a ride to the airport".into(), "no wait tomorrow morning".into()],
            summary: r#"{"intent":"book_transport","summary":"The caller asked for a ride."}"#.into(),
            ..Self::default()
        }
    }

    fn all_lines(&self) -> impl Iterator<Item = &Line> {
        std::iter::once(&self.greeting).chain(&self.goodbye).chain(&self.idle).chain(&self.turns)
    }
}

/// What asks for a response.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cause<'a> {
    /// The client's `response.create`.
    Client {
        /// `response.instructions`.
        instructions: Option<&'a str>,
        /// The latest typed user message, if none of the model's items stands after it.
        typed: Option<&'a str>,
        /// Whether a tool result stands after the model's latest item.
        tool_result: bool,
    },
    /// The caller's turn ended; the digit heard in it.
    Turn(Option<char>),
    /// The caller said nothing for too long.
    Idle,
    /// The metronome's beat.
    Beat(Duration),
}

/// The scripted mind of one connection.
#[derive(Debug, Default)]
pub(super) struct Brain {
    greeted: bool,
    turn: usize,
    heard: usize,
    after_tools: Vec<Say>,
}

impl Brain {
    /// Chooses what to say.
    pub(super) fn choose(&mut self, script: &Script, cause: Cause<'_>) -> Vec<Say> {
        let line = match cause {
            Cause::Client { instructions, typed, tool_result } => {
                if tool_result && !self.after_tools.is_empty() {
                    return std::mem::take(&mut self.after_tools);
                }
                let ordered = instructions.and_then(|text| ordered_line(script, text));
                let keyword = || typed.and_then(|text| keyword_line(script, text));
                let greeting = !self.greeted;
                self.greeted = true;
                match ordered.or_else(keyword) {
                    Some(line) => line.clone(),
                    None if greeting => script.greeting.clone(),
                    None => self.next_turn(script),
                }
            }
            Cause::Turn(tone) => {
                let chosen = tone.and_then(|digit| script.on_tone.iter().find(|(key, _)| *key == digit));
                chosen.map_or_else(|| self.next_turn(script), |(_, line)| line.clone())
            }
            Cause::Idle => script.idle.clone().unwrap_or_else(|| self.next_turn(script)),
            Cause::Beat(speak) => {
                let mut line = self.next_turn(script);
                line.items.truncate(1);
                if let Some(Say::Clip(clip) | Say::Lasting(clip, _)) = line.items.pop() {
                    line.items.push(Say::Lasting(clip, speak));
                }
                line
            }
        };
        self.after_tools = line.after_tools;
        line.items
    }

    /// Returns what transcription claims the caller's next turn to have said.
    pub(super) fn hear(&mut self, script: &Script) -> (usize, String) {
        let number = self.heard;
        self.heard = self.heard.wrapping_add(1);
        let lines = &script.caller_lines;
        let text = number.checked_rem(lines.len()).and_then(|index| lines.get(index)).cloned();
        (number, text.unwrap_or_default())
    }

    fn next_turn(&mut self, script: &Script) -> Line {
        self.greeted = true;
        let number = self.turn;
        self.turn = self.turn.wrapping_add(1);
        let chosen = number.checked_rem(script.turns.len()).and_then(|index| script.turns.get(index));
        chosen.unwrap_or(&script.greeting).clone()
    }
}

/// Finds the line that the instructions ask for word for word, or the goodbye.
fn ordered_line<'a>(script: &'a Script, instructions: &str) -> Option<&'a Line> {
    let quoted = script.all_lines().find(|line| match line.items.first() {
        Some(Say::Clip(clip) | Say::Lasting(clip, _)) => {
            !clip.transcript.trim().is_empty() && instructions.contains(clip.transcript.trim())
        }
        _ => false,
    });
    let leave = || {
        let text = instructions.to_lowercase();
        script.goodbye.as_ref().filter(|_| text.contains("goodbye") || text.contains("good-bye"))
    };
    quoted.or_else(leave)
}

fn keyword_line<'a>(script: &'a Script, typed: &str) -> Option<&'a Line> {
    let typed = typed.to_lowercase();
    script.on_keyword.iter().find(|(word, _)| typed.contains(&word.to_lowercase())).map(|(_, line)| line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(say: &[Say]) -> Vec<String> {
        say.iter()
            .map(|say| match say {
                Say::Clip(clip) | Say::Lasting(clip, _) => clip.transcript.clone(),
                Say::Call { name, .. } => format!("{name}()"),
            })
            .collect()
    }

    fn client<'a>(instructions: Option<&'a str>, typed: Option<&'a str>, tool_result: bool) -> Cause<'a> {
        Cause::Client { instructions, typed, tool_result }
    }

    #[test]
    fn the_first_create_greets_and_turns_loop() {
        let script = Script::tones(2, Duration::from_millis(100));
        let mut brain = Brain::default();
        let greeting = words(&brain.choose(&script, client(None, None, false)));
        let said: Vec<_> = (0..3).map(|_| words(&brain.choose(&script, Cause::Turn(None)))).collect();
        assert_eq!(greeting, ["Hello! How can I help you today?"]);
        assert_eq!(said[0], said[2]);
        assert_ne!(said[0], said[1]);
    }

    #[test]
    fn an_order_to_read_a_known_text_plays_that_clip() {
        let script = Script::tones(1, Duration::from_millis(100));
        let mut brain = Brain::default();
        brain.choose(&script, Cause::Turn(None));
        let order = "Say exactly: \"Hello! How can I help you today?\"";
        assert_eq!(
            words(&brain.choose(&script, client(Some(order), None, false))),
            ["Hello! How can I help you today?"]
        );
        let leave = "Say goodbye to the caller in one sentence.";
        assert_eq!(words(&brain.choose(&script, client(Some(leave), None, false))), ["Goodbye and thank you."]);
    }

    #[test]
    fn a_keyword_a_tone_and_a_tool_result_choose_their_own_lines() {
        let taxi = Line {
            items: vec![Say::Call { name: "book".into(), arguments: "{}".into(), pieces: 2 }],
            after_tools: vec![Say::Clip(Clip::tone("booked", 200, Duration::from_millis(50)))],
        };
        let script = Script {
            on_keyword: vec![("Taxi".into(), taxi)],
            on_tone: vec![('5', Line::clip(Clip::tone("five", 200, Duration::from_millis(50))))],
            ..Script::tones(1, Duration::from_millis(100))
        };
        let mut brain = Brain::default();
        assert_eq!(words(&brain.choose(&script, client(None, Some("a taxi please"), false))), ["book()"]);
        assert_eq!(words(&brain.choose(&script, client(None, None, true))), ["booked"]);
        assert_eq!(words(&brain.choose(&script, Cause::Turn(Some('5')))), ["five"]);
    }

    #[test]
    fn a_clip_can_be_cut_or_repeated_to_a_length() {
        let clip = Clip::tone("one two three four", 400, Duration::from_millis(400));
        let cut = clip.lasting(Duration::from_millis(200));
        let long = clip.lasting(Duration::from_millis(1_000));
        assert_eq!((cut.millis(), cut.transcript.as_str()), (200, "one two"));
        assert_eq!((long.millis(), long.transcript.split(' ').count()), (1_000, 10));
        assert_eq!(Clip::new("", Arc::from([])).lasting(Duration::from_secs(1)).millis(), 0);
    }
}
