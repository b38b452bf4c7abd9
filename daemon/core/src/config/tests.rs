//! The reading of whole files: what starts, what does not, and what is said about it.

use std::path::Path;
use std::time::Duration;

use super::check::{Environment, read};
use super::problem::{Part, Problem, Problems};
use super::*;
use crate::call::cost::Price;

const SMALLEST: &str = "[whatsapp]\nphone_number_id = \"100000000000002\"\n[openai]\n";

fn all_secrets(name: &str) -> Option<String> {
    match name {
        "whatsapp_access_token" => Some("canary-whatsapp-token\n".to_owned()),
        "whatsapp_app_secret" => Some(" canary-app-secret ".to_owned()),
        "whatsapp_verify_token" => Some("canary-verify-token".to_owned()),
        "openai_api_key" => Some("canary-openai-key\r\n".to_owned()),
        "openai_api_key_2" => Some("canary-openai-key-2".to_owned()),
        "trunk_mtn_rw_password" | "whatsapp_sip_password" => Some("canary-trunk-password".to_owned()),
        _ => None,
    }
}

fn read_with(text: &str, secrets: &dyn Fn(&str) -> Option<String>) -> Result<Config, Problems> {
    let read_file = |path: &Path| match path.to_str() {
        Some("there.txt") => Ok("Be kind.\n".to_owned()),
        _ => Err("no such file".to_owned()),
    };
    read(text, &Environment { host_name: "kgl-edge-1", cores: 4, secrets, read_file: &read_file })
}

fn good(text: &str) -> Config {
    read_with(text, &all_secrets).unwrap_or_else(|problems| panic!("{}", plain(&problems)))
}

fn problems(text: &str) -> Vec<Problem> {
    read_with(text, &all_secrets).map(|_| ()).unwrap_err().problems
}

fn plain(problems: &Problems) -> String {
    problems.report("config.toml", &|_: Part, text: &str| text.to_owned())
}

/// The only problem of a text.
fn problem(text: &str) -> Problem {
    let mut problems = problems(text);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.remove(0)
}

#[test]
fn the_smallest_box_starts_with_every_default_of_the_contract() {
    let config = good(SMALLEST);
    assert_eq!((config.node.id.as_str(), config.node.workers, config.node.country.as_str()), ("kgl-edge-1", 2, "RW"));
    assert_eq!(config.node.languages, [Language::Rw, Language::En, Language::Fr, Language::Sw]);
    assert_eq!(config.http.public.to_string(), "0.0.0.0:8080");
    assert_eq!(config.http.admin.to_string(), "127.0.0.1:9090");
    assert_eq!(config.media.bind.to_string(), "0.0.0.0");
    assert_eq!((config.media.ports, config.media.threads, config.media.lanes), ((40_000, 40_999), 0, 3));
    assert_eq!((config.media.opus_bitrate, config.media.opus_complexity), (24_000, 3));
    assert_eq!(config.media.port_drain, Duration::from_secs(5));
    assert_eq!((config.limits.max_calls, config.limits.max_call), (100, Duration::from_secs(900)));
    assert_eq!(config.limits.connect_within, Duration::from_secs(3));
    assert_eq!(config.limits.no_media, Duration::from_secs(20));
    assert_eq!(config.limits.model_silence, Duration::from_secs(10));
    assert_eq!(config.limits.drain, Duration::from_secs(300));
    let whatsapp = config.whatsapp.as_ref().unwrap();
    assert_eq!(whatsapp.graph_url, "https://graph.facebook.com");
    assert_eq!((whatsapp.graph_version.as_str(), whatsapp.stale_after), ("v26.0", Duration::from_secs(45)));
    let openai = config.openai.as_ref().unwrap();
    assert_eq!((openai.url.as_str(), openai.model.as_str()), ("https://api.openai.com/v1", "gpt-realtime-2.1"));
    assert_eq!((openai.voice.as_str(), openai.max_output_tokens), ("marin", 1024));
    assert_eq!((openai.warm, openai.fallback.len()), (0, 0));
    assert_eq!(openai.transcription.as_deref(), Some("gpt-transcribe"));
    assert_eq!(openai.realtime_url(), "wss://api.openai.com/v1/realtime?model=gpt-realtime-2.1");
    let (prefix, silence) = (Duration::from_millis(300), Duration::from_millis(500));
    assert_eq!(openai.turn.detection, Detection::ServerVad { threshold: 0.5, prefix, silence });
    assert!(openai.turn.create_response && !openai.turn.interrupt_response);
    assert_eq!(openai.turn.judged_here(), BargeIn::Normal);
    assert_eq!(config.agent.texts[&Language::En].greeting, "Hello! How can I help you today?");
    assert_eq!(config.agent.texts.len(), 4);
    assert_eq!(config.ledger.path.to_str(), Some("/var/lib/sauti/ledger.db"));
    assert_eq!(config.notes, []);
}

