//! What a run tells of itself, in one typed enum: for people, for programs (`--json`), for metrics, and for the events file of the run.
//!
//! [`crate::events::progress::Progress::tell`] is the one place that gets events. They hold times, so they lie under `runs/` alone.

mod buffer;
mod elsewhere;
pub mod progress;
mod recording;
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

use crate::error::PipelineError;

pub(crate) use elsewhere::Elsewhere;
pub use recording::Recording;
pub(crate) use reporter::Reporter;
pub(crate) use scope::RunScope;

/// Counts by `stage.reason`.
pub type Reasons = BTreeMap<String, u64>;

/// Units of a segment in a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitsPlanned {
    /// Those of windows of the base version.
    pub there: u64,
    /// All others; some of them may turn out to be there from an earlier run.
    pub to_make: u64,
}

/// How a run ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnd {
    /// As the process returns it: 0 done, 1 failed, 2 the user's mistake, 3 done but for units that are quarantined.
    pub exit_code: u8,
    /// What stopped it, with its causes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Version that was published or was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Whether everything was there before.
    #[serde(default)]
    pub nothing_to_do: bool,
    /// Samples of units that are quarantined.
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
    /// That `error` stopped it.
    #[must_use]
    pub fn failed(error: &PipelineError) -> Self {
        Self { exit_code: error.exit_code(), reason: Some(error.with_causes()), ..Self::default() }
    }
}

