//! What a process that makes units for a run tells and counts meanwhile: it rides on the answer for each unit, and the run tells it as its own.

use std::collections::BTreeMap;

use cm3flow_stages::{
    StageCounts, annotate, dedup, derive, embed, filter, index, ingest, instruct, mask, pack, retrieve, shard, shuffle, split, tokenize,
};
use serde::{Deserialize, Serialize};

use super::Event;
use crate::store::RequestCounts;

/// Stages whose counts are taken over.
const STAGES: [&str; 15] = [
    ingest::NAME,
    filter::NAME,
    derive::NAME,
    annotate::NAME,
    tokenize::NAME,
    embed::NAME,
    split::NAME,
    dedup::NAME,
    index::NAME,
    retrieve::NAME,
    instruct::NAME,
    mask::NAME,
    shuffle::NAME,
    pack::NAME,
    shard::NAME,
];

/// What was told and counted in another process since its last report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Elsewhere {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) events: Vec<Event>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) stages: BTreeMap<String, StageCounts>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) requests: RequestCounts,
}

impl Elsewhere {
    /// The stages by the names that meters have.
    pub(crate) fn stages(&self) -> impl Iterator<Item = (&'static str, &StageCounts)> {
        STAGES.into_iter().filter_map(|stage| Some((stage, self.stages.get(stage)?)))
    }
}
