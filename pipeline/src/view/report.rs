//! The report of a run: one HTML page that needs nothing else, drawn from what lies in the store.
//!
//! Text from data is escaped by the template engine; pictures are embedded.

mod collect;
mod draw;
mod page;
mod pictures;

use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::WindowRecord;
use cm3flow_stages::ingest::PlannedUnit;
use cm3flow_stages::stage::Meters;
use minijinja::Environment;

use crate::artefact::Artefacts;
use crate::catalog::checkpoints::TrainOutcome;
use crate::config::Config;
use crate::error::{PipelineError, Result};
use crate::store::Store;

/// What a report is about.
pub(crate) struct Subject<'a> {
    pub config: &'a Config,
    pub store: &'a Store,
    pub artefacts: &'a Artefacts,
    pub manifest: &'a VersionManifest,
    pub windows: &'a [WindowRecord],
    /// Units that the sources hold now: photos are read from there once more.
    pub units: &'a [PlannedUnit],
    /// Lines on the files of folders that are left alone.
    pub left: Vec<String>,
    pub training: Option<&'a TrainOutcome>,
    /// Meters of the run; empty for a report of a published version.
    pub meters: &'a Meters,
}

/// Draws the page.
///
/// # Errors
/// What the store, a stage or the template engine says.
pub(crate) async fn html(subject: &Subject<'_>) -> Result<String> {
    let page = collect::page(subject).await?;
    let mut environment = Environment::new();
    let failed = |error: minijinja::Error| PipelineError::Report(error.into());
    // The name's ending turns on escaping.
    environment.add_template("report.html", include_str!("report/template.html")).map_err(failed)?;
    environment.get_template("report.html").and_then(|template| template.render(minijinja::value::Serde(&page))).map_err(failed)
}
