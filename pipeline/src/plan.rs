//! The plan: which windows a run makes of which units, and the key of every unit, before any of them is worked on.

use std::collections::BTreeMap;

use cm3flow_schemas::Digest;
use cm3flow_schemas::canonical::digest_of;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::unit::{KeyParts, SegmentName};
use cm3flow_schemas::window::{SourceUnit, WindowRecord};
use cm3flow_stages::ingest::PlannedUnit;
use cm3flow_stages::{dedup, derive, embed, filter, index, ingest, instruct, mask, pack, retrieve, shard, shuffle, split, tokenize};
use futures::FutureExt;
use serde_json::{Value, json};

use crate::artefact::Artefacts;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::error::Result;
use crate::refused::{Replay, ReplayFilter, Settled};
use crate::scan::done_units;
pub use crate::scan::{Drift, FileRows, Scan, scan_sources};

/// Keys of the units of a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowKeys {
    /// One for each source unit.
    pub prepare: Vec<Digest>,
    /// The window's.
    pub settle: Digest,
    /// One for each source unit.
    pub compose: Vec<Digest>,
    /// One for each split, in the order of [`Split::ALL`].
    pub pack: Vec<Digest>,
}

impl WindowKeys {
    /// As the window record lists them.
    #[must_use]
    pub fn by_segment(&self) -> BTreeMap<String, Vec<Digest>> {
        let settle = vec![self.settle];
        let all = [
            (SegmentName::Prepare, &self.prepare),
            (SegmentName::Settle, &settle),
            (SegmentName::Compose, &self.compose),
            (SegmentName::Pack, &self.pack),
        ];
        all.into_iter().map(|(segment, keys)| (segment.name().to_owned(), keys.clone())).collect()
    }
}

/// Configuration that changes what is written, as the manifest holds it.
#[must_use]
pub fn output_config(config: &Config) -> Value {
    json!({
        "window": config.window,
        "filter": config.filter,
        "derive": config.derive,
        "embed": config.embed,
        "split": config.split,
        "dedup": config.dedup,
        "retrieve": config.retrieve,
        "instruct": config.instruct,
        "mask": config.mask,
        "pack": config.pack,
        "shard": config.shard,
    })
}

/// Makes the keys of a configuration.
struct KeyMaker<'a> {
    config: &'a Config,
    artefacts: &'a Artefacts,
}

