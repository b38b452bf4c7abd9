//! The `sauti` binary: reads the command line and hands over to the module that owns the command.

use std::process::ExitCode;

use clap::Parser as _;
use sauti::cli::{Cli, Command, Exit};

fn main() -> ExitCode {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return Exit::Internal.into();
    }
    sauti::secrets::keep_out_of_core_dumps();
    match Cli::parse().command {
        Command::Run(args) => sauti::run::command(&args).into(),
        Command::Simulate(args) => sauti::simulate::command(&args).into(),
        Command::SimulateFarEnds => sauti::simulate::far_ends_command().into(),
        Command::Check(args) => sauti::check::command(&args).into(),
        Command::Trunk(args) => sauti::sip::tools::trunk(&args).into(),
        Command::Route(args) => sauti::sip::tools::route(&args).into(),
        Command::Calls(args) => sauti::calls::command(&args).into(),
    }
}
