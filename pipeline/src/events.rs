//! Events of a run in one typed enum: for people, for programs (`--json`), for metrics, and for the run's events file.
//!
//! [`crate::events::progress::Progress::tell`] alone receives events. They hold times, so the store keeps them under `runs/` alone.

mod buffer;
pub mod progress;
mod recording;
mod remote;
mod reporter;
mod scope;

use std::collections::BTreeMap;
use std::time::Duration;

use cm3flow_schemas::Digest;
use cm3flow_schemas::ledger::{DocumentLedger, SampleLedger};
use cm3flow_schemas::unit::{SegmentName, UnitRecord};
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::WindowRecord;
use serde::{Deserialize, Serialize};

pub use recording::Recording;
pub(crate) use remote::RemoteReport;
pub(crate) use reporter::Reporter;
pub(crate) use scope::RunScope;

use crate::error::PipelineError;

/// Counts by `stage.reason`.
pub type Reasons = BTreeMap<String, u64>;

/// Numbers of a segment's units in a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitsPlanned {
    /// Units in windows of the base version.
    pub there: u64,
    /// All other units; an earlier run may have made some of them.
    pub to_make: u64,
}

/// Outcome of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnd {
    /// Exit code of the process: 0 done, 1 failed, 2 user's mistake, 3 done except for quarantined units.
    pub exit_code: u8,
    /// Error that stopped the run, with its causes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Version that the run published or found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// `true` if the latest version already held everything.
    #[serde(default)]
    pub nothing_to_do: bool,
    /// Number of samples in quarantined units.
    #[serde(default)]
    pub quarantined_samples: u64,
    /// Path of the report in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// Last checkpoint of the training, a folder in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
}

impl RunEnd {
    /// Makes the outcome of a run that `error` stopped.
    #[must_use]
    pub fn failed(error: &PipelineError) -> Self {
        Self { exit_code: error.exit_code(), reason: Some(error.with_causes()), ..Self::default() }
    }
}

