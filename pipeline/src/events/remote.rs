//! Events and counts of worker processes: each answer for a unit carries them, and the leading run takes them over as its own.

use std::collections::BTreeMap;

use cm3flow_stages::StageCounts;
use serde::{Deserialize, Serialize};

use super::Event;
use crate::store::RequestCounts;

/// Events and counts of another process since its last report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RemoteReport {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) events: Vec<Event>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) stages: BTreeMap<String, StageCounts>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) requests: RequestCounts,
}
