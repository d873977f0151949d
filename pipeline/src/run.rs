//! A whole run: scans, fits missing artefacts, plans, executes, publishes, trains meanwhile, and reports.

pub mod lease;

use std::sync::Arc;
use std::time::Instant;

use cm3flow_model::train::TrainConfig;
use cm3flow_schemas::ledger::{DocumentLedger, SampleLedger};
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::{QuarantinedUnit, SourceUnit, WindowRecord};
use cm3flow_schemas::{Digest, layout};
use cm3flow_stages::tokenize::Fidelity;
use tokio::runtime::Handle;

use crate::artefact::{self, Artefacts};
use crate::catalog::checkpoints::{Checkpoints, TrainOutcome};
use crate::catalog::{Catalog, Published};
use crate::config::Job;
use crate::error::{Mismatch, PipelineError, Result};
use crate::events::{Event, Reasons, RunEnd, RunScope};
use crate::execute::{Executor, Processes, UnitMaker, WorkerCommand};
use crate::plan::{Plan, ReplayFilter, RunPlan, StoredPlan, WindowPlan};
use crate::run::lease::{Lease, LeaseMode};
use crate::segment::Worker;
use crate::source::scan::{Drift, Scan, scan_sources};
use crate::train;
use crate::train::Training;
use crate::train::follow::Followed;
use crate::view::report;
use crate::view::report::Subject;

/// Options of a run beyond its configuration.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Number of samples to take, at most.
    pub limit: Option<u64>,
    /// `true` to fit pinned artefacts anew.
    pub refit: bool,
    /// Filter for refused samples of the latest version to try again, in addition to new samples.
    pub replay: Option<ReplayFilter>,
    /// `true` to leave out training even if the configuration has it.
    pub without_training: bool,
    /// `true` to publish even if units are quarantined.
    pub allow_quarantined: bool,
    /// Behaviour if another run is at work on the dataset.
    pub lease: LeaseMode,
    /// Command that starts worker processes, if `runtime.processes` asks for some.
    pub worker_command: Option<WorkerCommand>,
}

/// Result of a run.
#[derive(Debug)]
pub struct RunOutcome {
    /// Manifest of the published version.
    pub manifest: VersionManifest,
    /// Window records of the version.
    pub windows: Vec<WindowRecord>,
    /// `true` if the version existed before.
    pub was_published: bool,
    /// `true` if the training was complete before.
    pub was_trained: bool,
    /// Result of the training, if the configuration has one.
    pub training: Option<TrainOutcome>,
    /// Difference between the sources and the content of the version before.
    pub drift: Drift,
    /// Path of the report in the store; `None` if the run had nothing to do.
    pub report: Option<String>,
    /// Number of samples that the version lacks because their units are quarantined.
    pub quarantined: u64,
}

impl RunOutcome {
    /// Makes the result of a run that has just published `manifest`, without training and report.
    const fn of(manifest: VersionManifest, windows: Vec<WindowRecord>, drift: Drift) -> Self {
        Self { manifest, windows, was_published: false, was_trained: false, training: None, drift, report: None, quarantined: 0 }
    }

    /// Checks whether version and training existed before.
    #[must_use]
    pub const fn nothing_to_do(&self) -> bool {
        self.was_published && (self.training.is_none() || self.was_trained)
    }

    fn end(&self) -> RunEnd {
        RunEnd {
            version: Some(self.manifest.version),
            exit_code: if self.quarantined > 0 { 3 } else { 0 },
            nothing_to_do: self.nothing_to_do(),
            quarantined_samples: self.quarantined,
            report: self.report.clone(),
            checkpoint: self.training.as_ref().map(|training| training.checkpoint.clone()),
            ..RunEnd::default()
        }
    }
}

/// Attempts of a run that is overtaken: it plans again on top of the version that the other run published.
const TRIES: u32 = 8;

/// State that the parts of a run share.
struct Run<'a> {
    folder: &'a str,
    job: &'a Job,
    options: &'a RunOptions,
    catalog: Catalog,
    artefacts: Arc<Artefacts>,
    scan: Scan,
}

/// Runs `job`.
///
/// # Errors
/// The first error; committed work stays, and the same call continues from there.
pub async fn run(job: &Job, options: &RunOptions) -> Result<RunOutcome> {
    let scope = RunScope::begin(&job.store, &job.progress, job.dataset());
    scope.record(job.until_stopped(leased(job, options, &scope.folder())), RunOutcome::end).await
}

/// Runs under the dataset's lease, as far as the options ask for it.
async fn leased(job: &Job, options: &RunOptions, folder: &str) -> Result<RunOutcome> {
    let lease = Lease::take(job, folder, options.lease).await?;
    let mut tries = 1;
    let outcome = loop {
        match plan_and_execute(job, options, folder).await {
            Err(PipelineError::Overtaken { version, .. }) if tries < TRIES => {
                tries += 1;
                job.progress.tell(Event::Replanned { version });
            }
            outcome => break outcome,
        }
    };
    lease.release().await;
    outcome
}

