//! What the emulated caller and the emulated model say: synthetic lines, embedded as Ogg Opus.
//!
//! Not a synthesiser: `assets/speech/README.md` tells how the files were made. Loaded once per process by whoever
//! builds a scenario; the samples are shared, so that a hundred callers cost the memory of one.

use std::{collections::BTreeMap, io::Cursor, sync::Arc};

use sauti_core::media::frame::SAMPLE_RATE;

/// Names and texts of all lines, one `NAME<TAB>TEXT` each.
const TEXTS: &str = include_str!("../../assets/speech/lines.tsv");

/// Longest packet that Opus allows, 120 ms, in samples at 24 kHz.
const MAX_PACKET_SAMPLES: usize = 2_880;

/// Pre-skip and granule positions count at 48 kHz whatever the rate of the input (RFC 7845, section 4).
const GRANULE_PER_SAMPLE: u64 = 2;

macro_rules! embedded {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../assets/speech/", $name, ".opus")))),+]
    };
}

const FILES: &[(&str, &[u8])] = embedded![
    "caller-en-1",
    "caller-en-2",
    "caller-en-3",
    "caller-en-4",
    "caller-en-5",
    "caller-en-6",
    "caller-fr-1",
    "caller-fr-2",
    "caller-fr-3",
    "caller-fr-4",
    "caller-fr-5",
    "caller-fr-6",
    "caller-sw-1",
    "caller-sw-2",
    "caller-sw-3",
    "caller-sw-4",
    "caller-sw-5",
    "caller-sw-6",
    "agent-en-1",
    "agent-en-2",
    "agent-en-3",
    "agent-en-4",
    "agent-en-5",
    "agent-en-6",
    "agent-en-7",
    "agent-en-8",
    "agent-en-9",
];

/// Why an embedded line could not be read; a fault of the build, not of a user.
#[derive(Debug, thiserror::Error)]
pub enum SpeechError {
    /// The Ogg container is broken.
    #[error("speech {name}: not readable as Ogg ({source}); make the file again with tests/tools/make_speech.sh")]
    Container {
        /// Which line.
        name: &'static str,
        /// What the demuxer says.
        source: ogg::reading::OggReadError,
    },
    /// The first packet is no mono `OpusHead`.
    #[error("speech {name}: no mono OpusHead in front; make the file again with tests/tools/make_speech.sh")]
    Head {
        /// Which line.
        name: &'static str,
    },
    /// The codec refused a packet.
    #[error("speech {name}: libopus refuses it ({source}); make the file again with tests/tools/make_speech.sh")]
    Codec {
        /// Which line.
        name: &'static str,
        /// What libopus says.
        source: opus::Error,
    },
    /// A file has no line in `lines.tsv`.
    #[error("speech {name}: lines.tsv has no text for it; add NAME<TAB>TEXT")]
    Text {
        /// Which line.
        name: &'static str,
    },
}

/// One utterance.
#[derive(Clone)]
pub struct Line {
    /// Name of the file without its ending, for reports.
    pub name: &'static str,
    /// The words, as a transcript would show them.
    pub text: &'static str,
    /// 24 kHz mono, without silence at the ends.
    pub samples: Arc<[i16]>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("name", &self.name).field("samples", &self.samples.len()).finish()
    }
}

impl Line {
    /// Length in milliseconds, rounded down.
    #[must_use]
    pub fn millis(&self) -> u64 {
        self.samples.len() as u64 * 1_000 / u64::from(SAMPLE_RATE)
    }
}

/// All embedded lines, decoded.
#[derive(Clone, Debug)]
pub struct Speech {
    caller: BTreeMap<&'static str, Vec<Line>>,
    agent: Vec<Line>,
}

impl Speech {
    /// Decodes everything: about 110 s of audio, some 0.2 s of work.
    ///
    /// # Errors
    /// When an embedded file is damaged, which a test excludes.
    pub fn load() -> Result<Self, SpeechError> {
        let mut speech = Self { caller: BTreeMap::new(), agent: Vec::new() };
        for &(name, bytes) in FILES {
            let line = Line { name, text: text_of(name)?, samples: decode(name, bytes)?.into() };
            match name.strip_prefix("caller-").and_then(|rest| rest.split_once('-')) {
                Some((language, _)) => speech.caller.entry(language).or_default().push(line),
                None => speech.agent.push(line),
            }
        }
        Ok(speech)
    }

    /// The caller's lines in a language (`en`, `fr`, `sw`), in the order of a conversation; of any other language, `rw`
    /// included, the Swahili ones: no free voice speaks Kinyarwanda.
    #[must_use]
    pub fn caller(&self, language: &str) -> &[Line] {
        self.caller.get(language).or_else(|| self.caller.get("sw")).map_or(&[], Vec::as_slice)
    }

    /// Languages that [`Self::caller`] has lines of its own for, sorted.
    pub fn languages(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.caller.keys().copied()
    }

    /// The model's lines, in English: greeting first, one long enough to be interrupted last.
    #[must_use]
    pub fn agent(&self) -> &[Line] {
        &self.agent
    }
}

