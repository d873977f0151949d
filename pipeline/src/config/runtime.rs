//! What the runtime itself is told: names, places, resources.

use cm3flow_model::device::DeviceChoice;
use serde::{Deserialize, Serialize};

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

/// `[runtime]`: resources. They change no output, but `threads` is part of the numerics class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// How often a unit that fails, or that ends its process, is tried before it is quarantined, 1..=100. Default 3.
    pub unit_attempts: u32,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        Self { workers: cores, device: DeviceChoice::Auto, threads: cores, processes: 0, unit_attempts: 3 }
    }
}

impl RuntimeConfig {
    pub(super) fn problems(&self) -> Vec<String> {
        let fields = [
            ("workers", self.workers, 1..=1024),
            ("threads", self.threads, 1..=1024),
            ("processes", self.processes, 0..=1024),
            ("unit_attempts", self.unit_attempts, 1..=100),
        ];
        let bad = fields.into_iter().filter(|(_, value, range)| !range.contains(value));
        bad.map(|(name, value, range)| format!("runtime.{name} must be in {range:?}, got {value}")).collect()
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
