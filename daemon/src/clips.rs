//! The recordings that the box plays by itself: built-in ones, and the operator's over them.
//!
//! Read and decoded once, at the start; calls share the samples. All four languages of the built-in set are 72 s of
//! speech and 8 s of music, 3.8 MB; at most it is 24 recordings of [`LONGEST_SECONDS`], 11.5 MB; with trunks a third more. What is played when is decided by the
//! machines of call and session; how it is encoded is the leg's (decision 0011). A built-in recording counts only
//! while the text of `[agent.xx]` is the built-in one: nobody shall hear words that the operator has replaced.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sauti_core::call::clip::ClipName;
use sauti_core::config::problem::{Note, Problem};
use sauti_core::config::{Agent, Language, Texts};
use sauti_core::media::frame::{AudioFormat, FRAME_SAMPLES, SAMPLE_RATE};
use sauti_media::ogg_opus::{self, OggOpusError};
use sauti_media::resample::Resampler;

use crate::obs::logging::{EventName, Field, log_event};

/// Longest recording, in seconds: a caller should not listen to more of it.
const LONGEST_SECONDS: usize = 10;
/// The same in samples.
const LONGEST: usize = LONGEST_SECONDS * SAMPLE_RATE as usize;
/// Largest file that is read: [`LONGEST_SECONDS`] at the highest rate that Opus knows, 510 kb/s, is 638 kB.
const LARGEST: u64 = 1024 * 1024;
/// Words and voice of the built-in set: `LANG/NAME<TAB>TEXT`.
const WORDS: &str = include_str!("../clips/clips.tsv");
/// Languages whose built-in recordings are read by a voice of another one.
const STAND_INS: [Language; 1] = [Language::Rw];

macro_rules! embedded {
    ($($language:ident $code:literal),+ $(,)?) => {
        /// The built-in file of a recording.
        const fn built_in(language: Language, name: ClipName) -> &'static [u8] {
            match (language, name) {
                $(
                    (Language::$language, ClipName::Greeting) => {
                        include_bytes!(concat!("../clips/", $code, "/greeting.opus"))
                    }
                    (Language::$language, ClipName::OneMoment) => {
                        include_bytes!(concat!("../clips/", $code, "/one_moment.opus"))
                    }
                    (Language::$language, ClipName::Apology) => {
                        include_bytes!(concat!("../clips/", $code, "/apology.opus"))
                    }
                    (Language::$language, ClipName::Goodbye) => {
                        include_bytes!(concat!("../clips/", $code, "/goodbye.opus"))
                    }
                    (Language::$language, ClipName::StillThere) => {
                        include_bytes!(concat!("../clips/", $code, "/still_there.opus"))
                    }
                )+
                (_, ClipName::HoldMusic) => include_bytes!("../clips/hold_music.opus"),
            }
        }
    };
}

embedded!(En "en", Fr "fr", Rw "rw", Sw "sw");

/// Where a recording comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Shipped with the program.
    BuiltIn,
    /// Shipped with the program, and read by a voice of another language.
    StandIn,
    /// A file of the operator's.
    Operator,
}

#[derive(Clone)]
struct Clip {
    samples: Arc<[i16]>,
    /// The same at 8 kHz, where trunks want it.
    narrow: Option<Arc<[i16]>>,
    origin: Origin,
}

/// All recordings of a box, decoded.
#[derive(Clone, Default)]
pub struct Clips {
    table: BTreeMap<(Language, ClipName), Clip>,
}

/// What came up while recordings were read.
#[derive(Debug, Default)]
pub struct Findings {
    /// Files that cannot be used, with the language and the name that they stand for.
    pub problems: Vec<(Problem, Option<(Language, ClipName)>)>,
    /// What to know: stand-ins, texts without a recording, files that nothing reads.
    pub notes: Vec<Note>,
}

impl Clips {
    /// Reads the recordings of every language that has texts. Blocks on the disk and decodes for some 50 ms: call it
    /// before the runtime or on a blocking thread.
    ///
    /// A file of the operator's that cannot be used is a finding, and the built-in recording stays in its place.
    #[must_use]
    pub fn load(agent: &Agent) -> (Self, Findings) {
        let mut clips = Self::default();
        let mut findings = Findings::default();
        let mut folder = agent.clips.as_deref().map(|path| Folder::open(path, &mut findings)).unwrap_or_default();
        for (&language, texts) in &agent.texts {
            let words = Texts::built_in(language);
            for &name in ClipName::ALL {
                let own = folder.take(language, name).and_then(|path| match read(&path) {
                    Ok(samples) => Some(samples),
                    Err(why) => {
                        findings.problems.push((why.problem(&path), Some((language, name))));
                        None
                    }
                });
                if let Some(samples) = own {
                    clips.put(language, name, samples, Origin::Operator);
                } else if name.text(texts).map(str::trim) == name.text(&words).map(str::trim) {
                    let stand_in = name.is_spoken() && STAND_INS.contains(&language);
                    let origin = if stand_in { Origin::StandIn } else { Origin::BuiltIn };
                    // A test decodes all of them. Music is the same in all languages, and there once.
                    if let Some(clip) = clips.music(name) {
                        clips.table.insert((language, name), clip);
                    } else if let Ok(samples) = ogg_opus::decode(built_in(language, name), LONGEST) {
                        clips.put(language, name, samples, origin);
                    }
                } else {
                    findings.notes.push(silent(language, name));
                }
            }
        }
        findings.notes.extend(clips.stand_ins());
        findings.notes.extend(folder.left.iter().map(|path| unused(path)));
        (clips, findings)
    }

