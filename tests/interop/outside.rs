//! Programs of others: where they are, what it means when they are not there, and one run of one of them.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::process::Command;

/// Where a test's daemon leaves its log, and where skips are counted.
const LOG_FOLDER: &str = "SAUTI_TEST_LOGS";
/// The Python that has the packages of `tests/interop/requirements.txt`.
const PYTHON: &str = "SAUTI_PYTHON";

/// These tests share two cores with the call that they measure: one after the other, whatever runs them.
pub(crate) fn alone() -> Alone {
    static ALONE: Mutex<()> = Mutex::new(());
    Alone { _turn: ALONE.lock().unwrap_or_else(PoisonError::into_inner) }
}

/// The turn of a test; no other one runs in this process until it is dropped.
pub(crate) struct Alone {
    _turn: MutexGuard<'static, ()>,
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn scripts() -> PathBuf {
    root().join("tests/interop")
}

/// One line of the committed speech, as a file that outside programs read themselves.
pub(crate) fn speech(name: &str) -> String {
    root().join(format!("daemon/sim/assets/speech/{name}.opus")).display().to_string()
}

pub(crate) fn log_folder() -> PathBuf {
    let folder = std::env::var_os(LOG_FOLDER).map_or_else(|| root().join("target/test-logs"), PathBuf::from);
    std::fs::create_dir_all(&folder).expect("the folder for logs can be made");
    folder
}

/// Says that `what` cannot be checked here: a failure in CI, elsewhere a skip that is told and counted.
pub(crate) fn missing(what: &str, why: &str) {
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{what}: {why}; .ci/setup tests should have seen to it");
    skip(what, why);
}

/// Says that `what` is not checked, and counts it.
pub(crate) fn skip(what: &str, why: &str) {
    let line = format!("skipped: {what}, because {why}\n");
    let skips = log_folder().join("skipped.txt");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(skips);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("skips can be counted");
    std::io::stderr().write_all(line.as_bytes()).ok();
}

/// The Python of the judges, when it can import `packages`.
pub(crate) fn python(packages: &str) -> Option<PathBuf> {
    let python = std::env::var_os(PYTHON).map_or_else(|| root().join(".venv/bin/python"), PathBuf::from);
    let imported = Process::new(&python)
        .args(["-c", &format!("import {packages}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if imported.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    missing(packages, &format!("{} cannot import it", python.display()));
    None
}

/// Node with the package that drives the browser, when the browser is there too.
pub(crate) fn node() -> Option<PathBuf> {
    let node = PathBuf::from("node");
    let here = Process::new(&node).args(["-e", "require('playwright-core')"]).current_dir(scripts()).output();
    if !here.is_ok_and(|output| output.status.success()) {
        missing("the browser", "node cannot load playwright-core");
        return None;
    }
    if !Path::new("/usr/bin/chromium").exists() {
        missing("the browser", "/usr/bin/chromium is not there");
        return None;
    }
    Some(node)
}

/// What a program that ended well said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) stdout: String,
}

impl Said {
    /// Its last line, which the judges write as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error} in {last:?}"))
    }
}

/// The first of `count` ports in a row, an even one, free over UDP and TCP. They lie below those that the kernel hands out
/// by itself, so that nobody else takes them by chance; each call in this process gives others.
pub(crate) fn free_ports(count: u16) -> u16 {
    /// Where they begin, blocks of so many ports, and how many blocks.
    const FIRST: u16 = 21_000;
    const BLOCK: u16 = 16;
    const BLOCKS: u16 = 600;
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    assert!(count <= BLOCK, "a block has {BLOCK}");
    let place = |port| (Ipv4Addr::LOCALHOST, port);
    let free = |port| UdpSocket::bind(place(port)).is_ok() && TcpListener::bind(place(port)).is_ok();
    let blocks = (0..BLOCKS).map(|_| FIRST + GIVEN.fetch_add(1, Ordering::Relaxed) % BLOCKS * BLOCK);
    blocks.into_iter().find(|first| (*first..*first + count).all(free)).expect("ports that nobody has")
}

/// A command in the folder of the scripts, ended with the test.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(scripts()).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs a program to its end and returns all that it wrote, and whether it ended well.
pub(crate) async fn attempt(command: &mut Command, within: Duration) -> (bool, Said, String) {
    let ended = tokio::time::timeout(within, command.output()).await;
    let output = ended.unwrap_or_else(|_| panic!("{command:?} took more than {within:?}")).expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), Said { stdout: text(&output.stdout) }, text(&output.stderr))
}

/// Runs a program that has to end well.
pub(crate) async fn run(command: &mut Command, within: Duration) -> Said {
    let (good, said, complaints) = attempt(command, within).await;
    assert!(good, "{command:?} failed:\n{complaints}\n{}", said.stdout);
    said
}