async fn plan_and_execute(job: &Job, options: &RunOptions, folder: &str) -> Result<RunOutcome> {
    let progress = &job.progress;
    let begun = Instant::now();
    let catalog = job.catalog();
    let latest = Published::latest(&catalog).await?;
    let scan = scan_sources(job, latest.as_ref(), options.limit).await?;
    progress.tell(scan.done(job.config.source.len(), begun.elapsed()));
    let mut artefacts = artefacts_for(job, &scan, options).await?;
    if artefacts.text.fidelity() == Fidelity::Normalized {
        progress.say("the text tokenizer normalizes: texts come back as its normalizer makes them, not as they were");
    }
    let plan = Plan::make_replaying(job, &artefacts, latest.as_ref(), &scan, options.replay.as_ref()).await?;
    if options.replay.is_some() {
        progress.say(&replayed(&plan));
    }
    progress.tell(Event::plan_made(&plan));
    if !plan.is_published {
        artefact::try_annotators(&artefacts).await?;
        artefacts.code_changes = artefact::code_changes(job, &artefacts, &scan.units).await?;
    }
    if let Some(segment) = plan.made_anew_from {
        let (before, now, segment) = (plan.version - 1, plan.version, segment.name());
        progress.say(&format!(
            "version {before} had other settings from {segment} on: version {now} is made anew, of what can be reused and the rest"
        ));
    }
    plan.drift.lines(plan.base.unwrap_or(0)).iter().chain(&scan.left_lines()).for_each(|line| progress.say(line));
    let run = Run { folder, job, options, catalog, artefacts: Arc::new(artefacts), scan };
    match latest {
        Some(latest) if plan.is_published => run.published(&plan, latest).await,
        _ => run.execute(&plan).await,
    }
}

/// Obtains the artefacts. Fits them on all samples of the sources even if the run takes fewer, since later runs use them too.
async fn artefacts_for(job: &Job, scan: &Scan, options: &RunOptions) -> Result<Artefacts> {
    if options.limit.is_none() {
        return artefact::obtain(job, &scan.units, options.refit).await;
    }
    if !options.refit
        && let Some(artefacts) = artefact::pinned(job).await?
    {
        return Ok(artefacts);
    }
    artefact::fit(job, options.refit).await
}

