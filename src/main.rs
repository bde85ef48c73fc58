//! The `pacegate` program: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use pacegate::{
    cli::{Cli, Command},
    commands::{self, bench, check, config, demo, health, login, logout, serve, simulate, status},
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => serve::run(&cli.serve),
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Demo(args)) => demo::run(&args),
        Some(Command::Simulate(args)) => simulate::run(&args),
        Some(Command::Bench(args)) => bench::run(&args),
        Some(Command::Login(args)) => login::run(&args),
        Some(Command::Logout(args)) => logout::run(&args),
        Some(Command::Status(args)) => status::run(&args),
        Some(Command::Check(args)) => check::run(&args),
        Some(Command::Config(args)) => config::run(&args),
        Some(Command::Health(args)) => health::run(&args),
    };
    commands::exit_code(outcome)
}
