//! The plan: which windows a run makes of which units, and the key of every unit, before any of them is worked on.

mod record;

use std::collections::BTreeMap;

use cm3flow_schemas::Digest;
use cm3flow_schemas::canonical::digest_of;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::unit::{KeyParts, SegmentName};
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::{QuarantinedUnit, SourceUnit, WindowRecord};
use cm3flow_stages::ingest::{PlannedUnit, RowSettings, SourceConfig};
use cm3flow_stages::{
    annotate, dedup, derive, embed, filter, index, ingest, instruct, mask, pack, retrieve, shard, shuffle, split, tokenize,
};
use futures::FutureExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::artefact::Artefacts;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::error::Result;
use crate::refused::{Replay, ReplayFilter, Settled};
use crate::scan::done_units;
pub use crate::scan::{Drift, FileRows, Scan, scan_sources};

pub(crate) use record::{KeptPlan, RunPlan};

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
    /// The key of the packs of `split`.
    #[must_use]
    pub fn pack_of(&self, split: Split) -> Digest {
        let place = Split::ALL.iter().position(|found| *found == split).expect("a split is one of all");
        self.pack[place]
    }

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

impl WindowPlan {
    /// A window as it was made, from its record; all of it is to be made again. `None` if the record does not name all keys.
    #[must_use]
    pub fn of_record(record: &WindowRecord) -> Option<Self> {
        let keys = |segment: SegmentName| record.keys.get(segment.name()).cloned();
        let keys = WindowKeys {
            prepare: keys(SegmentName::Prepare)?,
            settle: *keys(SegmentName::Settle)?.first()?,
            compose: keys(SegmentName::Compose)?,
            pack: keys(SegmentName::Pack)?,
        };
        let (units, quarantined) = (record.units.clone(), record.quarantined.clone());
        Some(Self { units, sources: Vec::new(), keys, blocklist: record.blocklist, quarantined, committed: None })
    }

    /// A window of `units` after the one that was settled as `settled_before`, as this configuration makes it.
    #[must_use]
    pub fn of_units(
        config: &Config,
        artefacts: &Artefacts,
        settled_before: Option<Digest>,
        units: Vec<SourceUnit>,
        blocklist: Option<Digest>,
    ) -> Self {
        let keys = KeyMaker { config, artefacts }.window(settled_before, &units, blocklist);
        Self { units, sources: Vec::new(), keys, blocklist, quarantined: Vec::new(), committed: None }
    }
}

/// Digest of the keys of all windows.
#[must_use]
pub(crate) fn digest_of_windows(windows: &[WindowRecord]) -> Digest {
    digest_of("plan", &windows.iter().map(|window| &window.keys).collect::<Vec<_>>())
}

/// `config` with what the version of `manifest` was made with. Sections that this release cannot read stay as they are.
#[must_use]
pub(crate) fn config_of_version(config: &Config, manifest: &VersionManifest) -> Config {
    fn section<T: DeserializeOwned>(manifest: &VersionManifest, name: &str, into: &mut T) {
        if let Ok(recorded) = serde_json::from_value(manifest.config[name].clone()) {
            *into = recorded;
        }
    }
    let mut config = config.clone();
    config.dataset.seed = manifest.seed;
    let mut sources: BTreeMap<String, RowSettings> = BTreeMap::new();
    section(manifest, "source", &mut sources);
    let recorded = |source: SourceConfig| {
        let rows = sources.get(&source.name).copied().unwrap_or_default();
        source.with_row_settings(rows)
    };
    config.source = config.source.into_iter().map(recorded).collect();
    section(manifest, "window", &mut config.window);
    section(manifest, "filter", &mut config.filter);
    section(manifest, "derive", &mut config.derive);
    config.annotate = config.annotate.with_settings(&manifest.config["annotate"]);
    section(manifest, "embed", &mut config.embed);
    section(manifest, "split", &mut config.split);
    section(manifest, "dedup", &mut config.dedup);
    section(manifest, "retrieve", &mut config.retrieve);
    section(manifest, "instruct", &mut config.instruct);
    section(manifest, "mask", &mut config.mask);
    section(manifest, "pack", &mut config.pack);
    section(manifest, "shard", &mut config.shard);
    config
}

