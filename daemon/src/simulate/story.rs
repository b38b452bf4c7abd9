//! `sauti simulate --scenario FILE`: one call in virtual time, told with its times, and whether the file's expectations
//! hold.
//!
//! The world is [`sauti_sim::world`]: the daemon's own machines between an emulated model, a caller and a bad network, no
//! sockets and no codec. Minutes of a call take moments, and the same file with the same seed tells the same story.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use sauti_sim::world::{Scenario, World};
use serde::Serialize;

use crate::cli::Exit;

/// What happened, and what did not hold.
#[derive(Debug, Serialize)]
struct Story {
    scenario: String,
    about: String,
    seed: u64,
    holds: bool,
    broken: Vec<BrokenLine>,
    happened: Vec<Happened>,
    heard: Vec<Sound>,
    /// The longest silence in which the caller waited for something to be said.
    dead_air_ms: u128,
    end: Option<Ended>,
}

/// Something of the file that did not hold.
#[derive(Debug, Serialize)]
struct BrokenLine {
    line: usize,
    what: String,
}

/// Something that happened; times count from the webhook.
#[derive(Debug, Serialize)]
struct Happened {
    at_ms: u128,
    what: String,
}

/// A stretch of one sound at the caller's ear.
#[derive(Debug, Serialize)]
struct Sound {
    sound: &'static str,
    from_ms: u128,
    to_ms: u128,
}

#[derive(Debug, Serialize)]
struct Ended {
    at_ms: u128,
    outcome: &'static str,
    fault: &'static str,
    text_owed: bool,
}

/// Runs the command.
pub(super) fn command(file: &Path, seed: u64, json: bool) -> Exit {
    match tell(file, seed) {
        Ok(story) => {
            let text =
                if json { serde_json::to_string_pretty(&story).unwrap_or_default() + "\n" } else { story.text() };
            std::io::stdout().lock().write_all(text.as_bytes()).ok();
            if story.holds { Exit::Fine } else { Exit::Failed }
        }
        Err(why) => {
            writeln!(std::io::stderr(), "sauti simulate: {}: {why}", file.display()).ok();
            Exit::Failed
        }
    }
}

fn tell(file: &Path, seed: u64) -> Result<Story, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let scenario: Scenario = toml::from_str(&text).map_err(|error| error.to_string())?;
    let (broken, world) = match scenario.run(Instant::now(), seed) {
        Ok(world) => (Vec::new(), Some(Box::new(world))),
        Err((broken, world)) => (broken, world),
    };
    let broken: Vec<BrokenLine> =
        broken.into_iter().map(|broken| BrokenLine { line: broken.place.line(&text), what: broken.what }).collect();
    let mut story = Story {
        scenario: file.display().to_string(),
        about: scenario.about,
        seed,
        holds: broken.is_empty(),
        broken,
        happened: Vec::new(),
        heard: Vec::new(),
        dead_air_ms: 0,
        end: None,
    };
    if let Some(world) = world {
        story.take(&world);
    }
    Ok(story)
}

impl Story {
    fn take(&mut self, world: &World) {
        self.happened =
            world.seen().iter().map(|seen| Happened { at_ms: seen.at.as_millis(), what: seen.what.clone() }).collect();
        self.heard = world
            .heard()
            .iter()
            .map(|run| Sound { sound: run.sound, from_ms: run.from.as_millis(), to_ms: run.to.as_millis() })
            .collect();
        self.dead_air_ms = world.dead_air().as_millis();
        self.end = world.end().map(|end| Ended {
            at_ms: end.at.as_millis(),
            outcome: end.outcome.label(),
            fault: end.fault.label(),
            text_owed: end.text,
        });
    }

    /// For people.
    fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.about);
        for Happened { at_ms, what } in &self.happened {
            text += &format!("{:>9} s  {what}\n", seconds(*at_ms));
        }
        text += "\nthe caller heard\n";
        for Sound { sound, from_ms, to_ms } in &self.heard {
            text += &format!("{:>9} s  {sound}, {} s\n", seconds(*from_ms), seconds(to_ms.saturating_sub(*from_ms)));
        }
        if self.heard.is_empty() {
            text += "           nothing\n";
        }
        text += &format!("and waited in silence for {} s at most\n\n", seconds(self.dead_air_ms));
        if let Some(Ended { at_ms, outcome, fault, text_owed }) = &self.end {
            let owed = if *text_owed { "a text is owed" } else { "no text is owed" };
            text += &format!("ended after {} s: {outcome}, fault {fault}, {owed}\n", seconds(*at_ms));
        }
        for BrokenLine { line, what } in &self.broken {
            text += &format!("{}:{line}: {what}\n", self.scenario);
        }
        let count = self.broken.len();
        text + &if count == 0 { "every expectation holds\n".to_owned() } else { format!("{count} do not hold\n") }
    }
}

fn seconds(millis: u128) -> String {
    let time = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
    format!("{:.3}", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios").join(name)
    }

    #[test]
    fn a_story_is_told_with_what_was_heard_and_when() {
        let story = tell(&scenario("killed_in_mid_sentence.toml"), 1).unwrap();
        assert!(story.holds, "{}", story.text());
        let text = story.text();
        for part in ["model lost", "model resumed", "s  speech, ", "every expectation holds", "completed, fault none"] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(!story.heard.is_empty() && story.heard.iter().all(|run| run.from_ms < run.to_ms));
        let again = tell(&scenario("killed_in_mid_sentence.toml"), 1).unwrap();
        assert_eq!(serde_json::to_value(&story).unwrap(), serde_json::to_value(&again).unwrap());
    }

    #[test]
    fn what_does_not_hold_is_named_with_its_line_and_fails() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("story.toml");
        let text = "about = \"She hangs up.\"\ncaller = [\"hang_up\"]\n\n[end]\noutcome = \"drained\"\n\
                    fault = \"operator\"\ntext = false\n";
        std::fs::write(&file, text).unwrap();
        let story = tell(&file, 1).unwrap();
        assert_eq!(story.broken.iter().map(|broken| broken.line).collect::<Vec<_>>(), [4]);
        assert!(story.text().contains("story.toml:4: it ended as "), "{}", story.text());
        assert_eq!(command(&file, 1, true), Exit::Failed);
        std::fs::write(&file, text.replace("[end]", "[ent]")).unwrap();
        assert!(tell(&file, 1).unwrap_err().contains("unknown field `ent`"));
        assert_eq!(command(Path::new("/nowhere.toml"), 1, false), Exit::Failed);
    }
}
