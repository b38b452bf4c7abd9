//! Recordings: the built-in set against its texts and levels, and what an operator may put over it.

use super::*;

fn agent(folder: Option<&Path>) -> Agent {
    let texts = Language::ALL.into_iter().map(|language| (language, Texts::built_in(language))).collect();
    Agent { clips: folder.map(Path::to_owned), texts, ..Agent::default() }
}

/// Level of the speech alone, dB below full scale: windows of 20 ms, pauses left out.
fn level(samples: &[i16]) -> f64 {
    let powers: Vec<f64> = samples
        .chunks_exact(480)
        .map(|window| window.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>() / 480.0)
        .collect();
    let floor = powers.iter().copied().fold(0.0, f64::max) / 1_000.0;
    let loud: Vec<f64> = powers.into_iter().filter(|power| *power > floor).collect();
    10.0 * (loud.iter().sum::<f64>() / loud.len() as f64 / f64::from(i16::MAX).powi(2)).log10()
}

fn put(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn every_language_has_every_recording_and_only_kinyarwanda_is_a_stand_in() {
    let (clips, findings) = Clips::load(&agent(None));
    assert!(findings.problems.is_empty());
    for language in Language::ALL {
        for &name in ClipName::ALL {
            let samples = clips.get(language, name).unwrap();
            let seconds = samples.len() as f64 / f64::from(SAMPLE_RATE);
            assert!((0.8..=8.0).contains(&seconds), "{language:?} {name}: {seconds:.2} s");
            let origin = if language == Language::Rw && name.is_spoken() { Origin::StandIn } else { Origin::BuiltIn };
            assert_eq!(clips.origin(language, name), Some(origin));
        }
    }
    let notes: Vec<_> = findings.notes.iter().map(ToString::to_string).collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("agent.rw: no free voice") && notes[0].contains("still_there"), "{}", notes[0]);
    let bytes = clips.bytes();
    assert!((3_300_000..4_300_000).contains(&bytes), "{bytes} bytes, and the module's head says 3.8 MB");
}

#[test]
fn a_recording_says_the_built_in_text_word_for_word() {
    for language in Language::ALL {
        let texts = Texts::built_in(language);
        for &name in ClipName::ALL.iter().filter(|name| name.is_spoken()) {
            let words = words(language, name).unwrap();
            assert!(!words.is_empty());
            if let Some(text) = name.text(&texts) {
                assert_eq!(words, text, "{language:?} {name}: change clips.tsv and run daemon/clips/make.sh");
            }
        }
    }
    let spoken = ClipName::ALL.iter().filter(|name| name.is_spoken()).count();
    assert_eq!(WORDS.lines().count(), Language::ALL.len() * spoken);
}

#[test]
fn recordings_are_as_loud_as_each_other_within_three_decibels_and_end_in_silence() {
    let (clips, _) = Clips::load(&agent(None));
    let mut levels: Vec<(f64, String)> = Vec::new();
    for language in Language::ALL {
        for &name in ClipName::ALL {
            let samples = clips.get(language, name).unwrap();
            if name.is_spoken() {
                levels.push((level(&samples), format!("{}/{name}", language.code())));
            }
            for edge in [&samples[..48], &samples[samples.len() - 48..]] {
                assert!(edge.iter().all(|sample| sample.unsigned_abs() < 200), "{language:?} {name}: an edge clicks");
            }
        }
    }
    levels.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (quiet, loud) = (levels.first().unwrap(), levels.last().unwrap());
    assert!(loud.0 - quiet.0 <= 3.0, "{loud:?} against {quiet:?}");
    assert!((-23.0..-16.0).contains(&quiet.0), "{quiet:?}");
}

#[test]
fn a_recording_of_the_operator_stands_over_the_built_in_one_and_takes_its_note_away() {
    let folder = tempfile::tempdir().unwrap();
    for &name in ClipName::ALL {
        put(folder.path(), &format!("rw/{name}.opus"), built_in(Language::En, name));
    }
    let (clips, findings) = Clips::load(&agent(Some(folder.path())));
    assert_eq!(clips.origin(Language::Rw, ClipName::Greeting), Some(Origin::Operator));
    assert_eq!(clips.get(Language::Rw, ClipName::Greeting), clips.get(Language::En, ClipName::Greeting));
    assert!(findings.problems.is_empty() && findings.notes.is_empty(), "{findings:?}");
}

