//! The `cm3flow` command.

use std::process::ExitCode;

use clap::Parser;
use cm3flow::command::{Cli, execute, exit_code};

/// Batches of a few megabytes come and go on many threads: the system's allocator keeps more and more of what they leave behind.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
    ExitCode::from(exit_code(&done))
}
