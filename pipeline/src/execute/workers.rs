//! Makers of a run's units: this process, or worker processes.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use cm3flow_schemas::Digest;
use cm3flow_schemas::unit::{SegmentName, UnitRecord};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::error::{PipelineError, Result};
use crate::events::Elsewhere;
use crate::events::progress::Progress;
use crate::segment::{UnitTask, Worker};

/// Command that starts a worker process: `cm3flow work` with the run's configuration, store and run.
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    /// Path of the program.
    pub program: PathBuf,
    /// Arguments, without the run.
    pub arguments: Vec<String>,
}

/// Answer of `cm3flow work` for a key, one line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Key as requested.
    pub(crate) key: String,
    /// Outcome of the work.
    #[serde(flatten)]
    pub(crate) state: AnswerState,
    /// Events and counts since the previous answer.
    #[serde(default)]
    pub(crate) told: Elsewhere,
}

/// Outcome of the work on a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum AnswerState {
    /// The unit was made or found.
    Done {
        /// Segment of the unit.
        segment: SegmentName,
        /// Duration of the work.
        seconds: f64,
    },
    /// The unit could not be made.
    Failed {
        /// Error with its causes.
        problem: String,
        /// `true` if other units can still be made.
        of_the_unit: bool,
    },
}

/// Who makes units.
pub(crate) enum Hands {
    /// This process.
    Here(Arc<Worker>),
    /// Worker processes. This process's worker makes the units that concern a whole window.
    Processes(Arc<Worker>, Processes),
}

impl Hands {
    pub(crate) fn worker(&self) -> &Worker {
        match self {
            Self::Here(worker) | Self::Processes(worker, _) => worker,
        }
    }

    /// Makes the unit of `task`, which does not exist yet.
    pub(crate) async fn make(&self, task: &UnitTask) -> Result<UnitRecord> {
        match self {
            Self::Here(worker) => worker.make(task).await,
            Self::Processes(worker, processes) => {
                processes.work(task.key(), &worker.progress).await?;
                worker.find(task).await?.ok_or_else(|| answered("says that it is done, but it is not there".into()))
            }
        }
    }
}

fn answered(problem: String) -> PipelineError {
    PipelineError::Worker { problem, of_the_unit: true }
}

/// Worker processes that wait for keys, started on demand. Each ends with its standard input.
pub(crate) struct Processes {
    command: WorkerCommand,
    run: String,
    idle: Mutex<Vec<Process>>,
}

struct Process {
    child: Child,
    keys: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Processes {
    /// Makes a pool of processes by `command` for the run in the folder `run`.
    pub(crate) const fn new(command: WorkerCommand, run: String) -> Self {
        Self { command, run, idle: Mutex::new(Vec::new()) }
    }

    async fn work(&self, key: Digest, progress: &Progress) -> Result<()> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut process = idle.map_or_else(|| self.start(), Ok)?;
        let Some(answer) = process.ask(key).await else { return Err(answered(process.end().await)) };
        let Answer { key: of, state, told } =
            serde_json::from_str(&answer).map_err(|error| answered(format!("answered {answer:?}: {error}")))?;
        if of != key.to_string() {
            return Err(answered(format!("answered for {of} when it was asked for {key}")));
        }
        progress.include(told);
        match state {
            AnswerState::Done { .. } => {
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(process);
                Ok(())
            }
            // The failure may have left the process in a broken state; the next unit gets another one.
            AnswerState::Failed { problem, of_the_unit } => {
                Err(PipelineError::Worker { problem: format!("failed: {problem}"), of_the_unit })
            }
        }
    }

    fn start(&self) -> Result<Process> {
        let WorkerCommand { program, arguments } = &self.command;
        let failed = |source| PipelineError::System { what: "start a process that makes units", source };
        let mut child = Command::new(program)
            .args(arguments)
            .args(["--run", &self.run])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A signal at the terminal is for the leading run, which lets workers finish.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (Some(keys), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(PipelineError::Lost { what: "the pipes of a worker process" });
        };
        Ok(Process { child, keys, answers: BufReader::new(answers).lines() })
    }
}

impl Process {
    /// Asks for `key` and returns the answer; `None` if the process is gone.
    async fn ask(&mut self, key: Digest) -> Option<String> {
        self.keys.write_all(format!("{key}\n").as_bytes()).await.ok()?;
        self.answers.next_line().await.ok()?
    }

    /// Waits for the end of the process and describes it.
    async fn end(mut self) -> String {
        drop(self.keys);
        match self.child.wait().await {
            Ok(status) => format!("ended: {status}"),
            Err(error) => format!("is lost: {error}"),
        }
    }
}
