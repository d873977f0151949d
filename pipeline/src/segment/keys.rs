//! The keys of units: what each is made of, before any of them is worked on.

use std::collections::BTreeMap;

use cm3flow_schemas::Digest;
use cm3flow_schemas::canonical::digest_of;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::unit::{KeyParts, SegmentName};
use cm3flow_schemas::window::SourceUnit;
use cm3flow_stages::{
    annotate, dedup, derive, embed, filter, index, ingest, instruct, mask, pack, retrieve, shard, shuffle, split, tokenize,
};
use serde_json::{Value, json};

use crate::artefact::Artefacts;
use crate::config::Config;

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
