//! Every scenario file holds; `SAUTI_SCENARIO=name` runs one and tells what was seen.

use std::path::{Path, PathBuf};
use std::time::Instant;

use sauti_sim::world::{Broken, Place, Scenario, World};

#[expect(clippy::disallowed_methods, reason = "a test may look into the environment")]
fn wanted() -> Option<String> {
    std::env::var("SAUTI_SCENARIO").ok()
}

#[expect(clippy::disallowed_methods, reason = "virtual time needs some instant to count from")]
pub(crate) fn start() -> Instant {
    Instant::now()
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scenarios");
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "toml"));
    files.sort();
    files
}

#[expect(clippy::disallowed_methods, reason = "scenarios are files")]
fn text_of(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap()
}

fn tell(name: &str, text: &str, broken: &[Broken], world: Option<&World>) -> String {
    let mut told = String::new();
    for Broken { place, what } in broken {
        let line = place.line(text);
        told += &format!("tests/scenarios/{name}.toml:{line}: {what}\n");
    }
    if let Some(world) = world {
        for seen in world.seen() {
            told += &format!("    {:>9.3} {}\n", seen.at.as_secs_f64(), seen.what);
        }
        told += &format!("    dead air at most {:.2?}\n", world.dead_air());
    }
    told
}

#[test]
fn every_scenario_holds() {
    let wanted = wanted();
    let mut failures = String::new();
    let mut count = 0;
    for file in files() {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        if wanted.as_ref().is_some_and(|wanted| *wanted != name) {
            continue;
        }
        count += 1;
        let text = text_of(&file);
        let scenario: Scenario = match toml::from_str(&text) {
            Ok(scenario) => scenario,
            Err(error) => {
                failures += &format!("tests/scenarios/{name}.toml: {error}\n");
                continue;
            }
        };
        match scenario.run(start(), 1) {
            Ok(world) if wanted.is_some() => print!("{}", tell(&name, &text, &[], Some(&world))),
            Ok(world) => {
                // A table that was never in use proves nothing by being empty.
                let spoken = world.heard().iter().any(|run| run.sound == "speech");
                let used = !spoken || world.most_in_tables().iter().all(|most| *most > 0);
                assert!(used && world.tables() == [0; 4], "{name}: {:?}", world.most_in_tables());
            }
            Err((broken, world)) => {
                failures += &format!("{name}: {}\n{}", scenario.about, tell(&name, &text, &broken, world.as_deref()));
            }
        }
    }
    assert!(count > 0, "there is no such scenario");
    assert!(failures.is_empty(), "\n{failures}");
}

#[test]
fn a_scenario_with_an_unknown_key_is_refused() {
    let text = "about = \"x\"\n[end]\noutcome = \"completed\"\nfault = \"none\"\ntext = false\nwithin = 3\n";
    let error = toml::from_str::<Scenario>(text).unwrap_err().to_string();
    assert!(error.contains("unknown field `within`") && error.contains("line 6"), "{error}");
}

#[test]
fn a_scenario_that_does_not_hold_names_the_expectation() {
    let text = "about = \"x\"\ncaller = [\"hang_up\"]\n[[expect]]\nsee = \"accepted\"\nwithin_ms = 900\n\
                [[expect]]\nsee = \"hears apology\"\nwithin_ms = 900\n\
                [end]\noutcome = \"model_failed\"\nfault = \"model\"\ntext = true\n";
    let scenario: Scenario = toml::from_str(text).unwrap();
    let (broken, _) = scenario.run(start(), 1).unwrap_err();
    let places: Vec<Place> = broken.iter().map(|broken| broken.place).collect();
    assert_eq!(places, [Place::Expect(1), Place::End, Place::End], "{broken:?}");
    assert_eq!((Place::Expect(1).line(text), Place::End.line(text)), (6, 9));
}
