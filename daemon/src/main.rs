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
        Command::Check(args) => sauti::check::command(&args).into(),
        Command::Calls(args) => sauti::calls::command(&args).into(),
    }
}
