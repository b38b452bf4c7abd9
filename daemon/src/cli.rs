//! The command line: what can be asked for, and the exit codes of the contract.
//!
//! Only parsing; each command's work is a `command` function in the module that owns it, called by `main`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use sauti_sim::network::Percent;

/// Where the configuration lies unless `--config` says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/sauti/config.toml";

/// How a command ended, as scripts and systemd see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Fine,
    /// The question was answered, and the answer is bad.
    Failed,
    /// A bug or a dead part; systemd starts the service again (`EX_SOFTWARE`).
    Internal,
    /// The configuration must be put right first (`EX_CONFIG`).
    BadConfig,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Fine => 0,
            Exit::Failed => 1,
            Exit::Internal => 70,
            Exit::BadConfig => 78,
        })
    }
}

/// A voice appliance: answers calls and lets the caller talk with a model.
#[derive(Debug, Parser)]
#[command(name = "sauti", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve calls until told to stop.
    Run(RunArgs),
    /// Place emulated calls through the real daemon on loopback, and report what was heard.
    Simulate(SimulateArgs),
    /// The far ends of a simulation; started by `simulate`.
    #[command(hide = true)]
    SimulateFarEnds,
    /// Report everything that is wrong with the configuration, or print the effective one, secrets redacted.
    Check(CheckArgs),
    /// SIP trunks: what is configured, how it stands, what is wrong.
    Trunk(TrunkArgs),
    /// Which trunk and route an INVITE takes, and why it is refused.
    Route(RouteArgs),
    /// Read the ledger: who called, how it ended, what it cost; also while the daemon runs.
    Calls(CallsArgs),
}

/// Which configuration.
#[derive(Debug, Clone, Args)]
pub struct ConfigArg {
    /// The configuration file.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONFIG, global = true)]
    pub config: PathBuf,
}

/// Arguments of `sauti run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArg,
}

/// Arguments of `sauti check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `sauti simulate`.
#[derive(Debug, Clone, Args)]
pub struct SimulateArgs {
    /// Callers at one time.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub calls: u32,
    /// How long each call lasts; by default as long as its conversation.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: Option<u32>,
    /// How the calls reach the box.
    #[arg(long, value_name = "DOOR", default_value = "whatsapp", value_parser = ["whatsapp", "whatsapp-sip", "trunk"])]
    pub door: String,
    /// The same seed gives the same far ends.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Measure under load: the standard script, all calls up together.
    #[arg(long)]
    pub load: bool,
    /// How late webhooks arrive, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    pub lag: u32,
    /// Packets lost on the way between phone and box, each way, in percent; two in a row on average.
    #[arg(long, value_name = "PCT", default_value = "0", value_parser = percent)]
    pub loss: Percent,
    /// How much longer packets may be under way, each way, in milliseconds: half a normal distribution of this
    /// standard deviation.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub jitter: u32,
    /// How far the model is from the box: a message takes half of this there and half of it back, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=2000))]
    pub model_rtt: u32,
    /// Who judges interruptions: the box itself (`interrupt_response = false`) or the model's server.
    #[arg(long, value_name = "WHO", default_value = "box", value_parser = ["box", "server"])]
    pub judge: String,
    /// In each call nothing passes for so many seconds, from 8 s after its beginning on.
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=60))]
    pub outage: u32,
    /// Tell a call in virtual time instead: a story as in `tests/scenarios`; fails unless its expectations hold.
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "calls", "seconds", "door", "load", "lag", "loss", "jitter", "outage", "frames",
    ])]
    pub scenario: Option<PathBuf>,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    pub json: bool,
    /// Write every frame that the daemon sent to the model into a file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub frames: Option<PathBuf>,
}

/// Reads a share in percent.
fn percent(text: &str) -> Result<Percent, String> {
    let figure: f64 = text.parse().map_err(|_| format!("{text} is no number"))?;
    Percent::new(figure)
}

/// Arguments of `sauti trunk`.
#[derive(Debug, Clone, Args)]
pub struct TrunkArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Print JSON instead of text, one object a line.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do; the list by default.
    #[command(subcommand)]
    pub what: Option<TrunkCommand>,
}

/// What to know of trunks.
#[derive(Debug, Clone, Subcommand)]
pub enum TrunkCommand {
    /// The trunks of the configuration with their routes.
    List,
    /// Ask the running daemon how each stands; exit 1 when one does not.
    Status,
    /// Ask a trunk itself: its address, OPTIONS, user and password. Nothing is changed there.
    Test {
        /// Its name.
        name: String,
    },
}

