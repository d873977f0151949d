//! The `cm3flow` command. Exit codes: 0 done, 1 failed, 2 the user's mistake.

use std::process::ExitCode;

use clap::Parser;
use cm3flow::PipelineError;
use cm3flow::command::{Cli, execute, printable};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("CM3FLOW_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start the runtime"), 1),
    };
    let done = runtime.block_on(execute(cli));
    // Blocked reads of a source must not keep a command alive that has failed.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = code_of(&error);
            fail(&anyhow::Error::new(error), code)
        }
    }
}

const fn code_of(error: &PipelineError) -> u8 {
    if error.is_users_mistake() { 2 } else { 1 }
}

/// Prints the error with its causes, each once.
fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !line.contains(cause.trim()) {
            line.push_str(if line.is_empty() { "error: " } else { ": " });
            line.push_str(cause.trim());
        }
    }
    eprintln!("{}", printable(&line));
    ExitCode::from(code)
}