    /// The samples of a recording, 24 kHz mono; `None` when none says what the configuration says.
    #[must_use]
    pub fn get(&self, language: Language, name: ClipName) -> Option<Arc<[i16]>> {
        self.table.get(&(language, name)).map(|clip| Arc::clone(&clip.samples))
    }

    /// Makes every recording at 8 kHz too, for sessions that speak G.711: some 30 ms of work, a third of the memory more.
    #[must_use]
    pub fn with_narrow(mut self) -> Self {
        let mut made: BTreeMap<*const i16, Arc<[i16]>> = BTreeMap::new();
        for clip in self.table.values_mut() {
            let shared = made.entry(clip.samples.as_ptr()).or_insert_with(|| narrow(&clip.samples));
            clip.narrow = Some(Arc::clone(shared));
        }
        self
    }

    /// The samples of a recording at the rate of `format`. At 8 kHz they are made anew at each call unless
    /// [`Self::with_narrow`] has made them.
    #[must_use]
    pub fn get_in(&self, language: Language, name: ClipName, format: AudioFormat) -> Option<Arc<[i16]>> {
        let clip = self.table.get(&(language, name))?;
        if format.sample_rate() == SAMPLE_RATE {
            return Some(Arc::clone(&clip.samples));
        }
        Some(clip.narrow.clone().unwrap_or_else(|| narrow(&clip.samples)))
    }

    /// Where a recording comes from.
    #[must_use]
    pub fn origin(&self, language: Language, name: ClipName) -> Option<Origin> {
        self.table.get(&(language, name)).map(|clip| clip.origin)
    }

    /// Memory that the samples take, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let narrow = |clip: &Clip| clip.narrow.as_deref().map_or(0, size_of_val::<[i16]>);
        // What several languages share is there once.
        let distinct: BTreeMap<_, _> = self.table.values().map(|clip| (clip.samples.as_ptr(), clip)).collect();
        distinct.values().map(|clip| size_of_val::<[i16]>(&clip.samples) + narrow(clip)).sum()
    }

    fn put(&mut self, language: Language, name: ClipName, samples: Vec<i16>, origin: Origin) {
        self.table.insert((language, name), Clip { samples: samples.into(), narrow: None, origin });
    }

    /// The built-in music, if this is it and it was decoded for another language.
    fn music(&self, name: ClipName) -> Option<Clip> {
        let of_all = |(_, other): &&(Language, ClipName)| !name.is_spoken() && *other == name;
        let clips = self.table.iter().filter(|(key, _)| of_all(key)).map(|(_, clip)| clip);
        clips.clone().find(|clip| clip.origin == Origin::BuiltIn).cloned()
    }

    /// One note for each language in which a voice of another one speaks.
    fn stand_ins(&self) -> Vec<Note> {
        STAND_INS
            .iter()
            .filter_map(|&language| {
                let of_it = |name: &&ClipName| self.origin(language, **name) == Some(Origin::StandIn);
                let names: Vec<_> = ClipName::ALL.iter().filter(of_it).map(|name| name.label()).collect();
                let text = format!(
                    "no free voice speaks this language; a Swahili one reads {}. Record them before callers hear \
                     them: {}/NAME.opus in the folder of agent.clips",
                    names.join(", "),
                    language.code()
                );
                (!names.is_empty()).then(|| Note { path: format!("agent.{}", language.code()), text })
            })
            .collect()
    }
}

impl std::fmt::Debug for Clips {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clips").field("clips", &self.table.len()).field("bytes", &self.bytes()).finish()
    }
}

impl Findings {
    /// Tells the log which files were left aside; their paths stand in what `sauti check` prints.
    pub fn log(&self) {
        for (_, about) in &self.problems {
            let mut values = vec![
                (Field::Stage, "clip".into()),
                (Field::Reason, "unusable".into()),
                (Field::Remedy, "the built-in recording is used; sauti check says what is wrong with the file".into()),
            ];
            if let Some((language, name)) = about {
                values.push((Field::Language, language.code().into()));
                values.push((Field::Condition, name.label().into()));
            }
            log_event(EventName::ConfigNote, None, &values);
        }
    }
}