/// An event of a run. Serialized as an object whose `event` is the name of the variant in snake_case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first event of a run.
    RunStarted {
        /// Name of the run: its folder below `runs/`.
        run: String,
        /// Name of the dataset.
        dataset: String,
        /// Version of this program.
        cm3flow: String,
    },
    /// All sources have been scanned.
    ScanDone {
        /// Number of sources.
        sources: u64,
        /// Number of units in them.
        units: u64,
        /// Number of samples in them.
        samples: u64,
        /// Bytes of their files, as far as listings tell.
        bytes: u64,
        /// Duration of the scan.
        seconds: f64,
    },
    /// The run begins to fit missing artefacts.
    FitBegun {
        /// Names of the artefacts.
        artefacts: Vec<String>,
        /// Number of train samples for the fit.
        samples: u64,
    },
    /// An artefact was fitted.
    FitDone {
        /// Name of the artefact.
        artefact: String,
        /// Digest of its bytes.
        digest: Digest,
        /// Duration of the fit.
        seconds: f64,
    },
    /// The plan is complete.
    PlanMade {
        /// Version that the plan results in.
        version: u32,
        /// Version whose windows the plan keeps.
        base: Option<u32>,
        /// `true` if that version is already published.
        is_published: bool,
        /// Windows of the plan, those of the base included.
        windows: u64,
        /// Number of samples in units to be made.
        samples: u64,
        /// Number of samples of the base that the sources no longer hold.
        removed_samples: u64,
        /// Number of samples of the base whose units changed in the sources.
        #[serde(default)]
        changed_samples: u64,
        /// Number of refused samples that the run tries again.
        #[serde(default)]
        replayed_samples: u64,
        /// Units by segment.
        units: BTreeMap<SegmentName, UnitsPlanned>,
    },
    /// A unit was made or found.
    UnitDone {
        /// Segment of the unit.
        segment: SegmentName,
        /// Key of the unit.
        key: Digest,
        /// Rows of all its files plus packs of all its shards.
        rows: u64,
        /// Bytes of all its files and shards.
        bytes: u64,
        /// `true` if it existed before.
        was_there: bool,
        /// Duration of the work.
        seconds: f64,
        /// Refused samples, in `compose` documents, by reason.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        refused: Reasons,
    },
    /// An attempt at a unit failed.
    UnitFailed {
        /// Segment of the unit.
        segment: SegmentName,
        /// Key of the unit.
        key: Digest,
        /// Error with its causes.
        problem: String,
    },
    /// A new attempt at a failed unit begins.
    UnitRetried {
        /// Segment of the unit.
        segment: SegmentName,
        /// Key of the unit.
        key: Digest,
        /// Number of the attempt, from 2.
        attempt: u32,
    },
    /// A unit has no attempts left; the run goes on without it.
    UnitQuarantined {
        /// Segment of the unit.
        segment: SegmentName,
        /// Key of the unit.
        key: Digest,
        /// Source by its name in the configuration.
        source: String,
        /// Name of the source's file.
        file: String,
        /// Number of samples in the unit.
        rows: u64,
        /// Error of the last attempt with its causes.
        problem: String,
    },
    /// Another attempt made the unit first with other contents, and these stay.
    UnitDiscarded {
        /// Segment of the unit.
        segment: SegmentName,
        /// Key of the unit.
        key: Digest,
    },
    /// Another run holds the lease of the dataset; this run waits for its end.
    LeaseWaited {
        /// Folder of the other run.
        run: String,
        /// Process and host of the other run.
        holder: String,
    },
    /// This run took over the lease of a dead run.
    LeaseTakenOver {
        /// Folder of the dead run.
        run: String,
        /// Process and host of the dead run.
        holder: String,
    },
    /// Another run published this version first; this run plans again on top of it.
    Replanned {
        /// Number of the version.
        version: u32,
    },
    /// A window was committed; a follower may read it.
    WindowCommitted {
        /// Number of the window, from 0.
        window: u32,
        /// Number of windows of the plan.
        windows: u64,
        /// `true` if it belongs to the base version.
        was_there: bool,
        /// Number of its shards.
        shards: u64,
        /// Counts of its samples.
        samples: SampleLedger,
        /// Counts of its documents.
        documents: DocumentLedger,
    },
    /// A version was published.
    VersionPublished {
        /// Name of the dataset.
        dataset: String,
        /// Number of the version.
        version: u32,
        /// Version whose windows it keeps.
        base: Option<u32>,
        /// Counts of samples over all windows.
        samples: SampleLedger,
        /// Counts of documents over all windows.
        documents: DocumentLedger,
    },
    /// The trainer took a step.
    TrainingStep {
        /// Number of the step, from 1.
        step: u64,
        /// Number of steps of the training.
        steps: u64,
        /// Mean loss in nats per token.
        loss: Option<f64>,
        /// L2 norm of the gradient before clipping.
        gradient_norm: f64,
    },
    /// A checkpoint is complete.
    CheckpointWritten {
        /// Step of the checkpoint.
        step: u64,
        /// Folder of the checkpoint in the store.
        path: String,
    },
    /// The run refused a larger fraction of samples than allowed.
    RefusedTooMuch {
        /// Number of samples prepared.
        input: u64,
        /// Number of samples refused.
        refused: u64,
        /// Allowed fraction, 0 to 1.
        max_fraction: f64,
        /// Refused samples by reason.
        reasons: Reasons,
    },
    /// A signal arrived: the run finishes work in progress and begins nothing new.
    Stopping,
    /// The buffer overflowed with events while the store could not be written.
    EventsLost {
        /// Number of lost events.
        count: u64,
    },
    /// The last event of a run.
    RunEnded {
        /// Outcome of the run.
        #[serde(flatten)]
        end: RunEnd,
        /// Duration of the run.
        seconds: f64,
    },
}

impl Event {
    /// Makes the event for the finished unit of `record`, after `took`.
    #[must_use]
    pub fn unit_done(record: &UnitRecord, was_there: bool, took: Duration) -> Self {
        let (files, shards) = (record.files.values(), &record.shards);
        let of_samples = record.samples.as_ref().map(|samples| samples.refused.clone());
        Self::UnitDone {
            segment: record.segment,
            key: record.key,
            rows: files.clone().map(|file| file.rows).sum::<u64>() + shards.iter().map(|shard| shard.packs).sum::<u64>(),
            bytes: files.map(|file| file.bytes).sum::<u64>() + shards.iter().map(|shard| shard.bytes).sum::<u64>(),
            was_there,
            seconds: took.as_secs_f64(),
            refused: of_samples.or_else(|| Some(record.documents.as_ref()?.refused.clone())).unwrap_or_default(),
        }
    }

