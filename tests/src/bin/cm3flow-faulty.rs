//! The command over stores with faulty requests: `cm3flow-faulty …`. It is for tests of the state that a dead process leaves behind.
//!
//! It takes the arguments of `cm3flow`, and from the environment:
//! - `CM3FLOW_FAULT`: kind of fault, one of `fail`, `fail_after`, `cut`, `stall`, `throttle`, `deny`, `conflict`, `stale`, `overwrite`,
//!   `abort`, `abort_after`;
//! - `CM3FLOW_FAULT_AT`: number of the faulty request, from 1; or `CM3FLOW_FAULT_FROM`: number of the first one, with all behind it;
//! - or `CM3FLOW_FAULT_ON`: part of the path of faulty requests;
//! - or `CM3FLOW_FAULT_PER_MILLE` and `CM3FLOW_FAULT_SEED`: number of faulty requests among 1000, and seed of the draw;
//! - `CM3FLOW_FAULT_COMMAND`: the only command, such as `work`, with faulty requests;
//! - `CM3FLOW_FAULT_COUNT`: file for the number of requests, written at the end.

use std::env;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context;
use clap::Parser;
use cm3flow::command::{Cli, Done, execute_with, exit_code};
use cm3flow::store::StoreLayer;
use cm3flow_tests::fault::{Fault, Faults};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("CM3FLOW_LOG").unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run() {
        Ok(ended) => ExitCode::from(exit_code(&ended)),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<cm3flow::Result<Done>> {
    let faults = faults()?;
    let (cli, counted) = (Cli::parse(), faults.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(execute_with(cli, StoreLayer::new(move |objects| counted.over(objects))));
    runtime.shutdown_background();
    if let Some(file) = env::var_os("CM3FLOW_FAULT_COUNT") {
        std::fs::write(&file, faults.requests().to_string()).with_context(|| file.display().to_string())?;
    }
    Ok(done)
}

fn faults() -> anyhow::Result<Faults> {
    let Some(fault) = variable::<Fault>("CM3FLOW_FAULT")? else { return Ok(Faults::none()) };
    if variable::<String>("CM3FLOW_FAULT_COMMAND")?.is_some_and(|command| env::args().nth(1) != Some(command)) {
        return Ok(Faults::none());
    }
    if let Some(part) = variable::<String>("CM3FLOW_FAULT_ON")? {
        return Ok(Faults::on(&part, fault));
    }
    if let Some(n) = variable("CM3FLOW_FAULT_AT")? {
        return Ok(Faults::at(n, fault));
    }
    if let Some(n) = variable("CM3FLOW_FAULT_FROM")? {
        return Ok(Faults::from(n, fault));
    }
    let per_mille = variable("CM3FLOW_FAULT_PER_MILLE")?.context("CM3FLOW_FAULT needs CM3FLOW_FAULT_AT, _FROM, _ON or _PER_MILLE")?;
    Ok(Faults::random(variable("CM3FLOW_FAULT_SEED")?.unwrap_or(0), per_mille, &[fault]))
}

fn variable<T: FromStr>(name: &str) -> anyhow::Result<Option<T>> {
    let Ok(text) = env::var(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| anyhow::anyhow!("{name} = {text:?} is no value of it"))
}
