//! The `cm3flow` command. Exit codes: 0 done, 1 failed, 2 the user's mistake.

use std::process::ExitCode;

use clap::Parser;
use cm3flow::command::{Cli, execute, printable};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(execute(cli));
    // Blocked reads of a source must not keep a command alive that has failed.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", printable(&error.with_causes()));
            ExitCode::from(error.exit_code())
        }
    }
}
