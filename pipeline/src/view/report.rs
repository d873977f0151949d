//! The report of a run: one self-contained HTML page, drawn from the store.
//!
//! The template engine escapes text from data; pictures are embedded.

mod collect;
mod draw;
mod page;
mod pictures;

use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::WindowRecord;
use cm3flow_stages::ingest::PlannedUnit;
use cm3flow_stages::stage::Meters;
use minijinja::Environment;
use tokio::runtime::Handle;

use crate::artefact::{self, Artefacts};
use crate::catalog::checkpoints::{Checkpoints, TrainOutcome};
use crate::catalog::{Published, VersionRef};
use crate::config::Job;
use crate::error::{PipelineError, Result};
use crate::source::scan::scan_sources;
use crate::train;

/// Inputs of a report.
pub(crate) struct Subject<'a> {
    pub job: &'a Job,
    pub artefacts: &'a Artefacts,
    pub manifest: &'a VersionManifest,
    pub windows: &'a [WindowRecord],
    /// Units that the sources hold now, for reading photos.
    pub units: &'a [PlannedUnit],
    /// Lines about files of folders that hold no samples.
    pub left: Vec<String>,
    pub training: Option<&'a TrainOutcome>,
    /// Meters of the run; empty for a report of a published version.
    pub meters: &'a Meters,
}

/// Draws the report of a published version; returns the page.
///
/// # Errors
/// [`PipelineError::NoVersion`], [`PipelineError::Mismatch`] if tokenizers or vocabulary of the configuration differ from the version's,
/// or those of sources, stages and the store.
pub async fn report_version(job: &Job, version: Option<&VersionRef>) -> Result<String> {
    let published = Published::open(&job.catalog(), version).await?;
    let Published { manifest, windows, .. } = &published;
    let artefacts = artefact::pinned_of(job, manifest).await?;
    let training = match &job.config.training() {
        Some(train) => {
            let key = train::key(&job.config, train, &artefacts, &train::pack_keys(windows));
            Checkpoints::new(job.store.clone(), job.dataset(), key, Handle::current()).outcome().await?
        }
        None => None,
    };
    let scan = scan_sources(job, Some(&published), None).await?;
    let meters = Meters::default();
    let subject = Subject {
        job,
        artefacts: &artefacts,
        manifest,
        windows,
        units: &scan.units,
        left: scan.left_lines(),
        training: training.as_ref(),
        meters: &meters,
    };
    html(&subject).await
}

/// Draws the page of a report.
///
/// # Errors
/// Those of the store, a stage or the template engine.
pub(crate) async fn html(subject: &Subject<'_>) -> Result<String> {
    let page = collect::page(subject).await?;
    let mut environment = Environment::new();
    let failed = |error: minijinja::Error| PipelineError::Report(error.into());
    // The ending of the name turns escaping on.
    environment.add_template("report.html", include_str!("report/template.html")).map_err(failed)?;
    environment.get_template("report.html").and_then(|template| template.render(minijinja::value::Serde(&page))).map_err(failed)
}
