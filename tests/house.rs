//! Rules of the house that no compiler checks: size of files, purity of the pure crates, what may be linked, what a
//! repository must not say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Crates without clock, socket, file or thread.
const PURE: [&str; 3] = ["daemon/core", "daemon/media", "daemon/sim"];
const MOST_LINES: usize = 900;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file that git knows and that is still there, by its path from the root.
fn tracked() -> Vec<String> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().expect("git is installed");
    assert!(listed.status.success(), "the house rules are checked in a git work tree");
    let names = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    let names: Vec<_> =
        names.split_terminator('\0').filter(|name| root().join(name).is_file()).map(str::to_owned).collect();
    assert!(names.len() > 30, "{names:?}");
    names
}

/// Tracked files that are text, with their text.
fn texts() -> impl Iterator<Item = (String, String)> {
    tracked().into_iter().filter_map(|name| fs::read_to_string(root().join(&name)).ok().map(|text| (name, text)))
}

fn rust_files() -> impl Iterator<Item = (String, String)> {
    texts().filter(|(name, _)| name.ends_with(".rs"))
}

fn toml_of(path: &str) -> toml::Table {
    read(&root().join(path)).parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Places where one of the needles stands, `file:line`.
fn places(files: impl Iterator<Item = (String, String)>, needles: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, text) in files {
        for (number, line) in text.lines().enumerate() {
            if needles.iter().any(|needle| line.contains(needle)) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn no_file_is_longer_than_900_lines() {
    let code = [".rs", ".py", ".js", ".sh", ".sql", ".md", ".toml"];
    let long: Vec<_> = texts()
        .filter(|(name, _)| code.iter().any(|ending| name.ends_with(ending)) || name.starts_with(".ci/"))
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > MOST_LINES)
        .collect();
    assert!(long.is_empty(), "longer than {MOST_LINES} lines, split them: {long:?}");
}

#[test]
fn nothing_is_left_unfinished_or_switched_off() {
    // In two pieces, so that this file does not find itself.
    let unfinished = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ign", "ore"),
        concat!("//! To be ", "written"),
    ];
    let found = places(rust_files(), &unfinished);
    assert!(found.is_empty(), "unfinished or switched off:\n{}", found.join("\n"));
}

#[test]
fn lints_are_on_in_every_crate_and_exceptions_carry_a_reason() {
    for manifest in ["Cargo.toml", "daemon/core/Cargo.toml", "daemon/media/Cargo.toml", "daemon/sim/Cargo.toml"] {
        let lints = toml_of(manifest).get("lints").and_then(|lints| lints.get("workspace")?.as_bool());
        assert_eq!(lints, Some(true), "{manifest} needs [lints] workspace = true");
    }
    let found = places(rust_files(), &[concat!("#[al", "low("), concat!("#![al", "low(")]);
    assert!(found.is_empty(), "say #[expect(lint, reason = \"…\")]:\n{}", found.join("\n"));
}

/// What a clippy.toml bans, of methods and of types.
fn banned(path: &str) -> BTreeSet<String> {
    let table = toml_of(path);
    ["disallowed-methods", "disallowed-types"]
        .iter()
        .filter_map(|key| table.get(*key)?.as_array())
        .flatten()
        .filter_map(|ban| ban.get("path")?.as_str().map(str::to_owned))
        .collect()
}

#[test]
fn the_pure_crates_ban_clocks_locks_and_unordered_maps() {
    let shared = banned(".clippy.toml");
    for crate_ in PURE {
        let bans = banned(&format!("{crate_}/clippy.toml"));
        // The nearest file replaces the root's, so the root's bans must be repeated.
        assert!(shared.is_subset(&bans), "{crate_}/clippy.toml lacks {:?}", shared.difference(&bans));
        for needed in [
            "std::time::Instant::now",
            "std::time::SystemTime::now",
            "std::thread::sleep",
            "std::thread::spawn",
            "std::env::var",
            "std::sync::Mutex",
            "std::collections::HashMap",
            "std::collections::HashSet",
        ] {
            assert!(bans.contains(needed), "{crate_}/clippy.toml does not ban {needed}");
        }
    }
}

#[test]
fn the_bans_of_the_pure_crates_bite() {
    // A small crate of its own, so that nothing has to be built: what it does is banned, and clippy must say so.
    let scratch = tempfile::tempdir().unwrap();
    fs::create_dir(scratch.path().join("src")).unwrap();
    fs::write(
        scratch.path().join("Cargo.toml"),
        "[package]\nname = \"impure\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n",
    )
    .unwrap();
    fs::write(
        scratch.path().join("src/lib.rs"),
        "pub fn late() -> std::time::Instant { std::time::Instant::now() }\n\
         pub fn seen() -> std::collections::HashMap<u8, u8> { Default::default() }\n",
    )
    .unwrap();
    for crate_ in PURE {
        fs::copy(root().join(crate_).join("clippy.toml"), scratch.path().join("clippy.toml")).unwrap();
        // A changed clippy.toml alone does not make cargo look again.
        let target = scratch.path().join(crate_.replace('/', "-"));
        let checked = Command::new(env!("CARGO"))
            .args(["clippy", "--offline", "--quiet", "--", "--deny", "clippy::disallowed_methods"])
            .args(["--deny", "clippy::disallowed_types"])
            .current_dir(scratch.path())
            .env("CARGO_TARGET_DIR", target)
            .env_remove("RUSTFLAGS")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(!checked.status.success(), "{crate_}: clippy let it pass: {said}");
        assert!(said.contains("use of a disallowed method `std::time::Instant::now`"), "{crate_}: {said}");
        assert!(said.contains("use of a disallowed type `std::collections::HashMap`"), "{crate_}: {said}");
    }
}

#[test]
fn the_pure_crates_know_no_runtime_no_socket_and_no_file() {
    let impure = ["tokio", "mio", "socket2", "nix", "libc", "hyper", "reqwest", "axum", "rusqlite", "tracing", "rand"];
    for crate_ in PURE {
        let manifest = toml_of(&format!("{crate_}/Cargo.toml"));
        let dependencies = manifest["dependencies"].as_table().unwrap();
        let wrong: Vec<_> = dependencies.keys().filter(|name| impure.contains(&name.as_str())).collect();
        assert!(wrong.is_empty(), "{crate_} must not depend on {wrong:?}");
    }
    // Tests of a crate read the scenarios that they play; what is shipped reads nothing.
    let shipped = |name: &str| PURE.iter().any(|crate_| name.starts_with(&format!("{crate_}/src/")));
    let pure = rust_files().filter(|(name, _)| shipped(name));
    let found = places(pure, &["UdpSocket", "TcpStream", "TcpListener", "std::fs", "File::open", "std::process"]);
    assert!(found.is_empty(), "sockets, files and processes belong to the shell:\n{}", found.join("\n"));
}

#[test]
fn no_file_names_a_machine_or_a_registry() {
    let places_of_machines =
        [concat!("/wo", "rk/"), concat!("/tm", "p/wt"), concat!("/ro", "ot/"), concat!("/home", "/")];
    let hosts = [
        concat!("registry.", "npmjs"),
        concat!("index.", "crates.io"),
        concat!("static.", "crates.io"),
        concat!("pypi.", "org"),
        concat!("python", "hosted.org"),
        concat!("deb.", "debian.org"),
    ];
    let needles: Vec<_> = places_of_machines.into_iter().chain(hosts).collect();
    let found = places(texts(), &needles);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn people_in_tests_come_from_the_canary_list() {
    let canaries: Vec<String> = read(&root().join("tests/canaries.txt"))
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(_, text)| text.to_owned())
        .collect();
    assert!(canaries.len() >= 10, "{canaries:?}");
    for (name, text) in texts().filter(|(name, _)| name.ends_with(".rs") || name.ends_with(".py")) {
        for (number, line) in text.lines().enumerate() {
            for digits in
                line.split(|c: char| !c.is_ascii_digit()).filter(|run| run.len() == 12 && run.starts_with("2507"))
            {
                assert!(
                    canaries.iter().any(|known| known == digits),
                    "{name}:{}: {digits} is nobody we know",
                    number + 1
                );
            }
        }
    }
}

#[derive(serde::Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(serde::Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
}

