//! The `cm3flow` command.

use std::process::ExitCode;

use clap::Parser;
use cm3flow::command::{Cli, execute, exit_code};

/// jemalloc, since many threads allocate and free batches of a few megabytes: the system's allocator keeps more and more freed memory.
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
    // A failed command must not wait for blocked reads of a source.
    runtime.shutdown_background();
    ExitCode::from(exit_code(&done))
}