fn text_of(name: &'static str) -> Result<&'static str, SpeechError> {
    TEXTS
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .find_map(|(of, text)| (of == name).then_some(text))
        .ok_or(SpeechError::Text { name })
}

/// Ogg Opus (RFC 7845) to samples, pre-skip and end trimming applied.
fn decode(name: &'static str, bytes: &[u8]) -> Result<Vec<i16>, SpeechError> {
    let container = |source| SpeechError::Container { name, source };
    let codec = |source| SpeechError::Codec { name, source };
    let mut reader = ogg::PacketReader::new(Cursor::new(bytes));

    let head = reader.read_packet().map_err(container)?.ok_or(SpeechError::Head { name })?;
    let pre_skip = match head.data.as_slice() {
        [b'O', b'p', b'u', b's', b'H', b'e', b'a', b'd', _version, 1, low, high, ..] => {
            u64::from(u16::from_le_bytes([*low, *high]))
        }
        _ => return Err(SpeechError::Head { name }),
    };
    // OpusTags; nothing in it is needed.
    reader.read_packet().map_err(container)?.ok_or(SpeechError::Head { name })?;

    let mut decoder = opus::Decoder::new(SAMPLE_RATE, opus::Channels::Mono).map_err(codec)?;
    let mut samples = Vec::new();
    let mut end = 0;
    let mut room = [0_i16; MAX_PACKET_SAMPLES];
    while let Some(packet) = reader.read_packet().map_err(container)? {
        let decoded = decoder.decode(&packet.data, &mut room, false).map_err(codec)?;
        samples.extend(room.iter().take(decoded));
        end = packet.absgp_page();
    }
    let keep = usize::try_from(end / GRANULE_PER_SAMPLE).unwrap_or(usize::MAX);
    samples.truncate(keep);
    let skip = usize::try_from(pre_skip / GRANULE_PER_SAMPLE).unwrap_or(usize::MAX).min(samples.len());
    samples.drain(..skip);
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: usize = 480;

    fn seconds(lines: &[Line]) -> f64 {
        lines.iter().map(|line| line.samples.len()).sum::<usize>() as f64 / f64::from(SAMPLE_RATE)
    }

    fn rms(samples: &[i16]) -> f64 {
        (samples.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>() / samples.len() as f64).sqrt()
    }

    #[test]
    fn every_language_of_the_caller_has_twenty_seconds_in_several_lines() {
        let speech = Speech::load().unwrap();
        assert_eq!(speech.languages().collect::<Vec<_>>(), ["en", "fr", "sw"]);
        for language in ["en", "fr", "sw"] {
            let lines = speech.caller(language);
            assert!(lines.len() >= 5, "{language}: {} lines", lines.len());
            assert!(seconds(lines) >= 20.0, "{language}: {:.1} s", seconds(lines));
        }
        assert!(speech.agent().len() >= 6);
        assert_eq!(speech.agent()[0].text, "Hello! How can I help you today?");
        assert_eq!(speech.caller("rw")[0].name, speech.caller("sw")[0].name);
    }

    #[test]
    fn lines_and_texts_name_the_same_things() {
        let texts: Vec<_> = TEXTS.lines().filter_map(|line| line.split_once('\t')).map(|(name, _)| name).collect();
        let files: Vec<_> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(texts, files);
    }

    #[test]
    fn lines_are_loud_whole_and_without_silence_at_the_ends() {
        let speech = Speech::load().unwrap();
        for line in speech.languages().flat_map(|l| speech.caller(l)).chain(speech.agent()) {
            let level = rms(&line.samples);
            assert!((1_000.0..12_000.0).contains(&level), "{}: {level:.0}", line.name);
            assert!(line.millis() >= 2_000, "{}", line.name);
            let (first, last) = (&line.samples[..2_400], &line.samples[line.samples.len() - 2_400..]);
            assert!(rms(first) > 60.0 && rms(last) > 60.0, "{}: {} {}", line.name, rms(first), rms(last));
        }
    }

    #[test]
    fn no_pause_within_a_line_of_the_caller_ends_a_turn() {
        let speech = Speech::load().unwrap();
        for line in speech.languages().flat_map(|l| speech.caller(l)) {
            let quiet = rms(&line.samples) / 10.0;
            let mut longest = 0;
            let mut run = 0;
            for window in line.samples.chunks_exact(WINDOW) {
                run = if rms(window) < quiet { run + 20 } else { 0 };
                longest = longest.max(run);
            }
            assert!(longest <= 340, "{}: a pause of {longest} ms", line.name);
        }
    }

    #[test]
    fn damaged_files_are_errors() {
        assert!(matches!(decode("x", b"RIFF"), Err(SpeechError::Container { .. } | SpeechError::Head { .. })));
        assert!(matches!(decode("x", b""), Err(SpeechError::Container { .. } | SpeechError::Head { .. })));
        let mut cut = FILES[0].1.to_vec();
        cut[40] ^= 0xff;
        assert!(decode("x", &cut).is_err());
    }
}