impl Run<'_> {
    fn train_config(&self) -> Option<TrainConfig> {
        self.job.config.training().filter(|_| !self.options.without_training)
    }

    fn training(&self, train: TrainConfig, packs: &[Digest], followed: &Followed) -> Training {
        let (job, artefacts) = (self.job.clone(), Arc::clone(&self.artefacts));
        let key = train::key(&job.config, &train, &artefacts, packs);
        Training { job, train, artefacts, key, feed: followed.feed() }
    }

    /// Completes a run whose version is already published: its training may be missing.
    async fn published(&self, plan: &Plan, latest: Published) -> Result<RunOutcome> {
        let Published { manifest, windows, .. } = latest;
        // The run that published the version may have died before it wrote the digest.
        self.catalog.record_digest(&manifest).await?;
        let mut outcome = RunOutcome::of(manifest, windows, plan.drift.clone());
        outcome.was_published = true;
        if let Some(train) = self.train_config() {
            let training = self.training(train, &train::pack_keys(&outcome.windows), &Followed::published(&outcome.windows));
            let done = Checkpoints::new(self.job.store.clone(), self.job.dataset(), training.key, Handle::current()).outcome().await?;
            outcome.was_trained = done.as_ref().is_some_and(|done| done.step >= training.train.steps);
            outcome.training = if outcome.was_trained { done } else { Some(train::start(training)?.outcome().await?) };
        }
        if !outcome.nothing_to_do() {
            outcome.report = Some(self.report(&outcome).await?);
        }
        Ok(outcome)
    }

    /// Makes and publishes the version while the trainer follows.
    async fn execute(&self, plan: &Plan) -> Result<RunOutcome> {
        let followed = Followed::default();
        let packs_of = |window: &WindowPlan| window.committed.as_ref().map_or_else(|| window.keys.pack.to_vec(), train::packs_of);
        let packs: Vec<Digest> = plan.windows.iter().flat_map(packs_of).collect();
        let mut training = self.train_config().map(|train| train::start(self.training(train, &packs, &followed))).transpose()?;
        let made = self.make(plan, &followed).await;
        if made.as_ref().map_or(true, |(_, quarantined)| *quarantined > 0)
            && let Some(training) = training.take()
        {
            // The trainer notices that the planned packs will not exist, and ends. It must not outlive this call.
            drop(followed);
            let _ = training.outcome().await;
        }
        let ((manifest, windows), quarantined) = made?;
        let mut outcome = RunOutcome::of(manifest, windows, plan.drift.clone());
        outcome.quarantined = quarantined;
        if let (None, Some(train)) = (&training, self.train_config()) {
            // Other packs were made than planned, so this is a different training.
            training =
                Some(train::start(self.training(train, &train::pack_keys(&outcome.windows), &Followed::published(&outcome.windows)))?);
        }
        if let Some(training) = training {
            outcome.training = Some(training.outcome().await?);
        }
        outcome.report = Some(self.report(&outcome).await?);
        Ok(outcome)
    }

    /// Makes all windows and publishes the version. Returns manifest, windows and the number of quarantined samples.
    async fn make(&self, plan: &Plan, followed: &Followed) -> Result<((VersionManifest, Vec<WindowRecord>), u64)> {
        let unit_maker = self.unit_maker()?;
        let kept = RunPlan::new(self.job.dataset(), plan);
        let kept = StoredPlan::begin(self.job.store.clone(), self.folder.to_owned(), kept).await?;
        let executor = Arc::new(Executor::new(self.job, unit_maker, kept));
        let windows = executor.run(plan, &self.catalog, followed).await?;
        let quarantined = self.quarantined(plan, &windows)?;
        let has_packs = windows.iter().flat_map(|window| &window.shards).any(|shard| shard.split == Split::Train);
        if !has_packs {
            return Err(PipelineError::NothingKept { account: account(&windows) });
        }
        let manifest = self.catalog.publish(&self.job.config, &self.artefacts, plan, &windows).await?;
        followed.complete();
        self.job.progress.tell(Event::version_published(&manifest));
        Ok(((manifest, windows), quarantined))
    }

    fn unit_maker(&self) -> Result<UnitMaker> {
        let worker = Arc::new(Worker::try_new(self.job, Arc::clone(&self.artefacts))?);
        if self.job.config.runtime.processes == 0 {
            return Ok(UnitMaker::InProcess(worker));
        }
        let command = self.options.worker_command.clone().ok_or(Mismatch::NoProcesses)?;
        Ok(UnitMaker::Processes(worker, Processes::new(command, self.folder.to_owned())))
    }

    /// Returns the number of samples in units that this run quarantined.
    ///
    /// # Errors
    /// [`PipelineError::Quarantined`] if there are some and the options do not allow them.
    fn quarantined(&self, plan: &Plan, windows: &[WindowRecord]) -> Result<u64> {
        let made = plan.windows.iter().zip(windows).filter(|(planned, _)| planned.committed.is_none());
        let found: Vec<_> = made.flat_map(|(_, window)| &window.quarantined).collect();
        let samples = found.iter().map(|quarantined| quarantined.unit.rows).sum();
        if samples == 0 || self.options.allow_quarantined {
            return Ok(samples);
        }
        let name = |quarantined: &&QuarantinedUnit| {
            let SourceUnit { source, file, first_row, rows, .. } = &quarantined.unit;
            format!("{rows} samples of {source}, {file} from row {first_row} on: {}", quarantined.problem)
        };
        Err(PipelineError::Quarantined { version: plan.version, samples, units: found.iter().map(name).collect() })
    }

    async fn report(&self, outcome: &RunOutcome) -> Result<String> {
        let subject = Subject {
            job: self.job,
            artefacts: &self.artefacts,
            manifest: &outcome.manifest,
            windows: &outcome.windows,
            units: &self.scan.units,
            left: self.scan.left_lines(),
            training: outcome.training.as_ref(),
            meters: self.job.progress.meters(),
        };
        let path = layout::report(self.folder);
        self.job.store.create(&path, report::html(&subject).await?).await?;
        Ok(path)
    }
}

/// Describes the fate of samples and documents of `windows`: both ledgers, each with its reasons.
fn account(windows: &[WindowRecord]) -> String {
    let (mut samples, mut documents) = (SampleLedger::default(), DocumentLedger::default());
    for window in windows {
        samples.add(&window.samples);
        documents.add(&window.documents);
    }
    let listed = |before: &str, reasons: &Reasons| {
        let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{reason}: {count}")).collect();
        if reasons.is_empty() { String::new() } else { format!("{before}{}", reasons.join(", ")) }
    };
    format!(
        "samples: {samples}{}; documents: {documents}{}{}",
        listed("; refused samples by reason: ", &samples.refused),
        listed("; refused documents by reason: ", &documents.refused),
        listed("; documents not begun, by what samples lack: ", &documents.lacking)
    )
}

/// Describes the number of refused samples to be tried again, for people.
fn replayed(plan: &Plan) -> String {
    match plan.replayed_samples {
        0 => "no refused sample is tried once more: none matches, or units that changed are read as a whole, or these files were tried already".into(),
        samples => format!("{samples} refused samples are tried once more"),
    }
}