/// Something that a run tells. Serialized as an object whose `event` is the name of the variant in snake_case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first event of a run.
    RunStarted {
        /// Name of the run: its folder below `runs/`.
        run: String,
        /// The dataset.
        dataset: String,
        /// Version of this program.
        cm3flow: String,
    },
    /// All sources were looked through.
    ScanDone {
        /// Sources.
        sources: u64,
        /// Units that they hold.
        units: u64,
        /// Samples that they hold.
        samples: u64,
        /// Bytes of their files, as far as listed.
        bytes: u64,
        /// Time that it took.
        seconds: f64,
    },
    /// Artefacts are missing and are fitted now.
    FitBegun {
        /// Their names.
        artefacts: Vec<String>,
        /// Train samples that they are fitted on.
        samples: u64,
    },
    /// An artefact was fitted.
    FitDone {
        /// Its name.
        artefact: String,
        /// Digest of its bytes.
        digest: Digest,
        /// Time that it took.
        seconds: f64,
    },
    /// What will be made is known.
    PlanMade {
        /// Version that comes out.
        version: u32,
        /// Version that it goes on from.
        base: Option<u32>,
        /// Whether it is published already.
        is_published: bool,
        /// Windows of the plan, those of the base included.
        windows: u64,
        /// Samples of the units that are to be made.
        samples: u64,
        /// Samples of the base that the sources no longer hold.
        removed_samples: u64,
        /// Samples of the base whose units changed in the sources.
        #[serde(default)]
        changed_samples: u64,
        /// Refused samples that are tried once more.
        #[serde(default)]
        replayed_samples: u64,
        /// Units by segment.
        units: BTreeMap<SegmentName, UnitsPlanned>,
    },
    /// A unit is there.
    UnitDone {
        /// Its segment.
        segment: SegmentName,
        /// Its key.
        key: Digest,
        /// Rows of all its files, or packs of all its shards.
        rows: u64,
        /// Bytes of all its files and shards.
        bytes: u64,
        /// Whether it was there before.
        was_there: bool,
        /// Time that it took.
        seconds: f64,
        /// Samples, or in `compose` documents, that it refused.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        refused: Reasons,
    },
    /// An attempt at a unit failed.
    UnitFailed {
        /// Its segment.
        segment: SegmentName,
        /// Its key.
        key: Digest,
        /// What went wrong.
        problem: String,
    },
    /// A unit that failed is tried again.
    UnitRetried {
        /// Its segment.
        segment: SegmentName,
        /// Its key.
        key: Digest,
        /// Number of the attempt, from 2.
        attempt: u32,
    },
    /// A unit was given up; the run goes on without it.
    UnitQuarantined {
        /// Its segment.
        segment: SegmentName,
        /// Its key.
        key: Digest,
        /// Source by its name in the configuration.
        source: String,
        /// File of the source.
        file: String,
        /// Samples that are lost with it.
        rows: u64,
        /// What went wrong.
        problem: String,
    },
    /// Another attempt made the unit with other contents first; that one stays.
    UnitDiscarded {
        /// Its segment.
        segment: SegmentName,
        /// Its key.
        key: Digest,
    },
    /// Another run holds the lease of the dataset, and this one waits until it ends.
    LeaseWaited {
        /// Folder of the other run.
        run: String,
        /// Its process.
        holder: String,
    },
    /// The lease of a run that is dead was taken over.
    LeaseTakenOver {
        /// Folder of the other run.
        run: String,
        /// Its process.
        holder: String,
    },
    /// Another run published this version first; this one plans again from there.
    Replanned {
        /// The version.
        version: u32,
    },
    /// A window was committed; a follower may read it.
    WindowCommitted {
        /// Number of the window, from 0.
        window: u32,
        /// Windows of the plan.
        windows: u64,
        /// Whether it is one of the base version.
        was_there: bool,
        /// Shards.
        shards: u64,
        /// Samples.
        samples: SampleLedger,
        /// Documents.
        documents: DocumentLedger,
    },
    /// A version was published.
    VersionPublished {
        /// The dataset.
        dataset: String,
        /// The version.
        version: u32,
        /// Version that it goes on from.
        base: Option<u32>,
        /// Samples, over all windows.
        samples: SampleLedger,
        /// Documents, over all windows.
        documents: DocumentLedger,
    },
    /// The trainer took a step.
    TrainingStep {
        /// The step, from 1.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Mean loss in nats per token.
        loss: Option<f64>,
        /// Length of the gradient before clipping.
        gradient_norm: f64,
    },
    /// A checkpoint is complete.
    CheckpointWritten {
        /// Step of the training.
        step: u64,
        /// Folder in the store.
        path: String,
    },
    /// More was refused than allowed.
    RefusedTooMuch {
        /// Samples looked at.
        input: u64,
        /// Samples refused.
        refused: u64,
        /// Fraction that is allowed.
        max_fraction: f64,
        /// All reasons.
        reasons: Reasons,
    },
    /// A signal came: what is under way is finished, and nothing new is begun.
    Stopping,
    /// Events did not fit into the buffer while the store could not be written.
    EventsLost {
        /// How many.
        count: u64,
    },
    /// The last event of a run.
    RunEnded {
        /// How it ended.
        #[serde(flatten)]
        end: RunEnd,
        /// Time that it took.
        seconds: f64,
    },
}

impl Event {
    /// That `record` is there, after `took`.
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

    /// That `record` is committed as one of `windows`.
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

    /// That the version of `manifest` is published.
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

    /// What a person is told; `None` for what bars show, or what the command says at its end.
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
            Self::Stopping => Some("stopping: what is under way is finished; a second signal stops at once".into()),
            Self::EventsLost { count } => Some(format!("{count} events were lost: the store could not be written")),
            _ => None,
        }
    }
}

/// An event with its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// RFC 3339, UTC, with milliseconds.
    pub at: String,
    /// What was told.
    #[serde(flatten)]
    pub event: Event,
}

impl Told {
    /// `event` with the present time.
    #[must_use]
    pub fn now(event: Event) -> Self {
        Self { at: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true), event }
    }

    /// One line of JSON, without the newline.
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
        let told = Told { at: "2026-01-02T03:04:05.678Z".into(), event };
        let json = told.to_json();
        assert_eq!(
            json,
            r#"{"at":"2026-01-02T03:04:05.678Z","event":"plan_made","version":2,"base":1,"is_published":false,"windows":2,"samples":20,"removed_samples":0,"changed_samples":0,"replayed_samples":0,"units":{"prepare":{"there":1,"to_make":2}}}"#
        );
        assert_eq!(serde_json::from_str::<Told>(&json).expect("its own form"), told);
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