    /// Makes the event for the commit of `record`, one of `windows`.
    #[must_use]
    pub fn window_committed(record: &WindowRecord, windows: usize, was_there: bool) -> Self {
        Self::WindowCommitted {
            window: record.window,
            windows: windows as u64,
            was_there,
            shards: record.shards.len() as u64,
            samples: record.samples.clone(),
            documents: record.documents.clone(),
        }
    }

    /// Makes the event for the publication of `manifest`.
    #[must_use]
    pub fn version_published(manifest: &VersionManifest) -> Self {
        Self::VersionPublished {
            dataset: manifest.dataset.clone(),
            version: manifest.version,
            base: manifest.base,
            samples: manifest.samples.clone(),
            documents: manifest.documents.clone(),
        }
    }

    /// Returns the line for people; `None` for events that bars or the command's last output show.
    #[must_use]
    pub fn line(&self) -> Option<String> {
        match self {
            Self::ScanDone { sources, units, samples, .. } => Some(format!("{samples} samples in {units} units of {sources} sources")),
            Self::FitBegun { samples, .. } => Some(format!("fitting on {samples} train samples")),
            Self::UnitRetried { segment, key, attempt } => {
                Some(format!("unit {} of {} failed and is tried again, attempt {attempt}", key.short(), segment.name()))
            }
            Self::UnitQuarantined { segment, key, source, file, rows, problem } => Some(format!(
                "unit {} of {} is quarantined, {rows} samples of {file} in source {source} with it: {problem}",
                key.short(),
                segment.name()
            )),
            Self::LeaseWaited { run, holder } => Some(format!("waiting for {run}, {holder}")),
            Self::LeaseTakenOver { run, holder } => Some(format!("{run}, {holder}, is dead: its lease is taken over")),
            Self::Replanned { version } => Some(format!("another run published version {version} first; planning again from there")),
            Self::WindowCommitted { window, windows, samples, .. } => {
                Some(format!("window {} of {windows} committed: {samples}", window + 1))
            }
            Self::VersionPublished { dataset, version, .. } => Some(format!("version {version} of {dataset} is published")),
            Self::Stopping => Some("stopping at the next safe point, after 20 s at most; a second signal stops at once".into()),
            Self::EventsLost { count } => Some(format!("{count} events were lost: the store could not be written")),
            _ => None,
        }
    }
}

/// An event with its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimedEvent {
    /// Time in UTC, RFC 3339 with milliseconds.
    pub at: String,
    /// The event itself.
    #[serde(flatten)]
    pub event: Event,
}

impl TimedEvent {
    /// Stamps `event` with the current time.
    #[must_use]
    pub fn now(event: Event) -> Self {
        Self { at: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true), event }
    }

    /// Serializes to one line of JSON, without the newline.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("events hold nothing that JSON cannot")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_object_and_comes_back() {
        let units = BTreeMap::from([(SegmentName::Prepare, UnitsPlanned { there: 1, to_make: 2 })]);
        let event = Event::PlanMade {
            version: 2,
            base: Some(1),
            is_published: false,
            windows: 2,
            samples: 20,
            removed_samples: 0,
            changed_samples: 0,
            replayed_samples: 0,
            units,
        };
        let told = TimedEvent { at: "2026-01-02T03:04:05.678Z".into(), event };
        let json = told.to_json();
        assert_eq!(
            json,
            r#"{"at":"2026-01-02T03:04:05.678Z","event":"plan_made","version":2,"base":1,"is_published":false,"windows":2,"samples":20,"removed_samples":0,"changed_samples":0,"replayed_samples":0,"units":{"prepare":{"there":1,"to_make":2}}}"#
        );
        assert_eq!(serde_json::from_str::<TimedEvent>(&json).expect("its own form"), told);
    }

    #[test]
    fn a_unit_tells_rows_and_bytes_of_all_its_files() {
        let mut record = UnitRecord::new(SegmentName::Prepare, Digest::of(b"key"));
        for (name, bytes, rows) in [("prepared", 100, 3), ("refused", 10, 1)] {
            record.files.insert(name.into(), cm3flow_schemas::unit::UnitFile { digest: Digest::of(b"file"), bytes, rows });
        }
        record.samples = Some(SampleLedger { refused: BTreeMap::from([("filter.too_small".into(), 1)]), ..SampleLedger::default() });
        let Event::UnitDone { rows, bytes, refused, .. } = Event::unit_done(&record, false, Duration::ZERO) else {
            panic!("another event")
        };
        assert_eq!((rows, bytes, refused.len()), (4, 110, 1));
    }
}
