//! What the runtime itself is told: names, places, resources.

use cm3flow_model::device::DeviceChoice;
use cm3flow_stages::{ByteBudget, ChannelLimits};
use serde::{Deserialize, Serialize};

use crate::metrics::MetricsAddress;

/// `[dataset]`: what is made and where it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetConfig {
    /// Name of the dataset in paths: letters, digits, `-` and `_`.
    pub name: String,
    /// Seed of every draw.
    #[serde(default)]
    pub seed: u64,
    /// Address of the store: a path relative to the file, or a URL that `object_store` knows. Default `.cm3flow`.
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

/// A batch of photos takes more than this; with less, no two would ever wait.
const MIN_MEMORY_BUDGET: u64 = 1 << 20;

/// `[runtime]`: resources. They change no output, but `threads` is part of the numerics class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuntimeConfig {
    /// Units that are worked on at once, 1..=1024. Default: number of cores.
    pub workers: u32,
    /// Where tensors are computed. Default `auto`: CUDA when it is there.
    pub device: DeviceChoice,
    /// Threads of one tensor operation, 1..=1024. Default: number of cores.
    pub threads: u32,
    /// Processes that units are made in, 0..=1024. Default 0: all in the process of the run. In processes of their own, a unit that ends its
    /// process costs that unit alone.
    pub processes: u32,
    /// Bytes of batches that may wait between the stages of all units that are worked on at once, and of pictures that are decoded, 1 MiB or more;
    /// `processes` share it. A picture that takes more is decoded while no other one is. Default 256 MiB. What libtorch and Polars hold, and the rows
    /// of a unit until they are written, come on top.
    pub memory_budget: u64,
    /// How often a unit that fails, or that ends its process, is tried before it is quarantined, 1..=100. Default 3.
    pub unit_attempts: u32,
    /// Where metrics are offered for Prometheus while a command runs: a port of the loopback address, as 9464, or an address with a port, as
    /// `"0.0.0.0:9464"`. Nowhere by default.
    pub metrics: Option<MetricsAddress>,
    /// Fraction of the samples that a run may refuse, 0..=1; a run that refuses more stops and publishes nothing. Default 0.9, which only a run
    /// exceeds that has gone wrong; 1 allows any.
    pub max_refused_fraction: f64,
    /// Samples that a run must have looked at before that fraction stops it, 1 or more. Default 100: a few bad ones among a few new ones are no
    /// reason to stop.
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
        let fields = [
            ("workers", self.workers, 1..=1024),
            ("threads", self.threads, 1..=1024),
            ("processes", self.processes, 0..=1024),
            ("unit_attempts", self.unit_attempts, 1..=100),
        ];
        let bad = fields.into_iter().filter(|(_, value, range)| !range.contains(value));
        let mut problems: Vec<String> =
            bad.map(|(name, value, range)| format!("runtime.{name} must be in {range:?}, got {value}")).collect();
        if self.memory_budget < MIN_MEMORY_BUDGET {
            problems.push(format!("runtime.memory_budget must be {MIN_MEMORY_BUDGET} bytes or more, got {}", self.memory_budget));
        }
        if !(0.0..=1.0).contains(&self.max_refused_fraction) {
            problems.push(format!("runtime.max_refused_fraction must be in 0..=1, got {}", self.max_refused_fraction));
        }
        if self.max_refused_min_samples == 0 {
            problems.push("runtime.max_refused_min_samples must be 1 or more, got 0".into());
        }
        problems
    }
}

/// `[window]`: the horizon of deduplication, retrieval and shuffling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WindowConfig {
    /// Units of a window, 1..=65536. Default 16.
    pub units: u32,
}

impl Default for WindowConfig {
    fn default() -> Self {
        Self { units: 16 }
    }
}

impl WindowConfig {
    pub(super) fn problems(&self) -> Vec<String> {
        if (1..=65_536).contains(&self.units) { Vec::new() } else { vec![format!("window.units must be in 1..=65536, got {}", self.units)] }
    }
}
