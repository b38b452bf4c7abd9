//! `sauti check`, and the reading of the configuration that `run` shares with it: files, host, secrets around the
//! pure check of `sauti_core::config`.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use sauti_core::config::check::{self, Environment};
use sauti_core::config::problem::{Note, Part, Problem, Problems};
use sauti_core::config::{Config, FORMER_NAMES, SECRETS};
use serde_json::json;

use crate::cli::{CheckArgs, Exit};
use crate::clips::Clips;
use crate::secrets::Secrets;

/// Longest configuration or instruction file that is read; ours are a few kilobytes.
const LONGEST: u64 = 4 * 1024 * 1024;

/// What stands for a secret that a command does not need.
const STAND_IN: &str = "not-given";

/// Reads the configuration at `path` with the secrets of this process.
///
/// Notes about former variable names that this process sees are added to those of the file.
///
/// # Errors
///
/// Every problem of the file and the secrets; a file that cannot be read is one problem of its own.
pub fn load(path: &Path, secrets: &Secrets) -> Result<Config, Problems> {
    load_with(path, secrets, &|name| std::env::var_os(name).is_some())
}

fn load_with(path: &Path, secrets: &Secrets, is_set: &dyn Fn(&str) -> bool) -> Result<Config, Problems> {
    read_with(path, secrets, &|name| secrets.get(name), is_set)
}

fn read_with(
    path: &Path,
    secrets: &Secrets,
    given: &dyn Fn(&str) -> Option<String>,
    is_set: &dyn Fn(&str) -> bool,
) -> Result<Config, Problems> {
    let former = former_names(is_set);
    let outcome = read_text(path).map_err(|why| unreadable_file(path, &why)).and_then(|text| {
        let folder = path.parent().map_or_else(PathBuf::new, Path::to_owned);
        let host_name = nix::unistd::gethostname().map_or_else(|_| String::new(), |name| name.to_string_lossy().into());
        check::read(
            &text,
            &Environment {
                host_name: &host_name,
                cores: std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
                secrets: given,
                read_file: &|file| read_text(&folder.join(file)),
            },
        )
    });
    let unreadable: Vec<Problem> = secrets.unreadable(SECRETS).into_iter().map(unreadable_secret).collect();
    match outcome {
        Ok(mut config) if unreadable.is_empty() => {
            config.notes.extend(former);
            Ok(config)
        }
        Ok(config) => Err(Problems { problems: unreadable, notes: config.notes.into_iter().chain(former).collect() }),
        Err(mut refusal) => {
            let names: Vec<&str> = unreadable.iter().map(|problem| problem.path.as_str()).collect();
            refusal.problems.retain(|problem| !names.contains(&problem.path.as_str()));
            refusal.problems.extend(unreadable.iter().cloned());
            refusal.notes.extend(former);
            Err(refusal)
        }
    }
}

/// Reads the configuration for a command that goes on with it; on a refusal the report is on stderr already.
///
/// # Errors
///
/// The exit to leave with.
pub fn load_or_report(path: &Path, secrets: &Secrets) -> Result<Config, Exit> {
    reported(path, load(path, secrets))
}

fn reported(path: &Path, outcome: Result<Config, Problems>) -> Result<Config, Exit> {
    outcome.map_err(|problems| {
        let report = report(&problems, path, paints(&io::stderr()));
        // stderr is the last resort: when it is closed there is nobody left to tell
        drop(io::stderr().lock().write_all(report.as_bytes()));
        Exit::BadConfig
    })
}

/// The same for a command that an operator gives beside the daemon, whose shell has no secrets: each one that is
/// missing has a stand-in, except those that the command itself needs.
///
/// # Errors
///
/// The exit to leave with.
pub fn load_beside(path: &Path, secrets: &Secrets, needs: &dyn Fn(&str) -> bool) -> Result<Config, Exit> {
    let given = |name: &str| secrets.get(name).or_else(|| (!needs(name)).then(|| STAND_IN.to_owned()));
    reported(path, read_with(path, secrets, &given, &|_| false))
}

/// `sauti check`: everything on stdout.
#[must_use]
pub fn command(args: &CheckArgs) -> Exit {
    let path = &args.config.config;
    let outcome = load(path, &Secrets::of_this_process()).and_then(with_recordings);
    let exit = if outcome.is_ok() { Exit::Fine } else { Exit::BadConfig };
    let text = match (&outcome, args.json) {
        (Ok(config), true) => as_json(&[], &config.notes, Some(config)),
        (Err(problems), true) => as_json(&problems.problems, &problems.notes, None),
        (Ok(config), false) => format!("{}{}", notes(&config.notes), config.effective_toml()),
        (Err(problems), false) => report(problems, path, paints(&io::stdout())),
    };
    // a closed pipe is the reader's own choice and changes no verdict
    drop(io::stdout().lock().write_all(text.as_bytes()));
    exit
}

/// Reads the operator's recordings as well. `run` goes on with the built-in ones, so only `check` refuses them.
fn with_recordings(mut config: Config) -> Result<Config, Problems> {
    let (_, findings) = Clips::load(&config.agent);
    config.notes.extend(findings.notes);
    if findings.problems.is_empty() {
        return Ok(config);
    }
    let problems = findings.problems.into_iter().map(|(problem, _)| problem).collect();
    Err(Problems { problems, notes: config.notes })
}

fn report(problems: &Problems, path: &Path, colours: bool) -> String {
    let paint = |part: Part, text: &str| {
        let code = match part {
            Part::Place => "1",
            Part::Sentence => "31",
            Part::Fix => "32",
        };
        if colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    };
    problems.report(&path.display().to_string(), &paint) + &notes(&problems.notes)
}

