//! Options of a reader from Python: one JSON text, so that both sides share one description.

use std::collections::BTreeMap;
use std::time::Duration;

use cm3flow_schemas::sample::Split;
use cm3flow_stages::read::{BatchReader, End, FollowTimes, Location, MixState, Phase, PoolLimits, Slice};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde::Deserialize;

use crate::error::raised;

/// Arguments of a reader.
pub(crate) struct Options {
    /// Addresses by name of the source, in order.
    pub sources: Vec<(String, String)>,
    pub store: BTreeMap<String, String>,
    pub phases: Vec<Phase>,
    pub seed: u64,
    pub split: Split,
    pub slice: Slice,
    pub end: End,
    pub limits: PoolLimits,
    /// Intervals of following the run that makes the version; `None` to read a published one.
    pub follow: Option<FollowTimes>,
}

impl Options {
    pub(crate) fn parse(text: &str) -> PyResult<Self> {
        let refused = |problem: String| PyValueError::new_err(problem);
        let value: serde_json::Value = serde_json::from_str(text).map_err(|error| refused(error.to_string()))?;
        let number = |name: &str| value[name].as_u64().ok_or_else(|| refused(format!("{name} must be a whole number, 0 or more")));
        let from = |name: &str| value[name].clone();
        let split = value["split"].as_str().unwrap_or_default().to_owned();
        let slice = Slice {
            batch_size: number("batch_size")?,
            rank: number("rank")?,
            world_size: number("world_size")?,
            worker: number("worker")?,
            workers: number("workers")?,
        };
        let epochs = || match number("epochs")? {
            0 => Err(refused("epochs must be at least 1, got 0".into())),
            epochs => Ok(epochs),
        };
        let end = match value["end"].as_str() {
            Some("repeat") => End::Repeat,
            Some("drop") => End::Drop { epochs: epochs()? },
            Some("pad") => End::Pad { epochs: epochs()? },
            _ => return Err(refused(format!("end must be \"repeat\", \"drop\" or \"pad\", got {}", value["end"]))),
        };
        let seconds = |name: &str| value[name].as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let follow = match value["follow"].as_bool() {
            Some(true) => {
                let look = seconds("follow_look_seconds").ok_or_else(|| refused("follow_look_seconds must be a time".into()))?;
                let silence = seconds("follow_silence_seconds").ok_or_else(|| refused("follow_silence_seconds must be a time".into()))?;
                Some(FollowTimes { look, silence })
            }
            _ => None,
        };
        let sources: Vec<(String, String)> =
            serde_json::from_value(from("sources")).map_err(|error| refused(format!("sources: {error}")))?;
        let store = serde_json::from_value(from("store")).map_err(|error| refused(format!("options: {error}")))?;
        Location::check_options(sources.iter().map(|(_, address)| address.as_str()), &store).map_err(raised)?;
        Ok(Self {
            sources,
            store,
            phases: serde_json::from_value(from("phases")).map_err(|error| refused(format!("schedule: {error}")))?,
            seed: number("seed")?,
            split: Split::try_from(split).map_err(refused)?,
            slice,
            end,
            limits: PoolLimits { prefetch_bytes: number("prefetch_bytes")?, cache_bytes: number("cache_bytes")? },
            follow,
        })
    }
}

/// Place where a reader begins, from Python.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Start {
    /// State of all ranks and workers.
    state: Option<MixState>,
    /// Last batch of this same worker, instead.
    last: Option<MixState>,
    /// Next batch of this same worker in pass 0, instead: the form of earlier releases.
    next: Option<MixState>,
    /// Pass to begin with, unless the state lies in it.
    epoch: Option<u64>,
    /// `true` to begin with the next pass if nothing is left of that of the state.
    or_next: bool,
}

impl Start {
    pub(crate) fn parse(text: &str) -> PyResult<Self> {
        serde_json::from_str(text).map_err(|error| PyValueError::new_err(format!("this is no state of a reader: {error}")))
    }

    /// Moves a new reader to the place.
    pub(crate) fn apply(&self, batches: &mut BatchReader) -> PyResult<()> {
        match (&self.last, &self.next, &self.state) {
            (Some(last), _, _) => batches.restore_behind_own(last),
            (_, Some(next), _) => batches.restore_worker(next, 0),
            (_, _, Some(state)) => batches.restore(state, self.or_next),
            (None, None, None) => Ok(()),
        }
        .map_err(raised)?;
        if let Some(epoch) = self.epoch {
            batches.begin_pass(epoch);
        }
        Ok(())
    }
}
