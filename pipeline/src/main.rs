//! The `cm3flow` command. Exit codes: 0 done, 1 failed, 2 the user's mistake, 3 done but for units that are quarantined.

use std::process::ExitCode;

use clap::Parser;
use cm3flow::PipelineError;
use cm3flow::command::{Cli, Done, execute, printable};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("CM3FLOW_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the runtime: {error}"), 1),
    };
    let done = runtime.block_on(execute(cli));
    // Blocked reads of a source must not keep a command alive that has failed.
    runtime.shutdown_background();
    match done {
        Ok(Done::All) => ExitCode::SUCCESS,
        Ok(Done::WithQuarantined) => ExitCode::from(3),
        Err(error) => fail(&error.with_causes(), code_of(&error)),
    }
}

const fn code_of(error: &PipelineError) -> u8 {
    match error {
        PipelineError::Quarantined { .. } => 3,
        _ if error.is_users_mistake() => 2,
        _ => 1,
    }
}

fn fail(problem: &str, code: u8) -> ExitCode {
    eprintln!("{}", printable(&format!("error: {problem}")));
    ExitCode::from(code)
}