/// Configuration that changes what is written, as the manifest holds it.
#[must_use]
pub fn output_config(config: &Config) -> Value {
    let mut output = json!({
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
    });
    if let Some(annotate) = config.annotate.canonical(config.tokenize.image.preparation().side_px) {
        output["annotate"] = annotate;
    }
    let sources = config.source.iter().map(|source| (source.name.as_str(), source.row_settings()));
    let sources: BTreeMap<&str, RowSettings> = sources.filter(|(_, rows)| !rows.is_default()).collect();
    if !sources.is_empty() {
        output["source"] = json!(sources);
    }
    output
}

/// Makes the keys of a configuration.
#[derive(Clone, Copy)]
pub(crate) struct KeyMaker<'a> {
    pub config: &'a Config,
    pub artefacts: &'a Artefacts,
}

impl KeyMaker<'_> {
    fn key(
        &self,
        segment: SegmentName,
        stages: &[(&'static str, u32)],
        config: &Value,
        (inputs, artefacts): (&[Digest], &[Digest]),
    ) -> Digest {
        let numerics = (segment == SegmentName::Prepare).then_some(&self.artefacts.numerics);
        KeyParts { segment, stages, config, inputs, artefacts, seed: self.config.dataset.seed, numerics }.key()
    }

    fn prepare(&self, unit: &SourceUnit) -> Digest {
        let mut stages = vec![
            (ingest::NAME, ingest::REVISION),
            (filter::NAME, filter::REVISION),
            (derive::NAME, derive::REVISION),
            (tokenize::NAME, tokenize::REVISION),
            (embed::NAME, embed::REVISION),
        ];
        let Config { filter, derive, annotate: annotators, tokenize, .. } = self.config;
        let preparation = tokenize.image.preparation();
        let mut config = json!({"filter": filter, "derive": derive, "preparation": preparation});
        let mut artefacts = vec![self.artefacts.image_spec.digest, self.artefacts.embedder_digest];
        if let Some(settings) = annotators.canonical(preparation.side_px) {
            stages.insert(3, (annotate::NAME, annotate::REVISION));
            config["annotate"] = settings;
            artefacts.extend(self.artefacts.annotators.iter().map(|annotator| annotator.spec.digest));
        }
        let roles = self.config.further_roles(&unit.source);
        if !roles.is_empty() {
            config["roles"] = json!(roles);
        }
        let rows = self.config.row_settings(&unit.source);
        if !rows.is_default() {
            config["source"] = json!(rows);
        }
        // The file's name and place do not matter, what is read of it does.
        let all = digest_of("source unit", &(&unit.source, unit.digest, unit.first_row, unit.rows));
        let input = if unit.only.is_empty() { all } else { digest_of("some rows", &(all, &unit.only)) };
        self.key(SegmentName::Prepare, &stages, &config, (&[input], &artefacts))
    }

    /// Keys of the window of `units` behind the one with the settle key `settled_before`.
    pub(crate) fn window(&self, settled_before: Option<Digest>, units: &[SourceUnit], blocklist: Option<Digest>) -> WindowKeys {
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
    /// Units beside them that could not be worked on.
    pub quarantined: Vec<QuarantinedUnit>,
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
            windows.push(WindowPlan { units, sources: sources.to_vec(), keys, blocklist, quarantined: Vec::new(), committed: None });
        }
        let version = latest.as_ref().map_or(1, |manifest| manifest.version + 1);
        Ok(Self {
            version,
            base,
            is_published: base.is_some() && windows.len() == base_windows,
            blocklist,
            windows,
            drift,
            made_anew_from,
            replayed_samples,
        })
    }

    /// The plan of a version that is published, to make all of `windows` again.
    #[must_use]
    pub fn of_version(manifest: &VersionManifest, windows: Vec<WindowPlan>) -> Self {
        Self {
            version: manifest.version,
            base: manifest.base,
            is_published: false,
            blocklist: manifest.blocklist,
            windows,
            drift: Drift::default(),
            made_anew_from: None,
            replayed_samples: 0,
        }
    }

    /// The first segment of which this configuration makes other units than those of `records`, if there is one.
    #[must_use]
    pub fn differs_from(config: &Config, artefacts: &Artefacts, records: &[WindowRecord]) -> Option<SegmentName> {
        rebase(&KeyMaker { config, artefacts }, records.to_vec()).1
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
            quarantined: record.quarantined.clone(),
            committed: Some(record),
        });
    }
    (windows, None)
}
