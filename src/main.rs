//! The `pacegate` program: arguments in, exit code out.

use std::{env, process::ExitCode};

#[cfg(feature = "tools")]
use pacegate::commands::{bench, demo, simulate};
use pacegate::{
    cli::{Cli, Command},
    commands::{self, check, config, health, login, logout, serve, status},
};

fn main() -> ExitCode {
    let cli = Cli::read(env::args_os()).unwrap_or_else(|error| error.exit());
    let outcome = match cli.command {
        None => serve::run(&cli.serve),
        Some(Command::Serve(args)) => serve::run(&args),
        #[cfg(feature = "tools")]
        Some(Command::Demo(args)) => demo::run(&args),
        #[cfg(feature = "tools")]
        Some(Command::Simulate(args)) => simulate::run(&args),
        #[cfg(feature = "tools")]
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
