//! Replays the inputs that fuzzing found worth keeping, on any toolchain. How they are found: `tests/fuzz/README.md`.

use std::fs;
use std::path::PathBuf;

#[path = "fuzz/targets/mod.rs"]
mod targets;

/// Fewer inputs than this are no corpus.
const FEWEST: usize = 20;

/// Gives every input of a target to its function; a panic in it is told with the name of the file.
fn replay(target: &str, function: fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|file| file.expect("a folder can be listed to its end").path())
        .collect();
    files.sort();
    assert!(files.len() >= FEWEST, "{}: {} files", folder.display(), files.len());
    for file in files {
        let input = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let outcome = std::panic::catch_unwind(|| function(&input));
        assert!(outcome.is_ok(), "{} panics, see above", file.display());
    }
}

#[test]
fn the_corpus_of_webhooks_and_graph_answers_holds() {
    replay("webhook", targets::webhook);
}

#[test]
fn the_corpus_of_session_descriptions_holds() {
    replay("sdp", targets::sdp);
}

#[test]
fn the_corpus_of_descriptions_of_trunks_holds() {
    replay("rtp_sdp", targets::rtp_sdp);
}

#[test]
fn the_corpus_of_packets_holds() {
    replay("rtp_rtcp", targets::rtp_rtcp);
}

#[test]
fn the_corpus_of_model_messages_holds() {
    replay("model_events", targets::model_events);
}

#[test]
fn the_corpus_of_sip_messages_holds() {
    replay("sip", targets::sip);
}
