//! `sauti check`: exit codes, every problem at once, no secret in sight.

use std::path::Path;
use std::process::{Command, Output};

const SECRETS: [(&str, &str); 4] = [
    ("SAUTI_WHATSAPP_ACCESS_TOKEN", "canary-whatsapp-token"),
    ("SAUTI_WHATSAPP_APP_SECRET", "canary-app-secret"),
    ("SAUTI_WHATSAPP_VERIFY_TOKEN", "canary-verify-token"),
    ("SAUTI_OPENAI_API_KEY", "canary-openai-key\n"),
];

const SMALLEST: &str = "[whatsapp]\nphone_number_id = \"100000000000002\"\n[openai]\n";

/// Runs the binary with an empty environment but for `variables`.
fn sauti(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sauti"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .expect("the binary starts")
}

fn check(path: &Path, more: &[&str], variables: &[(&str, &str)]) -> Output {
    let path = path.to_str().expect("a plain path");
    sauti(&[&["check", "--config", path], more].concat(), variables)
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(&file, text).expect("it can be written");
    file
}

fn shown(output: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("canary"), "a secret was printed: {text}");
    text
}

#[test]
fn the_smallest_configuration_is_fine_and_printed_in_full_without_secrets() {
    let file = file(SMALLEST);
    let output = check(file.path(), &[], &SECRETS);
    let text = shown(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for line in ["max_call = \"15m\"", "model = \"gpt-realtime-2.1\"", "# openai_api_key: set", "# box_key: missing"] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}

#[test]
fn every_problem_is_printed_plainly_and_the_exit_code_is_78() {
    let file = file(
        "[media]\nopus_compexity = 4\nports = \"9-1\"\n[limits]\nmax_call = 15\n\
         [openai]\napi_key = \"canary-openai-key\"\n[whatsapp]\n",
    );
    let output = check(file.path(), &[], &[]);
    let text = shown(&output);
    assert_eq!(output.status.code(), Some(78), "{text}");
    for part in [
        ":2: media.opus_compexity: is no key of [media]",
        "fix: did you mean opus_complexity?",
        ":3: media.ports: \"9-1\" ends before it begins",
        ":5: limits.max_call: 15 is a whole number where a duration belongs",
        ":7: openai.api_key: secrets never stand in the file",
        "whatsapp.phone_number_id: is missing",
        "openai_api_key: is missing; [openai] needs this secret",
        "SAUTI_WHATSAPP_ACCESS_TOKEN",
        "\n9 problems\n",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains('\u{1b}'), "no colour into a pipe");
}

#[test]
fn a_missing_file_is_a_bad_configuration() {
    let output = check(Path::new("/nowhere/config.toml"), &[], &SECRETS);
    assert_eq!(output.status.code(), Some(78));
    assert!(shown(&output).contains("/nowhere/config.toml: cannot be read"));
}

#[test]
fn the_shipped_example_is_valid_as_it_stands() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml");
    let output = check(&example, &[], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    assert!(shown(&output).contains("note: whatsapp: is not configured"), "{}", shown(&output));
}

#[test]
fn what_check_prints_can_be_checked_again() {
    let first = check(file(SMALLEST).path(), &[], &SECRETS);
    let printed = String::from_utf8(first.stdout).expect("text");
    let second = check(file(&printed).path(), &[], &SECRETS);
    assert_eq!(String::from_utf8(second.stdout).expect("text"), printed);
}

#[test]
fn credentials_of_systemd_are_read_and_win() {
    let (file, credentials) = (file(SMALLEST), tempfile::tempdir().expect("a folder"));
    for (name, secret) in SECRETS {
        let name = name.trim_start_matches("SAUTI_").to_ascii_lowercase();
        std::fs::write(credentials.path().join(name), secret).expect("it can be written");
    }
    let folder = credentials.path().to_str().expect("a plain path");
    let output = check(file.path(), &[], &[("CREDENTIALS_DIRECTORY", folder)]);
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
}

#[test]
fn former_names_are_answered_with_the_new_ones() {
    let file = file(SMALLEST);
    let former = [("WA_VERIFY_TOKEN", "canary-old"), ("OPENAI_REALTIME_MODEL", "canary-model")];
    let output = check(file.path(), &[], &[&SECRETS[..], &former].concat());
    let text = shown(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("WA_VERIFY_TOKEN: is set") && text.contains("SAUTI_WHATSAPP_VERIFY_TOKEN"), "{text}");
    assert!(text.contains("OPENAI_REALTIME_MODEL: is set") && text.contains("model under [openai]"), "{text}");
}

#[test]
fn json_says_the_same_to_scripts() {
    let bad = check(file("[media]\nport = 1\n").path(), &["--json"], &[]);
    let verdict: serde_json::Value = serde_json::from_slice(&bad.stdout).expect("JSON");
    assert_eq!(bad.status.code(), Some(78));
    assert_eq!(verdict["ok"], false);
    assert_eq!(verdict["problems"][0]["path"], "media.port");
    assert_eq!(verdict["problems"][0]["line"], 2);
    assert_eq!(verdict["problems"][0]["nearest"], "ports");
    let good = check(file(SMALLEST).path(), &["--json"], &SECRETS);
    let verdict: serde_json::Value = serde_json::from_slice(&good.stdout).expect("JSON");
    assert_eq!((&verdict["ok"], &verdict["secrets"]["openai_api_key"]), (&true.into(), &true.into()));
    shown(&good);
}

#[test]
fn help_is_there_and_unknown_flags_are_errors() {
    for arguments in [&["--help"][..], &["check", "--help"]] {
        let output = sauti(arguments, &[]);
        assert_eq!(output.status.code(), Some(0));
        assert!(shown(&output).contains("Usage: sauti"), "{}", shown(&output));
    }
    let output = sauti(&["check", "--wibble"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(shown(&output).contains("--wibble"));
    assert_ne!(sauti(&["wibble"], &[]).status.code(), Some(0));
}