/// Arguments of `sauti route`.
#[derive(Debug, Clone, Args)]
pub struct RouteArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArg,
    /// A file with the INVITE, as a trace or a capture shows it.
    #[arg(value_name = "INVITE_FILE")]
    pub file: PathBuf,
    /// Where it came from; what its Via says if left out.
    #[arg(long, value_name = "ADDRESS")]
    pub source: Option<std::net::IpAddr>,
    /// How it came; what its Via says if left out.
    #[arg(long, value_name = "TRANSPORT", value_parser = ["udp", "tcp", "tls"])]
    pub transport: Option<String>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `sauti calls`.
#[derive(Debug, Clone, Args)]
pub struct CallsArgs {
    /// Which configuration; it names the ledger.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Print JSON instead of a table, one object a line.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to read; the list by default.
    #[command(subcommand)]
    pub what: Option<CallsCommand>,
}

/// What to read from the ledger.
#[derive(Debug, Clone, Subcommand)]
pub enum CallsCommand {
    /// The latest calls, the newest last.
    List {
        /// Go on and print each call as it begins and as it ends.
        #[arg(long)]
        follow: bool,
        /// How many to begin with.
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        last: u32,
    },
    /// One call with its stages, sessions and cost.
    Show {
        /// The call's id, as log and list print it.
        id: String,
    },
    /// Every call as one JSON object a line.
    Export,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[derive(Debug, Parser)]
    struct Whole {
        #[command(subcommand)]
        command: Every,
    }

    #[derive(Debug, Subcommand)]
    enum Every {
        Run(RunArgs),
        Check(CheckArgs),
        Simulate(SimulateArgs),
        Calls(CallsArgs),
        Trunk(TrunkArgs),
        Route(RouteArgs),
    }

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
        Whole::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let parse = |line: &str| Whole::try_parse_from(line.split(' ')).map(|whole| whole.command);
        let Ok(Every::Run(run)) = parse("sauti run") else { panic!() };
        assert_eq!(run.config.config.to_str(), Some("/etc/sauti/config.toml"));
        let Ok(Every::Check(check)) = parse("sauti check --config a.toml --json") else { panic!() };
        assert!(check.json && check.config.config.to_str() == Some("a.toml"));
        let Ok(Every::Simulate(simulate)) = parse("sauti simulate --calls 50 --seconds 30 --load --lag 2000") else {
            panic!()
        };
        assert_eq!((simulate.calls, simulate.seconds, simulate.lag), (50, Some(30), 2000));
        let Ok(Every::Simulate(bad)) = parse("sauti simulate --loss 2.5 --jitter 40 --outage 5") else { panic!() };
        assert_eq!((f64::from(bad.loss), bad.jitter, bad.outage), (2.5, 40, 5));
        let Ok(Every::Simulate(story)) = parse("sauti simulate --scenario a.toml --seed 7 --json") else { panic!() };
        assert!(story.scenario.is_some_and(|file| file.to_str() == Some("a.toml")) && story.seed == 7);
        let Ok(Every::Simulate(far)) = parse("sauti simulate --model-rtt 300 --judge box") else { panic!() };
        assert_eq!((far.model_rtt, &*far.judge), (300, "box"));
        let Ok(Every::Calls(calls)) = parse("sauti calls list --follow --json") else { panic!() };
        assert!(calls.json && matches!(calls.what, Some(CallsCommand::List { follow: true, last: 50 })));
        let Ok(Every::Calls(calls)) = parse("sauti calls show 17 --config a.toml") else { panic!() };
        assert_eq!(calls.config.config.to_str(), Some("a.toml"));
        let Ok(Every::Trunk(trunk)) = parse("sauti trunk test mtn-rw --json") else { panic!() };
        assert!(trunk.json && matches!(trunk.what, Some(TrunkCommand::Test { name }) if name == "mtn-rw"));
        let Ok(Every::Route(route)) = parse("sauti route invite.txt --source 192.0.2.1") else { panic!() };
        assert_eq!(route.source.map(|source| source.to_string()).as_deref(), Some("192.0.2.1"));
        for wrong in [
            "sauti run --wibble",
            "sauti simulate --calls 0",
            "sauti simulate --door fax",
            "sauti simulate --loss 101",
            "sauti simulate --scenario a.toml --calls 2",
            "sauti simulate --judge dice",
            "sauti calls show",
            "sauti trunk test",
            "sauti route",
            "sauti route a --transport sctp",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
