//! The papers against the program: commands parse, the configuration is sound, named files exist, no metric, event or
//! outcome is missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
};

const PAPERS: [&str; 6] =
    ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "daemon/ARCHITECTURE.md", "daemon/RUNBOOK.md", "tests/README.md"];

/// Items of the table of field bugs.
const FIELD_BUGS: [std::ops::RangeInclusive<u32>; 7] = [1..=1, 3..=9, 11..=36, 38..=40, 42..=66, 73..=74, 77..=78];
/// Those that may still have a dash; it only ever shrinks.
const OPEN_FIELD_BUGS: &[u32] = &[];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The papers that are checked: the fixed ones and every decision.
fn papers() -> Vec<String> {
    let decisions = fs::read_dir(root().join("daemon/decisions")).expect("the folder of decisions");
    let decisions =
        decisions.map(|file| format!("daemon/decisions/{}", file.expect("its entries").file_name().display()));
    PAPERS.into_iter().map(str::to_owned).chain(decisions).collect()
}

/// The blocks of `language` in a paper.
fn blocks(paper: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let text = read(paper);
    text.split(&fence).skip(1).filter_map(|rest| rest.split("\n```").next()).map(str::to_owned).collect()
}

/// Every line of the `sh` blocks of all papers, with the paper.
fn commands() -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for paper in papers() {
        for block in blocks(&paper, "sh") {
            lines.extend(block.lines().filter(|line| !line.is_empty()).map(|line| (paper.clone(), line.to_owned())));
        }
    }
    assert!(lines.len() > 10, "{lines:?}");
    lines
}

/// Texts in double quotes that follow `opening`, with only white space between.
fn quoted_after(source: &str, opening: &str) -> Vec<String> {
    let calls = source.split(opening).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
    calls.filter_map(|rest| rest.split_once('"')).map(|(text, _)| text.to_owned()).collect()
}

/// Words between backticks in running text.
fn code_words(text: &str) -> BTreeSet<String> {
    let outside: String = text.split("```").step_by(2).collect();
    outside.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_command_of_the_papers_can_be_given() {
    for (paper, line) in commands() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            // With --help at the end clap reads all that stands before it and performs nothing.
            "sauti" => {
                let output =
                    Command::new(env!("CARGO_BIN_EXE_sauti")).args(&words[1..]).arg("--help").output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{paper}: `{line}`: {said}");
            }
            "curl" => {
                let routes = read("daemon/src/http/mod.rs") + &read("daemon/src/whatsapp/http.rs");
                let path = words.last().and_then(|url| url.splitn(4, '/').last()).unwrap_or_default();
                assert!(routes.contains(&format!("\"/{path}\"")), "{paper}: `{line}`: there is no route /{path}");
            }
            "cargo" | "bash" => {}
            script => assert!(root().join(script).is_file(), "{paper}: `{line}`: {script} does not exist"),
        }
        for package in words.windows(2).filter(|pair| pair[0] == "-p").map(|pair| pair[1]) {
            let folder = package.strip_prefix("sauti-").map_or_else(|| ".".to_owned(), |name| format!("daemon/{name}"));
            let manifest = read(&format!("{folder}/Cargo.toml"));
            assert!(manifest.contains(&format!("name = \"{package}\"")), "{paper}: `{line}`: no package {package}");
        }
    }
}

/// Files that a reader would make: they need not be there.
fn is_made_by_the_reader(word: &str) -> bool {
    word.starts_with('/') || word.starts_with("target/") || word.starts_with(".venv")
}

#[test]
fn every_file_that_the_papers_name_is_there() {
    let top = ["daemon/", "tests/", "migrations/", ".ci/", ".config/", ".cargo/", "./"];
    for paper in papers() {
        for word in code_words(&read(&paper)) {
            let path = word.split([' ', '#', ':']).next().unwrap_or_default();
            let named = top.iter().any(|start| path.starts_with(start))
                || (!path.contains('/') && [".toml", ".md"].iter().any(|end| path.ends_with(end)) && path.len() > 5);
            if !named || is_made_by_the_reader(path) || path.contains(['*', '{', '…']) {
                continue;
            }
            let beside = root().join(&paper).parent().unwrap().join(path);
            let there = root().join(path).exists() || beside.exists();
            assert!(there || path == "clippy.toml", "{paper} names `{path}`, which does not exist");
        }
    }
}

#[test]
fn the_smallest_configurations_of_the_readme_serve() {
    let mut examples = blocks("README.md", "toml");
    let added: Vec<_> = examples.extract_if(.., |example| example.starts_with("[transfer]")).collect();
    assert_eq!(
        (examples.len(), added.len()),
        (3, 1),
        "WhatsApp, a trunk, WhatsApp by SIP; what a trunk may have beside"
    );
    examples.extend(added.iter().map(|more| format!("{}\n{more}", examples[1])).collect::<Vec<_>>());
    for example in &examples {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        fs::write(&file, example).unwrap();
        let names = [
            "WHATSAPP_ACCESS_TOKEN",
            "WHATSAPP_APP_SECRET",
            "WHATSAPP_VERIFY_TOKEN",
            "WHATSAPP_SIP_PASSWORD",
            "OPENAI_API_KEY",
        ];
        let secrets = names.map(|name| (format!("SAUTI_{name}"), "canary-openai-key"));
        let checked = Command::new(env!("CARGO_BIN_EXE_sauti"))
            .args(["check", "--config"])
            .arg(&file)
            .env_clear()
            .envs(secrets.iter().map(|(name, value)| (name, value)))
            .output()
            .unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
        let readme = read("README.md");
        for (name, _) in &secrets {
            assert!(readme.contains(&format!("`{name}`")), "README.md does not name {name}");
        }
    }
}

