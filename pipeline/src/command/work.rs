//! `work`: makes units of a run that another process leads. Reads a key from each line and answers it with a JSON line.

use std::time::Instant;

use clap::Args;
use cm3flow_schemas::Digest;
use tokio::io::{AsyncBufReadExt, BufReader};
use tracing::Instrument;

use super::{ConfigArgs, Session, output};
use crate::artefact;
use crate::config::Job;
use crate::error::{PipelineError, Result};
use crate::events::Reporter;
use crate::events::progress::Progress;
use crate::execute::{Answer, AnswerState, Tasks};

#[derive(Debug, Args)]
pub(super) struct WorkArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Folder of the run in the store, such as runs/20260101T000000000Z-1a2b
    #[arg(long, value_name = "FOLDER")]
    run: String,
}

/// Works until standard input ends. A failed unit gets an answer and does not end the process.
pub(super) async fn work(args: &WorkArgs, session: &Session) -> Result<()> {
    // The answers carry events to the leading run.
    let progress = Progress::silent();
    let job = Job { progress: progress.clone(), ..args.config.open_existing(session)? };
    let missing = || PipelineError::Mismatch { problem: "the run's tokenizers are neither given nor pinned".into() };
    let artefacts = artefact::pinned(&job).await?.ok_or_else(missing)?;
    let mut reporter = Reporter::begin(&progress);
    let dataset = job.dataset().to_owned();
    let mut tasks = Tasks::try_new(job, artefacts, args.run.clone())?;
    let stop = session.stop.clone();
    let mut keys = BufReader::new(tokio::io::stdin()).lines();
    loop {
        let line = tokio::select! {
            line = keys.next_line() => line.map_err(|source| PipelineError::System { what: "read standard input", source })?,
            () = stop.cancelled() => return Err(PipelineError::Interrupted),
        };
        let Some(line) = line else { return Ok(()) };
        let key = line.trim();
        if key.is_empty() {
            continue;
        }
        let start = Instant::now();
        let making = make(&mut tasks, key).instrument(tracing::error_span!("run", run = args.run, dataset));
        let state = match making.await {
            Ok(segment) => AnswerState::Done { segment, seconds: start.elapsed().as_secs_f64() },
            Err(error) => AnswerState::Failed { problem: error.with_causes(), of_the_unit: error.is_of_the_unit() },
        };
        let answer = Answer { key: key.to_owned(), state, told: reporter.report() };
        output::print(&serde_json::to_string(&answer).expect("an answer is plain"));
    }
}

async fn make(tasks: &mut Tasks, key: &str) -> Result<cm3flow_schemas::unit::SegmentName> {
    let parsed: Digest = key.parse().map_err(|error| PipelineError::Mismatch { problem: format!("no key: {error}") })?;
    Ok(tasks.work(parsed).await?.segment)
}