/// Every crate that is built for this machine, tests included.
fn packages() -> Vec<Package> {
    let listed = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let metadata: Metadata = serde_json::from_slice(&listed.stdout).expect("cargo prints JSON");
    assert!(metadata.packages.len() > 100);
    metadata.packages
}

/// Whether an SPDX expression can be met with the licences allowed; `/` is the old way to write OR.
fn licensed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<String> = Vec::new();
    for word in spaced.split_whitespace() {
        match words.last_mut() {
            // `X WITH Y` is one licence.
            Some(last) if word == "WITH" || last.ends_with(" WITH") => {
                last.push(' ');
                last.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
    }
    let mut at = 0;
    let met = any_of(&words, &mut at, allowed);
    met && at == words.len()
}

fn any_of(words: &[String], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = all_of(words, at, allowed);
    while words.get(*at).is_some_and(|word| word == "OR") {
        *at += 1;
        met |= all_of(words, at, allowed);
    }
    met
}

fn all_of(words: &[String], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at).is_some_and(|word| word == "AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[String], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if word != "(" {
        return allowed.contains(word);
    }
    let met = any_of(words, at, allowed);
    *at += 1;
    met
}

fn allowed_licences() -> BTreeSet<String> {
    let list = toml_of(".deny.toml");
    list["licenses"]["allow"]
        .as_array()
        .expect("a list of licences")
        .iter()
        .filter_map(|id| id.as_str().map(str::to_owned))
        .collect()
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "Apache-2.0".to_owned(), "Unicode-3.0".to_owned()]);
    for good in ["MIT", "MIT/GPL-3.0", "(MIT OR X) AND Unicode-3.0", "GPL-3.0 OR MIT", "A WITH B OR MIT"] {
        assert!(licensed(good, &allowed), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR X) AND Y", "Apache-2.0 WITH LLVM-exception", "", "MIT MIT"] {
        assert!(!licensed(bad, &allowed), "{bad}");
    }
}

#[test]
fn every_dependency_has_a_licence_that_we_allow() {
    let allowed = allowed_licences();
    let wrong: Vec<_> = packages()
        .into_iter()
        .filter(|package| !package.license.as_deref().is_some_and(|license| licensed(license, &allowed)))
        .map(|package| format!("{} {}: {:?}", package.name, package.version, package.license))
        .collect();
    assert!(wrong.is_empty(), "not on the list in .deny.toml:\n{}", wrong.join("\n"));
}

#[test]
fn one_tls_provider_and_one_sqlite_are_linked() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        versions.entry(package.name).or_default().insert(package.version);
    }
    for banned in ["aws-lc-rs", "aws-lc-sys", "openssl-sys", "native-tls", "sqlx"] {
        assert!(!versions.contains_key(banned), "{banned} is in the tree; `cargo tree -i {banned}` tells why");
    }
    for single in ["ring", "rustls", "rtc", "opusic-sys", "libsqlite3-sys"] {
        assert_eq!(versions.get(single).map(BTreeSet::len), Some(1), "{single}: {:?}", versions.get(single));
    }
}

#[test]
fn embedded_speech_stays_small() {
    let folder = root().join("daemon/sim/assets/speech");
    let bytes: u64 = fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 1_500_000, "{bytes} bytes");
}
