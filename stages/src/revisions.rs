//! Outputs of all stages on the test data, by revision. A stage whose output changes must raise its revision; otherwise existing units
//! would be reused as if the present code had made them.
//!
//! `fixtures/revisions.tsv` has a line for each stage: name, revision, digest of the input, digest of the output. After a revision is
//! raised or the test data change, `CM3FLOW_UPDATE=1` rewrites the file. It refuses if a stage lacks a new revision.

use std::path::Path;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::ipc::writer::StreamWriter;
use cm3flow_schemas::Digest;

use crate::conformance::run_whole;
use crate::shard::ShardConfig;
use crate::stage::Map;
use crate::{
    annotate, dedup, derive, embed, filter, fixtures, index, ingest, instruct, mask, pack, retrieve, shard, shuffle, split, tokenize,
};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    stage: String,
    revision: u32,
    input: String,
    output: String,
}

impl Line {
    fn of((stage, revision): (&str, u32), input: &RecordBatch, output: &RecordBatch) -> Self {
        Self { stage: stage.to_owned(), revision, input: digest(input), output: digest(output) }
    }

    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split('\t').collect();
        let [stage, revision, input, output] = fields[..] else { return None };
        Some(Self { stage: stage.to_owned(), revision: revision.parse().ok()?, input: input.to_owned(), output: output.to_owned() })
    }

    /// Checks whether the stage changed its output without a new revision.
    fn is_unannounced(&self, before: &Self) -> bool {
        self.revision == before.revision && self.input == before.input && self.output != before.output
    }
}

/// Returns the digest of the values; a slice and a copy of it have the same one.
fn digest(batch: &RecordBatch) -> String {
    let copied = concat_batches(&batch.schema(), [batch]).expect("one batch");
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).expect("memory");
    writer.write(&copied).expect("memory");
    Digest::of(&writer.into_inner().expect("memory")).to_string()
}

fn lines() -> Vec<Line> {
    let (masked, packed) = (fixtures::kept(&fixtures::masked()), fixtures::packed());
    let shuffled = run_whole(shuffle::Shuffle::new(fixtures::SEED), &masked);
    let bank = run_whole(Map(index::Index), &fixtures::settled());
    let (files, ingested) = ingest::tests::every_format();
    let mut lines = vec![
        Line { stage: ingest::NAME.to_owned(), revision: ingest::REVISION, input: files.to_string(), output: digest(&ingested) },
        Line::of((filter::NAME, filter::REVISION), &fixtures::raw(), &fixtures::filtered()),
        Line::of((derive::NAME, derive::REVISION), &fixtures::filtered(), &fixtures::derived()),
        Line::of((annotate::NAME, annotate::REVISION), &fixtures::derived(), &fixtures::annotated()),
        Line::of((tokenize::NAME, tokenize::REVISION), &fixtures::derived(), &fixtures::tokenized()),
        Line::of((embed::NAME, embed::REVISION), &fixtures::tokenized(), &fixtures::embedded()),
        Line::of((split::NAME, split::REVISION), &fixtures::prepared(), &fixtures::split()),
        Line::of((dedup::NAME, dedup::REVISION), &fixtures::split(), &fixtures::settled()),
        Line::of((index::NAME, index::REVISION), &fixtures::settled(), &bank),
        Line::of((retrieve::NAME, retrieve::REVISION), &fixtures::elected(), &fixtures::retrieved()),
        Line::of((instruct::NAME, instruct::REVISION), &fixtures::retrieved(), &fixtures::documents()),
        Line::of((mask::NAME, mask::REVISION), &fixtures::documents(), &fixtures::masked()),
        Line::of((shuffle::NAME, shuffle::REVISION), &masked, &shuffled),
        Line::of((pack::NAME, pack::REVISION), &masked, &packed),
    ];
    let shards =
        shard::write(&ShardConfig::default(), cm3flow_schemas::sample::Split::Train, &packed.schema(), std::slice::from_ref(&packed), 512);
    let written: Vec<u8> = shards.expect("packs of one schema").into_iter().flat_map(|shard| shard.bytes).collect();
    lines.push(Line {
        stage: shard::NAME.to_owned(),
        revision: shard::REVISION,
        input: digest(&packed),
        output: Digest::of(&written).to_string(),
    });
    lines
}

#[test]
fn no_stage_changes_what_it_makes_without_a_new_revision() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/revisions.tsv");
    let before: Vec<Line> = std::fs::read_to_string(&file).unwrap_or_default().lines().filter_map(Line::parse).collect();
    let now = lines();
    for line in &now {
        let same = before.iter().find(|before| before.stage == line.stage);
        assert!(
            !same.is_some_and(|before| line.is_unannounced(before)),
            "{} makes something else of the same input: raise {}::REVISION, then run this test with CM3FLOW_UPDATE=1",
            line.stage,
            line.stage
        );
    }
    if std::env::var_os("CM3FLOW_UPDATE").is_some() {
        let text: String = now.iter().map(|line| format!("{}\t{}\t{}\t{}\n", line.stage, line.revision, line.input, line.output)).collect();
        std::fs::write(&file, text).expect("part of the repository");
    } else {
        assert_eq!(now, before, "a revision or the fixtures changed: run this test with CM3FLOW_UPDATE=1 to record it");
    }
}

#[test]
fn a_change_without_a_new_revision_is_noticed() {
    let before = Line::parse("mask\t1\taa\tbb").expect("four fields");
    assert!(Line { output: "cc".into(), ..before.clone() }.is_unannounced(&before));
    assert!(!Line { output: "cc".into(), revision: 2, ..before.clone() }.is_unannounced(&before));
    assert!(!Line { output: "cc".into(), input: "dd".into(), ..before.clone() }.is_unannounced(&before));
}