impl KeyMaker<'_> {
    fn key(
        &self,
        segment: SegmentName,
        stages: &[(&'static str, u32)],
        config: &Value,
        (inputs, artefacts): (&[Digest], &[Digest]),
    ) -> Digest {
        let numerics = (segment == SegmentName::Prepare).then_some(&self.artefacts.image_spec.numerics);
        KeyParts { segment, stages, config, inputs, artefacts, seed: self.config.dataset.seed, numerics }.key()
    }

    fn prepare(&self, unit: &SourceUnit) -> Digest {
        let stages = [
            (ingest::NAME, ingest::REVISION),
            (filter::NAME, filter::REVISION),
            (derive::NAME, derive::REVISION),
            (tokenize::NAME, tokenize::REVISION),
            (embed::NAME, embed::REVISION),
        ];
        let Config { filter, derive, tokenize, .. } = self.config;
        let config = json!({"filter": filter, "derive": derive, "preparation": tokenize.image.preparation()});
        // The file's name and place do not matter, what is read of it does.
        let all = digest_of("source unit", &(&unit.source, unit.digest, unit.first_row, unit.rows));
        let input = if unit.only.is_empty() { all } else { digest_of("some rows", &(all, &unit.only)) };
        self.key(SegmentName::Prepare, &stages, &config, (&[input], &[self.artefacts.image_spec.digest, self.artefacts.embedder_digest]))
    }

    fn window(&self, settled_before: Option<Digest>, units: &[SourceUnit], blocklist: Option<Digest>) -> WindowKeys {
        let config = self.config;
        let prepare: Vec<Digest> = units.iter().map(|unit| self.prepare(unit)).collect();

        let stages = [(split::NAME, split::REVISION), (dedup::NAME, dedup::REVISION), (index::NAME, index::REVISION)];
        let inputs: Vec<Digest> = settled_before.into_iter().chain(prepare.iter().copied()).collect();
        let settings = json!({"split": config.split, "dedup": config.dedup, "first": settled_before.is_none()});
        let blocked: Vec<Digest> = blocklist.into_iter().collect();
        let settle = self.key(SegmentName::Settle, &stages, &settings, (&inputs, &blocked));

        let stages = [(retrieve::NAME, retrieve::REVISION), (instruct::NAME, instruct::REVISION), (mask::NAME, mask::REVISION)];
        let vocabulary = &self.artefacts.vocabulary;
        let settings = json!({
            "retrieve": config.retrieve,
            "instruct": config.instruct,
            "mask": config.mask,
            "seq_len": config.pack.seq_len,
            "vocabulary": vocabulary,
        });
        let artefacts = [self.artefacts.text.digest(), self.artefacts.embedder_digest];
        // Two units of one content differ in their place: one is kept, the other holds duplicates.
        let compose_key = |(place, prepared): (usize, &Digest)| {
            let inputs = [settle, *prepared, digest_of("place in the window", &place)];
            self.key(SegmentName::Compose, &stages, &settings, (&inputs, &artefacts))
        };
        let compose: Vec<Digest> = prepare.iter().enumerate().map(compose_key).collect();

        let stages = [(shuffle::NAME, shuffle::REVISION), (pack::NAME, pack::REVISION), (shard::NAME, shard::REVISION)];
        let pack_key = |split: Split| {
            let settings = json!({"pack": config.pack, "shard": config.shard, "vocabulary": vocabulary, "split": split});
            self.key(SegmentName::Pack, &stages, &settings, (&compose, &[]))
        };
        let pack = Split::ALL.map(pack_key).to_vec();
        WindowKeys { prepare, settle, compose, pack }
    }
}

/// A window to be made, or one of the base version.
#[derive(Debug)]
pub struct WindowPlan {
    /// Source units, in order.
    pub units: Vec<SourceUnit>,
    /// Where they are read from; empty for a window of the base version.
    pub sources: Vec<PlannedUnit>,
    /// Keys of everything that is made of them.
    pub keys: WindowKeys,
    /// Digest of the blocked ids that hold for it.
    pub blocklist: Option<Digest>,
    /// The committed window, for one of the base version.
    pub committed: Option<WindowRecord>,
}

/// What a run will do.
#[derive(Debug)]
pub struct Plan {
    /// Number of the version that comes out.
    pub version: u32,
    /// Version that it goes on from.
    pub base: Option<u32>,
    /// Whether the latest version is what would come out.
    pub is_published: bool,
    /// Digest of the keys of all windows.
    pub digest: Digest,
    /// Digest of the blocked ids of the latest version, which hold for new windows.
    pub blocklist: Option<Digest>,
    /// Windows, those of the base first.
    pub windows: Vec<WindowPlan>,
    /// How the sources differ from what the base was made of.
    pub drift: Drift,
    /// Why there is no base although there is a version: the first segment whose key is another one now.
    pub made_anew_from: Option<SegmentName>,
    /// Refused rows that are tried once more.
    pub replayed_samples: u64,
}

impl Plan {
    /// Plans a run over `scan`. The latest version is the base if this configuration would make the same windows of its units.
    ///
    /// # Errors
    /// What the store says.
    pub async fn make(config: &Config, artefacts: &Artefacts, catalog: &Catalog, scan: &Scan) -> Result<Self> {
        Self::make_replaying(config, artefacts, catalog, scan, None).await
    }

    /// As [`Self::make`], with refused rows of the latest version that are tried once more.
    ///
    /// # Errors
    /// What the store or a source says.
    pub async fn make_replaying(
        config: &Config,
        artefacts: &Artefacts,
        catalog: &Catalog,
        scan: &Scan,
        replay: Option<&ReplayFilter>,
    ) -> Result<Self> {
        let maker = KeyMaker { config, artefacts };
        let latest = catalog.latest_version().await?;
        let (mut windows, made_anew_from) = match &latest {
            Some(manifest) => rebase(&maker, catalog.windows_of(manifest).await?),
            None => (Vec::new(), None),
        };
        let base = latest.as_ref().filter(|_| !windows.is_empty()).map(|manifest| manifest.version);
        let base_windows = windows.len();
        let committed = || windows.iter().filter_map(|window: &WindowPlan| window.committed.as_ref());
        let settled = Settled::new(done_units(committed()));
        let drift = scan.drift(settled.without_mended(done_units(committed()), &scan.units));
        let mut fresh = scan.fresh(done_units(committed()));
        fresh.retain(|planned| !settled.holds(&planned.unit));
        let replayed = match replay {
            Some(asked) => {
                let windows: Vec<WindowRecord> = committed().cloned().collect();
                // Boxed, since the compiler cannot see through borrows this deep that the whole run may move between threads.
                Replay::plan((config, catalog), asked, &windows, (&scan.units, &fresh)).boxed().await?
            }
            None => Replay::default(),
        };
        let replayed_samples = replayed.rows();
        fresh.retain(|planned| !replayed.instead_of.contains(&planned.unit));
        fresh.extend(replayed.units);
        let blocklist = latest.as_ref().and_then(|manifest| manifest.blocklist);
        let mut settled_before = windows.last().map(|window: &WindowPlan| window.keys.settle);
        for sources in fresh.chunks(config.window.units as usize) {
            let units: Vec<SourceUnit> = sources.iter().map(|planned| planned.unit.clone()).collect();
            let keys = maker.window(settled_before, &units, blocklist);
            settled_before = Some(keys.settle);
            windows.push(WindowPlan { units, sources: sources.to_vec(), keys, blocklist, committed: None });
        }
        let version = latest.as_ref().map_or(1, |manifest| manifest.version + 1);
        let all_keys: Vec<_> = windows.iter().map(|window| window.keys.by_segment()).collect();
        let digest = digest_of("plan", &all_keys);
        Ok(Self {
            version,
            base,
            is_published: base.is_some() && windows.len() == base_windows,
            digest,
            blocklist,
            windows,
            drift,
            made_anew_from,
            replayed_samples,
        })
    }

    /// Number of the version that holds the plan's result.
    #[must_use]
    pub fn resulting_version(&self) -> u32 {
        self.base.filter(|_| self.is_published).unwrap_or(self.version)
    }
}

/// The windows of the latest version if the present configuration makes the same of their units; else none, and the first segment
/// that differs.
fn rebase(maker: &KeyMaker<'_>, records: Vec<WindowRecord>) -> (Vec<WindowPlan>, Option<SegmentName>) {
    let mut windows = Vec::new();
    let mut settled_before = None;
    for record in records {
        let keys = maker.window(settled_before, &record.units, record.blocklist);
        let now = keys.by_segment();
        let differs = |segment: &SegmentName| now.get(segment.name()) != record.keys.get(segment.name());
        if let Some(segment) = SegmentName::ALL.into_iter().find(differs) {
            return (Vec::new(), Some(segment));
        }
        settled_before = Some(keys.settle);
        windows.push(WindowPlan {
            units: record.units.clone(),
            sources: Vec::new(),
            keys,
            blocklist: record.blocklist,
            committed: Some(record),
        });
    }
    (windows, None)
}
