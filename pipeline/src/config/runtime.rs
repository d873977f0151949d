//! Sections for the runtime itself: names, places, resources.

use std::ops::{RangeFrom, RangeInclusive};

use cm3flow_model::device::DeviceChoice;
use cm3flow_schemas::limits::{problem, within};
use cm3flow_stages::{ByteBudget, ChannelLimits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::metrics::MetricsAddress;

/// `[dataset]`: the dataset that is made, and where it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetConfig {
    /// Name of the dataset in the store: letters, digits, `-` and `_`. A store may hold several datasets.
    pub name: String,
    /// Seed of all draws: the split, masks, wordings, retrieved pairs and orders.
    #[serde(default)]
    pub seed: u64,
    /// Address of the store: a path from this file's folder, or a URL (`s3://`, `gs://`, `az://`, `abfss://`, `memory://`).
    #[serde(default = "default_store")]
    pub store: String,
}

fn default_store() -> String {
    ".cm3flow".into()
}

impl DatasetConfig {
    pub(super) fn problems(&self) -> Vec<String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let mut problems = Vec::new();
        if self.name.is_empty() || !self.name.chars().all(is_plain) {
            problems.push(format!("dataset.name must consist of letters, digits, - and _, got {:?}", self.name));
        }
        if self.store.is_empty() {
            problems.push("dataset.store must not be empty".into());
        }
        problems
    }
}

const WORKERS: RangeInclusive<u32> = 1..=1024;
const THREADS: RangeInclusive<u32> = 1..=1024;
const PROCESSES: RangeInclusive<u32> = 0..=1024;
/// A batch of photos takes more than this; with less, no two would ever wait.
const MEMORY_BUDGET: RangeFrom<u64> = 1 << 20..;
const UNIT_ATTEMPTS: RangeInclusive<u32> = 1..=100;
const MAX_REFUSED_FRACTION: RangeInclusive<f64> = 0.0..=1.0;
const MAX_REFUSED_MIN_SAMPLES: RangeFrom<u64> = 1..;

/// `[runtime]`: resources of a run. They change no output, except that `device` and `threads` are part of the numerics class, within which results
/// have the same bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RuntimeConfig {
    /// Number of units worked on at once.
    #[schemars(transform = within(WORKERS), extend("x-default" = "the number of cores"))]
    pub workers: u32,
    /// Device for tensor operations.
    pub device: DeviceChoice,
    /// Number of threads of one tensor operation.
    #[schemars(transform = within(THREADS), extend("x-default" = "the number of cores"))]
    pub threads: u32,
    /// Number of processes that make units; 0 for the process of the run alone. In a process of its own, a unit that ends its process costs that unit
    /// alone.
    #[schemars(transform = within(PROCESSES))]
    pub processes: u32,
    /// Bytes of batches that wait between the stages of all units that are worked on at once, and of pictures that are decoded; `processes` share
    /// them. A picture that takes more is decoded while no other one is. Memory of libtorch and Polars, and the rows of a unit until they are
    /// written, come on top.
    #[schemars(transform = within(MEMORY_BUDGET))]
    pub memory_budget: u64,
    /// Number of attempts at a unit that fails, or ends its process, before it is quarantined.
    #[schemars(transform = within(UNIT_ATTEMPTS))]
    pub unit_attempts: u32,
    /// Address where metrics are offered for Prometheus while a command runs.
    #[schemars(extend("x-default" = "nowhere"))]
    pub metrics: Option<MetricsAddress>,
    /// Share of the samples that a run may refuse: one that refuses more stops and publishes nothing. Only a run that has gone wrong exceeds the
    /// default; 1 allows any.
    #[schemars(transform = within(MAX_REFUSED_FRACTION))]
    pub max_refused_fraction: f64,
    /// Number of samples that a run must have looked at before `max_refused_fraction` stops it: a few bad ones among a few new ones are no reason to
    /// stop.
    #[schemars(transform = within(MAX_REFUSED_MIN_SAMPLES))]
    pub max_refused_min_samples: u64,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        Self {
            workers: cores,
            device: DeviceChoice::Auto,
            threads: cores,
            processes: 0,
            memory_budget: 256 << 20,
            unit_attempts: 3,
            metrics: None,
            max_refused_fraction: 0.9,
            max_refused_min_samples: 100,
        }
    }
}

impl RuntimeConfig {
    /// Limits of the batches that wait between the stages of one of its processes, and of the pictures that it decodes.
    pub(crate) fn channel_limits(&self) -> ChannelLimits {
        let bytes = self.memory_budget / u64::from(self.processes.max(1));
        ChannelLimits::new(ByteBudget::new(usize::try_from(bytes).unwrap_or(usize::MAX)))
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let limits = [
            problem("runtime.workers", self.workers, &WORKERS),
            problem("runtime.threads", self.threads, &THREADS),
            problem("runtime.processes", self.processes, &PROCESSES),
            problem("runtime.memory_budget", self.memory_budget, &MEMORY_BUDGET),
            problem("runtime.unit_attempts", self.unit_attempts, &UNIT_ATTEMPTS),
            problem("runtime.max_refused_fraction", self.max_refused_fraction, &MAX_REFUSED_FRACTION),
            problem("runtime.max_refused_min_samples", self.max_refused_min_samples, &MAX_REFUSED_MIN_SAMPLES),
        ];
        limits.into_iter().flatten().collect()
    }
}

const UNITS: RangeInclusive<u32> = 1..=65_536;

/// `[window]`: the horizon of deduplication, retrieval and shuffling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WindowConfig {
    /// Number of units in a window, each of `source.unit_samples` samples. A window is deduplicated together with all windows before it, shuffled and packed
    /// as a whole, and a trainer that follows the run reads window by window. Larger windows mix better, take more memory and come later.
    #[schemars(transform = within(UNITS))]
    pub units: u32,
}

impl Default for WindowConfig {
    fn default() -> Self {
        Self { units: 16 }
    }
}

impl WindowConfig {
    pub(super) fn problems(&self) -> Vec<String> {
        problem("window.units", self.units, &UNITS).into_iter().collect()
    }
}