#[test]
fn the_readme_names_every_metric_event_and_outcome() {
    let readme = read("README.md");
    let metrics = read("daemon/src/obs/metrics.rs");
    let mut names = quoted_after(&metrics, "registry.register(");
    names.extend(quoted_after(&metrics, "registry.register_with_unit("));
    let (_, tables) =
        metrics.split_once("pub const TABLES").and_then(|(_, rest)| rest.split_once("= [")).expect("a list");
    let (tables, _) = tables.split_once(']').expect("its end");
    names.extend(tables.split('"').skip(1).step_by(2).map(|name| format!("table_{name}")));
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(readme.contains(&format!("sauti_{name}")), "README.md does not explain the metric sauti_{name}");
    }
    let logging = read("daemon/src/obs/logging.rs");
    let (_, events) = logging.split_once("event_names! {").expect("the list of events");
    let (events, _) = events.split_once("\n}\n").expect("its end");
    let events: Vec<(String, String)> = events
        .lines()
        .filter_map(|line| line.trim().split_once(" = \""))
        .filter_map(|(variant, rest)| Some((variant.to_owned(), rest.split_once('"')?.0.to_owned())))
        .collect();
    assert!(events.len() > 20, "{events:?}");
    for (_, event) in &events {
        assert!(readme.contains(&format!("`{event}`")), "README.md does not explain the event {event}");
    }
    let written: String = rust_files()
        .into_iter()
        .filter(|(path, _)| !path.ends_with("logging_tests.rs"))
        .map(|(_, text)| text)
        .collect();
    let milestones = quoted_after(&read("daemon/core/src/call/milestones.rs"), "=>");
    let silent: Vec<_> = events
        .iter()
        .filter(|(variant, event)| !written.contains(&format!("EventName::{variant}")) && !milestones.contains(event))
        .map(|(_, event)| format!("`{event}`"))
        .collect();
    let declared = format!("Declared and not yet written by this version: {}.\n", silent.join(", "));
    assert!(readme.contains(&declared), "README.md does not say: {declared}");
    let outcomes = read("daemon/core/src/call/outcome.rs");
    let (_, outcomes) = outcomes.split_once("Outcome {").expect("the list of outcomes");
    let (outcomes, _) = outcomes.split_once("\n    }\n").expect("its end");
    let outcomes: Vec<_> = outcomes.split('"').skip(1).step_by(2).collect();
    assert!(outcomes.len() > 10, "{outcomes:?}");
    for outcome in outcomes {
        assert!(readme.contains(&format!("| `{outcome}` |")), "README.md does not explain the outcome {outcome}");
    }
}

/// Rust files below the root, with their paths from it.
fn rust_files() -> BTreeMap<String, String> {
    let (mut files, mut folders) = (BTreeMap::new(), vec!["daemon".to_owned(), "tests".to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder of the repository") {
            let entry = entry.expect("its entries");
            let name = entry.file_name().into_string().expect("file names are UTF-8");
            let path = format!("{folder}/{name}");
            match entry.file_type().expect("a file or a folder") {
                kind if kind.is_dir() && !["node_modules", "target"].contains(&name.as_str()) => folders.push(path),
                kind if kind.is_file() && name.ends_with(".rs") => {
                    let text = read(&path);
                    files.insert(path, text);
                }
                _ => {}
            }
        }
    }
    files
}

/// Whether `text` holds a test of this name: a function whose attributes, right above it, say so.
fn has_test(text: &str, name: &str) -> bool {
    let opening = format!("fn {name}(");
    text.match_indices(&opening).any(|(at, _)| {
        let above = text[..at].rsplit_once('\n').map_or("", |(above, _)| above);
        let mut attributes = above.lines().rev().map(str::trim).take_while(|line| line.starts_with(['#', '/']));
        attributes.any(|line| line == "#[test]" || line.starts_with("#[tokio::test"))
    })
}

#[test]
fn every_field_bug_has_a_test_that_is_there() {
    let guide = read("tests/README.md");
    let (_, section) = guide.split_once("\n## Field bugs\n").expect("tests/README.md has a section Field bugs");
    let section = section.split("\n## ").next().unwrap_or_default();
    let files = rust_files();
    let mut seen = Vec::new();
    for row in section.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let Ok(number) = cells[0].parse::<u32>() else { continue };
        seen.push(number);
        let [_, bug, shown] = &*cells else { panic!("item {number}: three cells, not {}", cells.len()) };
        assert!(!bug.is_empty(), "item {number} does not say what the bug is");
        let tests: Vec<_> = shown.split('`').skip(1).step_by(2).collect();
        for test in &tests {
            let (file, name) =
                test.split_once("::").unwrap_or_else(|| panic!("item {number}: {test} is no file::test"));
            let end = format!("/{file}");
            let found = files.iter().any(|(path, text)| path.ends_with(&end) && has_test(text, name));
            assert!(found, "item {number}: no test {name} in a file {file}");
        }
        if shown.contains('–') {
            assert!(OPEN_FIELD_BUGS.contains(&number), "item {number} has no test for all of it");
        } else {
            let why = shown.strip_prefix("does not apply: ").is_some_and(|why| why.len() > 20);
            assert!(why || !tests.is_empty(), "item {number} has neither a test nor a reason");
        }
    }
    let wanted: Vec<u32> = FIELD_BUGS.into_iter().flatten().collect();
    assert_eq!(seen, wanted, "every item once, in order");
}