#[test]
fn secrets_are_trimmed_and_never_shown() {
    use secrecy::ExposeSecret as _;
    let config = good(SMALLEST);
    assert_eq!(config.openai.as_ref().unwrap().api_key.expose_secret(), "canary-openai-key");
    assert_eq!(config.whatsapp.as_ref().unwrap().app_secret.expose_secret(), "canary-app-secret");
    for shown in [format!("{config:?}"), config.effective_toml()] {
        assert!(!shown.contains("canary"), "{shown}");
    }
    assert!(config.effective_toml().contains("# openai_api_key: set\n"));
    assert!(config.effective_toml().contains("# admin_token: missing\n"));
}

#[test]
fn a_secret_with_white_space_inside_is_refused_without_repeating_it() {
    let torn =
        |name: &str| (name == "openai_api_key").then(|| "canary-openai\nkey".to_owned()).or_else(|| all_secrets(name));
    let problems = read_with(SMALLEST, &torn).map(|_| ()).unwrap_err();
    assert_eq!(problems.problems.len(), 1);
    assert!(plain(&problems).contains("openai_api_key: has white space"), "{}", plain(&problems));
    assert!(!plain(&problems).contains("canary"));
}

#[test]
fn every_missing_secret_is_named_with_both_ways_to_give_it() {
    let problems = read_with(SMALLEST, &|_| None).map(|_| ()).unwrap_err().problems;
    let names: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(names, ["whatsapp_access_token", "whatsapp_app_secret", "whatsapp_verify_token", "openai_api_key"]);
    assert!(problems[3].fix.contains("SAUTI_OPENAI_API_KEY"), "{}", problems[3].fix);
    assert!(problems[3].fix.contains("systemd credential openai_api_key"), "{}", problems[3].fix);
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_file() {
    let text = r#"
[media]
opus_compexity = 4
ports = "50000-40000"
bind = "everywhere"

[limits]
max_calls = "many"
max_call = "15"

[whatsapp]
graph_url = "http://graph.facebook.com"

[openai]
max_output_tokens = 5000

[http]
public = "127.0.0.1:9090"

[wibble]
"#;
    let found: Vec<_> =
        problems(text).iter().map(|problem| (problem.line.unwrap_or(0), problem.path.clone())).collect();
    let expected = [
        (3, "media.opus_compexity"),
        (4, "media.ports"),
        (5, "media.bind"),
        (8, "limits.max_calls"),
        (9, "limits.max_call"),
        (11, "whatsapp.phone_number_id"),
        (12, "whatsapp.graph_url"),
        (15, "openai.max_output_tokens"),
        (17, "http.admin"),
        (20, "wibble"),
    ];
    assert_eq!(found, expected.map(|(line, path)| (line, path.to_owned())));
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    let misspelt = problem("[media]\nopus_compexity = 4\n");
    assert_eq!(misspelt.nearest.as_deref(), Some("opus_complexity"));
    assert_eq!(misspelt.to_string(), "media.opus_compexity: is no key of [media]; did you mean opus_complexity?");
    let stranger = problem("[media]\nwibble = 4\n");
    assert!(stranger.nearest.is_none() && stranger.fix.contains("opus_bitrate"), "{}", stranger.fix);
}

#[test]
fn the_report_says_where_what_and_what_to_write() {
    let problems = read_with("[http]\nadmin = \"127.0.0.1:99999\"\n", &all_secrets).map(|_| ()).unwrap_err();
    assert_eq!(
        plain(&problems),
        "config.toml:2: http.admin: \"127.0.0.1:99999\" has port \"99999\"; ports end at 65535\n    \
         fix: write an IP address and a port from 0 to 65535, like \"127.0.0.1:9090\" or \"[::]:8080\"\n1 problem\n"
    );
}

#[test]
fn a_secret_in_the_file_is_a_problem_and_its_value_is_not_repeated() {
    for text in [
        "[openai]\napi_key = \"canary-openai-key\"\n",
        "[openai]\nopenai_api_key = \"canary-openai-key\"\n",
        "[openai]\nvoice = \"sk-canary-openai-key\"\n",
        "whatsapp_access_token = \"canary-whatsapp-token\"\n",
        "[whatsapp]\nphone_number_id = \"1\"\nanything = \"EAAcanary-whatsapp-token\"\n[openai]\n",
        "[openai]\nurl = \"https://canary-openai-key@example.org\"\n",
        "[http]\nadmin_token = 'canary-whatsapp-token'\n",
    ] {
        let problems = read_with(text, &all_secrets).map(|_| ()).unwrap_err();
        let report = plain(&problems);
        assert!(!report.contains("canary"), "{report}");
        assert!(report.contains("secrets never stand") || report.contains("secrets are given"), "{report}");
    }
}

#[test]
fn broken_toml_keeps_its_line_and_does_not_repeat_the_text() {
    let text = "[openai]\nvoice = canary-openai-key\n[media]\nport = 1\n[whatsapp]\nphone_number_id \n";
    let problems = read_with(text, &all_secrets).map(|_| ()).unwrap_err();
    let report = plain(&problems);
    assert!(report.contains("config.toml:2: is no TOML"), "{report}");
    assert!(report.contains("config.toml:4: media.port: is no key of [media]"), "{report}");
    assert!(report.contains("config.toml:6: is no TOML"), "{report}");
    assert!(!report.contains("canary") && !report.contains("phone_number_id: is missing"), "{report}");
}

#[test]
fn contradictions_between_sections_are_found() {
    let cases = [
        ("[media]\nports = \"40000-40009\"\n", "media.ports"),
        ("[http]\nadmin = \"0.0.0.0:9090\"\n", "http.admin"),
        ("[http]\nadmin = \"127.0.0.1:8080\"\n", "http.admin"),
        ("[http]\ncertificate = \"/a.pem\"\n", "http.certificate"),
        ("[http]\nkey = \"/a.pem\"\n", "http.key"),
        ("[node]\nlanguages = [\"sw\"]\n[agent.en]\n", "agent"),
        ("[node]\nlanguages = []\n", "node.languages"),
        ("[limits]\nmax_call = \"2s\"\n", "limits.max_call"),
        ("[media]\nport_drain = \"31s\"\n", "media.port_drain"),
        ("[whatsapp]\nphone_number_id = \"1\"\n", "openai"),
        ("[openai.turn]\ndetection = \"semantic_vad\"\nsilence = \"1s\"\n", "openai.turn.silence"),
        ("[openai]\nidle_timeout = \"8s\"\n[openai.turn]\ndetection = \"semantic_vad\"\n", "openai.idle_timeout"),
        ("[openai.turn]\nthreshold = 1.5\n", "openai.turn.threshold"),
        ("[openai]\nurl = \"https://me:canary-openai-key@example.org/v1\"\n", "openai.url"),
        ("[openai]\nurl = \"https://example..org/v1\"\n", "openai.url"),
        ("[agent]\ninstructions_file = \"gone.txt\"\n", "agent.instructions_file"),
        ("[[price]]\nmodel = \"new\"\nas_of = \"2026-11-20\"\n", "price[0]"),
        ("[[price]]\nmodel = \"gpt-realtime-2\"\nas_of = \"2026-02-30\"\n", "price[0].as_of"),
        ("[whatsapp]\nphone_number_id = \"+250780000001\"\n[openai]\n", "whatsapp.phone_number_id"),
        ("whatsapp = 5\n", "whatsapp"),
        ("[[limits]]\nmax_calls = 5\n", "limits"),
    ];
    for (text, path) in cases {
        let problem = problem(text);
        assert_eq!(problem.path, path, "{text}: {problem}");
        assert!(!problem.fix.is_empty() && !problem.to_string().contains("250780000001"), "{problem}");
    }
}

#[test]
fn both_claimants_of_one_address_are_named() {
    let report = problem("[http]\npublic = \"0.0.0.0:9090\"\n").to_string();
    assert!(report.contains("127.0.0.1:9090 is already used by http.public 0.0.0.0:9090"), "{report}");
    good("[http]\npublic = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n");
}

#[test]
fn a_wider_admin_listener_needs_its_token_and_then_may_be_had() {
    let with_token = |name: &str| (name == "admin_token").then(|| "canary-admin".to_owned());
    let config = read_with("[http]\nadmin = \"0.0.0.0:9090\"\n", &with_token).unwrap();
    assert!(config.http.admin_token.is_some());
}

#[test]
fn texts_of_the_file_stand_over_the_built_in_ones_and_only_its_tables_count() {
    let config = good("[agent]\ninstructions_file = \"there.txt\"\n[agent.fr]\ngreeting = \"Allô ?\"\n");
    assert_eq!(config.agent.instructions, "Be kind.");
    assert_eq!(config.agent.texts.len(), 1);
    let french = &config.agent.texts[&Language::Fr];
    assert_eq!(french.greeting, "Allô ?");
    assert!(french.apology.starts_with("Désolé"), "the built-in one of the same language");
    assert_eq!(
        (french.one_moment.as_str(), french.still_there.as_str()),
        ("Un instant, s'il vous plaît.", "Êtes-vous toujours là ?")
    );
}

#[test]
fn instructions_from_a_file_stand_over_those_beside_it() {
    let config = good(&format!("{SMALLEST}[agent]\ninstructions = \"a\"\ninstructions_file = \"there.txt\"\n"));
    assert_eq!(config.agent.instructions, "Be kind.");
    assert_eq!(config.notes.iter().map(|note| note.path.as_str()).collect::<Vec<_>>(), ["agent.instructions"]);
}

#[test]
fn a_price_of_the_file_replaces_only_what_it_names() {
    let config = good("[[price]]\nmodel = \"gpt-realtime-2.1\"\nas_of = 2026-12-01\naudio_in = 16.5\n");
    let prices = config.prices.model("gpt-realtime-2.1").unwrap();
    assert_eq!(prices.audio_in, Price::parse("16.5"));
    assert_eq!(prices.audio_out, Price::parse("64"));
    assert_eq!(prices.as_of, "2026-12-01");
}

#[test]
fn what_is_doubtful_is_noted_and_starts() {
    let config = good(
        "[whatsapp]\nphone_number_id = \"1\"\n[openai]\nmodel = \"gpt-realtime\"\n\
         [openai.turn]\ninterrupt_response = false\nbarge_in = \"off\"\n[upstream]\n",
    );
    let about: Vec<_> = config.notes.iter().map(|note| note.path.as_str()).collect();
    assert_eq!(about, ["openai.model", "openai.model", "openai.turn.barge_in", "upstream"]);
    let unused = good(
        "[http]\ntrusted_proxies = [\"10.0.0.0/8\"]\npublic_url = \"https://edge.example.org\"\n\
         [whatsapp]\nphone_number_id = \"1\"\napp_id = \"2\"\nwaba_id = \"3\"\n[openai]\n",
    );
    let about: Vec<_> = unused.notes.iter().map(|note| note.path.as_str()).collect();
    assert_eq!(about, ["http.trusted_proxies", "http.public_url", "whatsapp.app_id", "whatsapp.waba_id"]);
    assert_eq!(good("").notes[0].path, "whatsapp");
}

#[test]
fn a_fallback_is_as_the_first_provider_but_for_what_it_names() {
    use secrecy::ExposeSecret as _;
    let config = good(
        "[openai]\nvoice = \"cedar\"\n[[openai.fallback]]\nurl = \"https://eu.api.openai.com/v1/\"\n\
         [[openai.fallback]]\nmodel = \"gpt-realtime-2.1-mini\"\n\
         [[openai.fallback]]\nurl = \"wss://second.example.org/v1\"\nmodel = \"own\"\nkey = \"openai_api_key_2\"\n",
    );
    let openai = config.openai.as_ref().unwrap();
    let rungs: Vec<_> = openai.fallback.iter().map(|fallback| openai.at(fallback)).collect();
    let places: Vec<_> = rungs.iter().map(|rung| (rung.url.as_str(), rung.model.as_str())).collect();
    let expected = [
        ("https://eu.api.openai.com/v1", "gpt-realtime-2.1"),
        ("https://api.openai.com/v1", "gpt-realtime-2.1-mini"),
        ("wss://second.example.org/v1", "own"),
    ];
    assert_eq!(places, expected);
    let keys: Vec<_> = rungs.iter().map(|rung| rung.api_key.expose_secret()).collect();
    assert_eq!(keys, ["canary-openai-key", "canary-openai-key", "canary-openai-key-2"]);
    assert!(rungs.iter().all(|rung| rung.voice == "cedar" && rung.fallback.is_empty()));
    assert_eq!(config.secrets.get("openai_api_key_2"), Some(&true));
    assert_eq!(config.notes.iter().filter(|note| note.path == "openai.fallback[2].model").count(), 1);
    let page = config.effective_toml();
    assert!(page.contains("[[openai.fallback]]\nurl = \"wss://second.example.org/v1\"\nmodel = \"own\"\n"), "{page}");
    assert!(page.contains("key = \"openai_api_key_2\"\n") && !page.contains("canary"), "{page}");
    assert_eq!(good(&page).effective_toml(), page);
}

#[test]
fn fallbacks_that_cannot_help_are_problems() {
    let five = "[[openai.fallback]]\nmodel = \"a\"\n[[openai.fallback]]\nmodel = \"b\"\n[[openai.fallback]]\n\
                model = \"c\"\n[[openai.fallback]]\nmodel = \"d\"\n[[openai.fallback]]\nmodel = \"e\"\n";
    let twins = "[[openai.fallback]]\nmodel = \"a\"\n[[openai.fallback]]\nmodel = \"a\"\n";
    for (text, path, reason) in [
        (five, "openai.fallback[4]", "one too many"),
        (twins, "openai.fallback[1]", "same as openai.fallback[0]"),
        ("[[openai.fallback]]\n", "openai.fallback[0]", "same as [openai]"),
        ("[[openai.fallback]]\nurl = \"http://api.example.org\"\n", "openai.fallback[0].url", "unencrypted"),
        ("[[openai.fallback]]\nkey = \"canary-openai-key\"\n", "openai.fallback[0].key", "no name of a secret"),
        ("[[openai.fallback]]\nkey = \"openai_api_key_\"\n", "openai.fallback[0].key", "no name of a secret"),
        ("[[openai.fallback]]\nkey = \"openai_api_key_3\"\n", "openai_api_key_3", "is missing; [[openai.fallback]]"),
        ("[[openai.fallback]]\nmodle = \"a\"\nmodel = \"b\"\n", "openai.fallback[0].modle", "is no key"),
        ("[openai]\nfallback = 3\n", "openai.fallback", "a list of tables"),
    ] {
        let problem = problem(text);
        assert_eq!(problem.path, path, "{text}: {problem}");
        assert!(problem.reason.contains(reason) && !problem.fix.is_empty(), "{text}: {problem}");
        assert!(!problem.to_string().contains("canary"), "{problem}");
    }
}

#[test]
fn loopback_addresses_of_emulators_are_accepted() {
    let config = good(
        "[whatsapp]\nphone_number_id = \"1\"\ngraph_url = \"http://127.0.0.1:4010/\"\n\
         [openai]\nurl = \"ws://127.0.0.1:4011/v1\"\nmodel = \"my model/2\"\n"
            .replace("my model", "my-model")
            .as_str(),
    );
    assert_eq!(config.whatsapp.unwrap().graph_url, "http://127.0.0.1:4010");
    assert_eq!(config.openai.unwrap().realtime_url(), "ws://127.0.0.1:4011/v1/realtime?model=my-model%2F2");
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    let full = "[node]\nid = \"box-1\"\ncountry = \"MT\"\n[http]\ntrusted_proxies = [\"10.0.0.0/8\"]\n\
                certificate = \"/a \\\"b\\\".pem\"\nkey = \"/k.pem\"\npublic_url = \"https://edge.example.org/\"\n\
                [media]\nadvertise = [\"192.0.2.1\", \"2001:db8::1\"]\n[limits]\nmax_call = \"90s\"\n\
                [whatsapp]\nphone_number_id = \"7\"\napp_id = \"8\"\n[openai]\ntranscription = \"\"\n\
                warm = 3\nidle_timeout = \"8s\"\nreasoning = \"low\"\n[[price]]\nmodel = \"own\"\nas_of = \"2026-01-01\"\n\
                text_in = 0.000001\n[[openai.fallback]]\nmodel = \"gpt-realtime-2.1-mini\"\n[agent]\ninstructions = \"\"\"One.\nTwo \\\\ \\u0007.\"\"\"\n[agent.sw]\n\
                [agent.rw]\n[upstream]\nsend = [\"calls\", \"transcripts\"]\n[sip]\nudp = \"0.0.0.0:5060\"\n\
                tls = \"[::]:5061\"\ncertificate = \"/c.pem\"\nkey = \"/k.pem\"\n[[trunk]]\nname = \"go-mt\"\n\
                allow = [\"192.0.2.0/28\", \"2001:db8::7\"]\nadvertise = \"203.0.113.7\"\nsrtp = \"sdes\"\n\
                transport = \"tls\"\ncodecs = [\"opus\", \"pcmu\"]\noptions_every = \"0s\"\n\
                outbound_proxy = \"[2001:db8::7]:5071\"\n[[trunk.route]]\ncalled = \"+356*\"\n\
                languages = [\"en\"]\n[[trunk]]\nname = \"mtn-rw\"\nregistrar = \"sip.example.net:5070\"\n\
                username = \"kigali-edge\"\n";
    for text in [full, SMALLEST, ""] {
        let first = good(text).effective_toml();
        assert_eq!(good(&first).effective_toml(), first);
    }
}

/// The shipped example.
const EXAMPLE: &str = include_str!("../../../../config.example.toml");

/// The example with every key and table in force: `#key` and `#[table]` are switched off, `# words` are words.
fn uncommented() -> String {
    let switched_on = |line: &'static str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|first: char| first == '[' || first.is_ascii_alphabetic()) => rest,
        _ => line,
    };
    EXAMPLE.lines().map(switched_on).collect::<Vec<_>>().join("\n").replace("instructions.txt", "there.txt")
}

#[test]
fn an_uncommented_key_of_the_example_equals_its_default() {
    let example = read_with(EXAMPLE, &|_| None).unwrap_or_else(|problems| panic!("{}", plain(&problems)));
    let empty = read_with("", &|_| None).unwrap();
    assert_eq!(example.effective_toml(), empty.effective_toml());
}

#[test]
fn the_example_with_everything_uncommented_is_still_valid_and_shows_defaults() {
    let config = good(&uncommented());
    let plain = good(SMALLEST);
    let (whatsapp, its_default) = (config.whatsapp.unwrap(), plain.whatsapp.unwrap());
    assert_eq!(whatsapp.graph_url, its_default.graph_url);
    assert_eq!((whatsapp.graph_version, whatsapp.stale_after), (its_default.graph_version, its_default.stale_after));
    let (openai, its_default) = (config.openai.unwrap(), plain.openai.unwrap());
    assert_eq!((openai.url, openai.model, openai.voice), (its_default.url, its_default.model, its_default.voice));
    assert_eq!(openai.max_output_tokens, its_default.max_output_tokens);
    assert_eq!(openai.transcription, its_default.transcription);
    assert_eq!(format!("{:?}", openai.turn), format!("{:?}", its_default.turn));
    assert_eq!(config.prices, plain.prices);
}

#[test]
fn the_example_lists_every_key() {
    let text = uncommented();
    let book = file::Book::new(&text);
    let table = toml::de::DeTable::parse(&text).unwrap();
    let read_file = |_: &Path| Ok("words".to_owned());
    let environment = Environment { host_name: "h", cores: 1, secrets: &all_secrets, read_file: &read_file };
    check::read_sections(&environment, &book, table.get_ref(), true);
    let missing: Vec<_> = book.never_found().into_iter().filter(|path| !is_price(path)).collect();
    assert_eq!(missing, Vec::<String>::new());
    assert!(text.contains("minute = ") && text.contains("audio_cached = "));
}

/// The two kinds of price exclude each other in one table, so each stands in one of its own.
fn is_price(path: &str) -> bool {
    path.starts_with("price[")
}

#[test]
fn rubbish_never_panics() {
    for text in ["\u{0}", "[", "[[", "=", "a = [", "[agent]\nen = 4", "price = [4]", "x = \"\\q\"", "\u{feff}[node]"] {
        drop(read_with(text, &all_secrets));
    }
}

proptest::proptest! {
    #[test]
    fn any_text_gives_a_configuration_or_problems(text in "(?s).{0,200}") {
        if let Err(problems) = read_with(&text, &all_secrets) {
            proptest::prop_assert!(!problems.problems.is_empty());
        }
    }

    #[test]
    fn any_value_of_any_key_gives_a_configuration_or_problems(
        key in "(public|admin|ports|bind|max_call|url|graph_url|threshold|languages|text_in|greeting)",
        section in "(http|media|limits|openai|whatsapp|openai\\.turn|node|agent|agent\\.en)",
        value in "(\"[^\"\\\\\n]{0,20}\"|[0-9]{1,25}|-?[0-9]{1,3}\\.[0-9]{1,3}|true|\\[\\]|\\[1, \"a\"\\]|\\{ a = 1 \\})",
    ) {
        if let Err(problems) = read_with(&format!("[{section}]\n{key} = {value}\n"), &all_secrets) {
            proptest::prop_assert!(!problems.problems.is_empty());
        }
    }
}

#[path = "trunk_tests.rs"]
mod trunks;