/// A recording at 8 kHz. The filter's delay, 2 ms, stays before it and is cut off behind.
fn narrow(samples: &[i16]) -> Arc<[i16]> {
    let mut filter = Resampler::new(SAMPLE_RATE, AudioFormat::Pcma.sample_rate());
    let mut out = vec![0; samples.len() / 3];
    let mut at = 0;
    for frame in samples.chunks(FRAME_SAMPLES) {
        at += filter.run(frame, &mut out[at..]);
    }
    out.into()
}

fn silent(language: Language, name: ClipName) -> Note {
    let (code, label) = (language.code(), name.label());
    let text = format!(
        "is not the built-in text, so the built-in recording is not played: where the model cannot say it, nothing \
         is said until there is a {code}/{label}.opus in the folder of agent.clips"
    );
    Note { path: format!("agent.{code}.{label}"), text }
}

fn unused(path: &Path) -> Note {
    let text = format!(
        "{} is read by nothing; recordings are called LANG/NAME.opus, LANG of a language with an [agent] table and NAME \
         greeting, one_moment, apology, goodbye, still_there or hold_music",
        path.display()
    );
    Note { path: "agent.clips".to_owned(), text }
}

/// Why a file cannot be used.
#[derive(Debug)]
enum Unusable {
    Io(io::Error),
    TooLarge,
    Format(OggOpusError),
}

impl Unusable {
    fn problem(&self, path: &Path) -> Problem {
        let name = path.display();
        let (reason, fix) = match self {
            Self::Io(error) => (
                format!("cannot be read: {error}"),
                format!("let the daemon's user read {name}, or take it away; the built-in one is used meanwhile"),
            ),
            Self::TooLarge | Self::Format(OggOpusError::TooLong) => (
                format!("is longer than {LONGEST_SECONDS} s"),
                "record it shorter; nobody listens to more while waiting".to_owned(),
            ),
            Self::Format(error) => (
                error.to_string(),
                format!(
                    "make it from a WAV file: opusenc --bitrate 32 speech.wav {}",
                    path.with_extension("opus").display()
                ),
            ),
        };
        Problem {
            path: "agent.clips".to_owned(),
            line: None,
            value: Some(name.to_string()),
            reason,
            fix,
            nearest: None,
        }
    }
}

fn read(path: &Path) -> Result<Vec<i16>, Unusable> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Unusable::Io)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(Unusable::Io)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Unusable::TooLarge);
    }
    ogg_opus::decode(&bytes, LONGEST).map_err(Unusable::Format)
}

/// What lies in the operator's folder, two levels deep.
#[derive(Debug, Default)]
struct Folder {
    /// Files that nothing took yet.
    left: Vec<PathBuf>,
}

impl Folder {
    /// Files that are looked at; a folder with more of them is not one of ours.
    const MOST: usize = 1_000;

    fn open(path: &Path, findings: &mut Findings) -> Self {
        let mut left = Vec::new();
        let mut complain = |path: &Path, error: io::Error| {
            findings.problems.push((Unusable::Io(error).problem(path), None));
        };
        match list(path) {
            // A box without recordings of its own has no such folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => complain(path, error),
            Ok(entries) => {
                for entry in entries {
                    if !entry.is_dir() {
                        left.push(entry);
                        continue;
                    }
                    match list(&entry) {
                        Ok(files) => left.extend(files),
                        Err(error) => complain(&entry, error),
                    }
                }
            }
        }
        // Hidden files and words beside the recordings are the operator's own affair.
        left.retain(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            !name.starts_with('.') && !name.ends_with(".md") && !name.ends_with(".txt")
        });
        left.truncate(Self::MOST);
        Self { left }
    }

    /// Takes the file of a recording out: `LANG/NAME.opus`, or with another ending, which the decoder will refuse.
    fn take(&mut self, language: Language, name: ClipName) -> Option<PathBuf> {
        let is_it = |path: &PathBuf| {
            path.file_stem().is_some_and(|stem| stem == name.label())
                && path.parent().and_then(Path::file_name).is_some_and(|folder| folder == language.code())
        };
        let right = self.left.iter().position(|path| is_it(path) && path.extension().is_some_and(|end| end == "opus"));
        let place = right.or_else(|| self.left.iter().position(is_it))?;
        Some(self.left.swap_remove(place))
    }
}

/// The entries of a folder in the order of their names.
fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = std::fs::read_dir(path)?
        .take(Folder::MOST)
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

/// The words of a built-in recording.
#[must_use]
pub fn words(language: Language, name: ClipName) -> Option<&'static str> {
    let key = format!("{}/{}", language.code(), name.label());
    WORDS.lines().filter_map(|line| line.split_once('\t')).find_map(|(of, text)| (of == key).then_some(text))
}

#[cfg(test)]
mod tests;