/// Notes as comments, so that what `check` prints stays TOML.
fn notes(notes: &[Note]) -> String {
    let lines = notes.iter().map(|note| format!("# note: {note}\n"));
    lines.chain((!notes.is_empty()).then(|| "\n".to_owned())).collect()
}

fn as_json(problems: &[Problem], notes: &[Note], config: Option<&Config>) -> String {
    let problems: Vec<_> = problems
        .iter()
        .map(|problem| {
            json!({
                "path": problem.path, "line": problem.line, "value": problem.value,
                "reason": problem.reason, "fix": problem.fix, "nearest": problem.nearest,
            })
        })
        .collect();
    let notes: Vec<_> = notes.iter().map(|note| json!({ "path": note.path, "text": note.text })).collect();
    let effective = config.map(Config::effective_toml);
    let secrets: Option<&BTreeMap<String, bool>> = config.map(|config| &config.secrets);
    let whole = json!({
        "ok": problems.is_empty(), "problems": problems, "notes": notes,
        "effective": effective, "secrets": secrets,
    });
    format!("{whole}\n")
}

/// Colour is for people at a terminal who did not ask to be spared.
fn paints(stream: &impl io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn former_names(is_set: &dyn Fn(&str) -> bool) -> Vec<Note> {
    FORMER_NAMES
        .iter()
        .filter(|(name, _)| is_set(name))
        .map(|(name, instead)| {
            let text = format!("is set in the environment and not read by sauti; {instead}");
            Note { path: (*name).to_owned(), text }
        })
        .collect()
}

fn read_text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LONGEST) {
        return Err(format!("is longer than {LONGEST} bytes"));
    }
    String::from_utf8(bytes).map_err(|error| format!("is no UTF-8 from byte {} on", error.utf8_error().valid_up_to()))
}

fn unreadable_file(path: &Path, why: &str) -> Problems {
    let problem = Problem {
        path: String::new(),
        line: None,
        value: None,
        reason: format!("cannot be read: {why}"),
        fix: format!("write {}, or name another file with --config", path.display()),
        nearest: None,
    };
    Problems { problems: vec![problem], notes: Vec::new() }
}

fn unreadable_secret((name, error): (&str, io::Error)) -> Problem {
    Problem {
        path: name.to_owned(),
        line: None,
        value: None,
        reason: format!("is given as a systemd credential that cannot be read: {error}"),
        fix: "let the daemon's user read it, or take the credential away".to_owned(),
        nearest: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "[whatsapp]\nphone_number_id = \"100000000000002\"\n[openai]\n[agent]\n\
                            instructions_file = \"words.txt\"\n";

    fn secrets() -> Secrets {
        Secrets::new(None, |name| name.starts_with("SAUTI_").then(|| "canary-openai-key".into()))
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.toml"), SMALLEST).unwrap();
        std::fs::write(folder.path().join("words.txt"), "Be brief.\n").unwrap();
        folder
    }

    #[test]
    fn files_are_found_beside_the_configuration() {
        let folder = folder();
        let config = load_with(&folder.path().join("config.toml"), &secrets(), &|_| false).unwrap();
        assert_eq!(config.agent.instructions, "Be brief.");
        assert_eq!(config.notes, []);
    }

    #[test]
    fn a_file_that_is_not_there_is_a_problem_with_a_fix() {
        let problems = load_with(Path::new("/nowhere/config.toml"), &secrets(), &|_| false).unwrap_err();
        let report = report(&problems, Path::new("/nowhere/config.toml"), false);
        assert!(report.starts_with("/nowhere/config.toml: cannot be read: "), "{report}");
        assert!(report.contains("--config"), "{report}");
    }

    #[test]
    fn former_names_are_noted_with_what_replaces_them() {
        let folder = folder();
        let seen = |name: &str| matches!(name, "WABA_ACCESS_TOKEN" | "PORT");
        let config = load_with(&folder.path().join("config.toml"), &secrets(), &seen).unwrap();
        let notes = notes(&config.notes);
        assert!(notes.contains("WABA_ACCESS_TOKEN") && notes.contains("SAUTI_WHATSAPP_ACCESS_TOKEN"), "{notes}");
        assert!(notes.contains("PORT") && notes.contains("public under [http]"), "{notes}");
    }

    #[test]
    fn a_credential_that_cannot_be_read_is_one_problem_not_two() {
        let (folder, credentials) = (folder(), tempfile::tempdir().unwrap());
        std::fs::create_dir(credentials.path().join("openai_api_key")).unwrap();
        let secrets = Secrets::new(Some(credentials.path().to_owned()), |name| {
            (name != "SAUTI_OPENAI_API_KEY").then(|| "canary-openai-key".into())
        });
        let problems = load_with(&folder.path().join("config.toml"), &secrets, &|_| false).unwrap_err();
        assert_eq!(problems.problems.len(), 1, "{problems:?}");
        assert!(problems.problems[0].reason.contains("cannot be read"));
    }

    #[test]
    fn json_holds_the_verdict_and_no_secret() {
        let folder = folder();
        let config = load_with(&folder.path().join("config.toml"), &secrets(), &|_| false).unwrap();
        let text = as_json(&[], &config.notes, Some(&config));
        let whole: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&whole["ok"], &whole["secrets"]["openai_api_key"]), (&json!(true), &json!(true)));
        assert!(!text.contains("canary"));
    }
}