#[test]
fn a_built_in_recording_is_silent_once_the_operator_has_other_words() {
    let mut agent = agent(None);
    agent.texts.get_mut(&Language::En).unwrap().greeting = "Good day, this is the water office.".to_owned();
    agent.texts.get_mut(&Language::En).unwrap().apology = "Write to us.".to_owned();
    let (clips, findings) = Clips::load(&agent);
    assert_eq!(clips.get(Language::En, ClipName::Greeting), None);
    assert!(clips.get(Language::En, ClipName::OneMoment).is_some());
    assert!(clips.get(Language::En, ClipName::Apology).is_some(), "the text message is another text");
    assert!(findings.notes.iter().any(|note| note.path == "agent.en.greeting"), "{findings:?}");

    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "en/greeting.opus", built_in(Language::Fr, ClipName::Greeting));
    agent.clips = Some(folder.path().to_owned());
    let (clips, findings) = Clips::load(&agent);
    assert_eq!(clips.origin(Language::En, ClipName::Greeting), Some(Origin::Operator));
    assert!(findings.notes.iter().all(|note| note.path != "agent.en.greeting"), "{findings:?}");
}

#[test]
fn a_folder_that_is_not_there_is_fine() {
    let (_, findings) = Clips::load(&agent(Some(Path::new("/nowhere/clips"))));
    assert!(findings.problems.is_empty());
}

#[test]
fn a_file_that_cannot_be_played_is_named_with_its_remedy_and_the_built_in_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let long: Vec<u8> = vec![0; 2 * 1024 * 1024];
    put(folder.path(), "en/greeting.opus", b"RIFF\0\0\0\0WAVEfmt ");
    put(folder.path(), "en/goodbye.opus", &long);
    put(folder.path(), "fr/one_moment.wav", b"RIFF\0\0\0\0WAVEfmt ");
    std::fs::create_dir_all(folder.path().join("sw/apology.opus")).unwrap();
    let (clips, findings) = Clips::load(&agent(Some(folder.path())));
    let mut told: Vec<String> = findings.problems.iter().map(|(problem, _)| problem.to_string()).collect();
    told.sort();
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(told[0].contains("en/goodbye.opus is longer than 10 s"), "{}", told[0]);
    assert!(told[1].contains("en/greeting.opus is not readable as Ogg"), "{}", told[1]);
    assert!(told[2].contains("fr/one_moment.wav") && told[2].contains("fr/one_moment.opus"), "{}", told[2]);
    assert!(told[3].contains("sw/apology.opus cannot be read"), "{}", told[3]);
    for (language, name) in
        [(Language::En, ClipName::Greeting), (Language::Fr, ClipName::OneMoment), (Language::Sw, ClipName::Apology)]
    {
        assert_eq!(clips.origin(language, name), Some(Origin::BuiltIn));
    }
}

#[test]
fn a_file_that_nothing_reads_is_noted() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "en/greting.opus", built_in(Language::En, ClipName::Greeting));
    put(folder.path(), "de/greeting.opus", built_in(Language::En, ClipName::Greeting));
    put(folder.path(), "README.md", b"ours");
    let (_, findings) = Clips::load(&agent(Some(folder.path())));
    assert!(findings.problems.is_empty());
    let notes: Vec<_> = findings.notes.iter().map(ToString::to_string).collect();
    assert_eq!(notes.iter().filter(|note| note.contains("is read by nothing")).count(), 2, "{notes:?}");
}

#[test]
fn a_trunk_hears_the_same_recording_at_8_khz() {
    let clips = Clips::load(&agent(None)).0;
    let bytes = clips.bytes();
    let made = clips.get_in(Language::Fr, ClipName::Apology, AudioFormat::Pcma).unwrap();
    let clips = clips.with_narrow();
    let kept = clips.get_in(Language::Fr, ClipName::Apology, AudioFormat::Pcmu).unwrap();
    assert_eq!(made, kept);
    let wide = clips.get_in(Language::Fr, ClipName::Apology, AudioFormat::Pcm24).unwrap();
    assert_eq!(kept.len(), wide.len() / 3);
    // The spoken band holds nearly all of it: the level is the same.
    let (wide, narrow) = (level(&wide), level(&kept));
    assert!((wide - narrow).abs() < 1.0, "{wide} {narrow}");
    assert!((bytes * 13 / 10..bytes * 14 / 10).contains(&clips.bytes()));
}
