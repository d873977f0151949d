//! Neighbours: other samples, different from the query and each other, from the bank alone.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use cm3flow_schemas::random::Draws;
use cm3flow_schemas::sample::RoleCodes;
use cm3flow_schemas::traits::{ImageView, PairEmbedder};
use cm3flow_schemas::{Digest, DynError};
use proptest::prelude::*;

use super::*;
use crate::conformance::{cases, check_stage, cuts_do_not_matter, output_table, rows_and_cuts, run_whole};
use crate::fixtures::{SEED, bank, elected, embedder_owner};
use crate::index::dot;
use crate::owner::Owner;
use crate::stage::Map;

const DIMENSION: usize = 12;

fn stage() -> Map<Retrieve> {
    Map(Retrieve::new(RetrieveConfig::default(), bank(), embedder_owner(), SEED))
}

/// Embedder of texts such as `x y z …`, whose numbers are the embedding, so that a test chooses the query.
struct SpelledOut;

impl PairEmbedder for SpelledOut {
    fn name(&self) -> &str {
        "spelled out"
    }

    fn digest(&self) -> Digest {
        Digest([0; 32])
    }

    fn dimension(&self) -> usize {
        DIMENSION
    }

    fn embed_texts(&mut self, texts: &[&str]) -> Result<Vec<f32>, DynError> {
        let row = |text: &&str| {
            let mut row: Vec<f32> = text.split(' ').map(|number| number.parse().unwrap_or(0.0)).collect();
            row.resize(DIMENSION, 0.0);
            row
        };
        Ok(texts.iter().flat_map(row).collect())
    }

    fn embed_images(&mut self, _: &[ImageView<'_>]) -> Result<Vec<f32>, DynError> {
        unreachable!("retrieval embeds texts alone")
    }
}

fn spelled_out() -> EmbedderOwner {
    Owner::spawn("spelled out", Box::new(SpelledOut) as Box<dyn PairEmbedder>).unwrap()
}

#[derive(Serialize, Clone)]
struct Banked {
    sample_id: SampleId,
    image_id: ImageId,
    captions: Vec<String>,
    codes: Vec<u32>,
    embedding: Vec<f32>,
}

fn banked(id: u8, embedding: &[f32]) -> Banked {
    let mut embedding = embedding.to_vec();
    embedding.resize(DIMENSION, 0.0);
    crate::embed::normalize(&mut embedding);
    Banked { sample_id: SampleId([id; 16]), image_id: ImageId([id; 16]), captions: vec!["a caption".into()], codes: vec![1], embedding }
}

fn bank_of(rows: &[Banked]) -> Arc<Bank> {
    let batch = rows::write(&columns::bank_sample(), rows).unwrap();
    Arc::new(Bank::try_new(&[batch]).unwrap())
}

#[derive(Serialize)]
struct Query {
    sample_id: SampleId,
    image_id: ImageId,
    source: String,
    key: String,
    row: u64,
    annotations: Annotations,
    width: u32,
    height: u32,
    image_codes: Vec<RoleCodes>,
    text_embedding: Vec<f32>,
    image_embedding: Vec<f32>,
}

fn query(id: u8, text: &[f32], image: &[f32]) -> Query {
    let padded = |values: &[f32]| {
        let mut values = values.to_vec();
        values.resize(DIMENSION, 0.0);
        crate::embed::normalize(&mut values);
        values
    };
    let spelled = text.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    Query {
        sample_id: SampleId([id; 16]),
        image_id: ImageId([id; 16]),
        source: "test".into(),
        key: String::new(),
        row: 0,
        annotations: Annotations { captions: vec![spelled], ..Annotations::default() },
        width: 1,
        height: 1,
        image_codes: vec![],
        text_embedding: padded(text),
        image_embedding: padded(image),
    }
}

/// Returns the ids of the neighbours of `query`, without query dropout.
fn neighbours(config: RetrieveConfig, bank: Arc<Bank>, query: Query) -> Vec<Neighbour> {
    let config = RetrieveConfig { query_dropout: 0.0, ..config };
    let batch = rows::write(&columns::prepared_sample(), &[query]).unwrap();
    let out = run_whole(Map(Retrieve::new(config, bank, spelled_out(), SEED)), &batch);
    neighbours_of(&out).remove(0)
}

fn neighbours_of(batch: &RecordBatch) -> Vec<Vec<Neighbour>> {
    #[derive(Deserialize)]
    struct Found {
        neighbours: Vec<Neighbour>,
    }
    rows::read::<Found>(batch, &[columns::NEIGHBOURS]).unwrap().into_iter().map(|row| row.neighbours).collect()
}

fn ids(neighbours: &[Neighbour]) -> Vec<u8> {
    let mut ids: Vec<u8> = neighbours.iter().map(|neighbour| neighbour.sample_id.0[0]).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn retrieve_keeps_the_contract() {
    let out = check_stage(stage, &elected());
    assert!(neighbours_of(&out).iter().any(|found| found.len() == 3), "the fixture has samples with neighbours");
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn retrieve_does_not_depend_on_cuts(case in rows_and_cuts(elected().num_rows())) {
        cuts_do_not_matter(stage, &elected(), &case)?;
    }

    #[test]
    fn neighbours_are_others_that_differ(seed in any::<u64>(), own in 0_u8..40) {
        let mut draws = Draws::new(seed, "test", b"");
        // The few directions make many rows repeat each other.
        let rows: Vec<Banked> = (0..40).map(|id| banked(id, &[draws.index(3) as f32, draws.index(3) as f32, draws.index(3) as f32 + 0.1])).collect();
        let bank = bank_of(&rows);
        let own = query(own, &[1.0, 0.0, 1.0], &[0.0, 1.0, 1.0]);
        let (own_id, pair) = (own.sample_id, pair_embedding(&own.text_embedding, &own.image_embedding));
        let found = neighbours(RetrieveConfig::default(), Arc::clone(&bank), own);
        prop_assert!(found.len() <= 3);
        let row_of = |sample| bank.row_of(sample).expect("neighbours are in the bank");
        for (number, neighbour) in found.iter().enumerate() {
            let row = row_of(neighbour.sample_id);
            prop_assert_ne!(neighbour.sample_id, own_id);
            prop_assert!((neighbour.similarity - dot(bank.embedding(row), &pair)).abs() < 1e-6);
            prop_assert!(neighbour.similarity <= 0.9);
            for other in &found[..number] {
                prop_assert!(other.similarity >= neighbour.similarity, "best first");
                prop_assert!(bank.similarity(row_of(other.sample_id), row) <= 0.9);
            }
        }
    }
}

#[test]
fn retrieve_schema() {
    insta::assert_snapshot!(output_table(&stage(), &elected().schema()));
}

#[test]
fn two_come_by_text_and_two_by_image_of_which_three_are_drawn() {
    // Rows 1 to 3 are near the text, 4 to 6 near the image; each has a coordinate of its own.
    let row = |id: u8, text: f32, image: f32| {
        let mut embedding = vec![text, image];
        embedding.resize(DIMENSION, 0.0);
        embedding[1 + id as usize] = 1.0;
        banked(id, &embedding)
    };
    let rows = [row(1, 0.9, 0.0), row(2, 0.8, 0.0), row(3, 0.1, 0.0), row(4, 0.0, 0.9), row(5, 0.0, 0.8), row(6, 0.0, 0.1)];
    let all = RetrieveConfig { documents: 4, ..RetrieveConfig::default() };
    let found = neighbours(all, bank_of(&rows), query(100, &[1.0], &[0.0, 1.0]));
    assert_eq!(ids(&found), [1, 2, 4, 5]);
    let drawn = |id| ids(&neighbours(RetrieveConfig::default(), bank_of(&rows), query(id, &[1.0], &[0.0, 1.0])));
    let distinct: std::collections::BTreeSet<Vec<u8>> = (100..130).map(drawn).collect();
    assert!(distinct.iter().all(|found| found.len() == 3 && found.iter().all(|id| [1, 2, 4, 5].contains(id))), "{distinct:?}");
    assert_eq!(distinct.len(), 4, "each of the four is left out for some sample");
    assert_eq!(drawn(100), drawn(100));
}

#[test]
fn a_sample_never_retrieves_itself_or_its_image() {
    let twin = Banked { image_id: ImageId([9; 16]), ..banked(1, &[0.5, 0.5, 1.0]) };
    let rows = [twin, banked(9, &[0.5, 0.5, 1.1]), banked(3, &[0.2, 0.2, 0.0, 1.0])];
    assert_eq!(ids(&neighbours(RetrieveConfig::default(), bank_of(&rows), query(9, &[1.0], &[0.0, 1.0]))), [3]);
}

#[test]
fn what_is_too_like_the_query_is_skipped() {
    let rows = [banked(1, &[1.0, 1.0]), banked(2, &[1.0, 1.0, 1.2])];
    let found = neighbours(RetrieveConfig::default(), bank_of(&rows), query(9, &[1.0], &[0.0, 1.0]));
    assert_eq!(ids(&found), [2]);
    let lenient = RetrieveConfig { max_similarity: 1.0, ..RetrieveConfig::default() };
    assert!(ids(&neighbours(lenient, bank_of(&rows), query(9, &[1.0], &[0.0, 1.0]))).contains(&2));
}

#[test]
fn pairs_with_both_sides_go_before_pairs_with_one() {
    let textless = Banked { captions: vec![], ..banked(1, &[1.0, 0.0, 1.0]) };
    let imageless = Banked { codes: vec![], ..banked(2, &[1.0, 0.0, 0.0, 1.0]) };
    let whole = banked(3, &[0.3, 0.0, 0.0, 0.0, 1.0]);
    let one = RetrieveConfig { documents: 1, by_text: 1, by_image: 0, ..RetrieveConfig::default() };
    assert_eq!(ids(&neighbours(one, bank_of(&[textless, imageless, whole]), query(9, &[1.0], &[]))), [3]);
}

#[test]
fn no_neighbours_are_looked_for_where_none_can_be() {
    let none = RetrieveConfig { documents: 0, ..RetrieveConfig::default() };
    assert!(neighbours(none, bank_of(&[banked(1, &[1.0, 0.0, 1.0])]), query(9, &[1.0], &[0.0, 1.0])).is_empty());
    assert!(neighbours(RetrieveConfig::default(), bank_of(&[]), query(9, &[1.0], &[0.0, 1.0])).is_empty());
    assert!(
        neighbours(RetrieveConfig::default(), bank_of(&[banked(1, &[1.0, 0.0, 1.0])]), query(9, &[], &[])).is_empty(),
        "an empty query"
    );
}

#[test]
fn a_bank_without_later_windows_gives_no_later_sample() {
    let window = |ids: &[u8]| {
        let rows: Vec<Banked> = ids.iter().map(|&id| banked(id, &[1.0, f32::from(id), 1.0])).collect();
        rows::write(&columns::bank_sample(), &rows).unwrap()
    };
    let windows = [window(&[1, 2]), window(&[3]), window(&[4, 5])];
    let seen = |until: usize| {
        let bank = Arc::new(Bank::try_new(&windows[..until]).unwrap());
        let lenient = RetrieveConfig { max_similarity: 1.0, documents: 4, ..RetrieveConfig::default() };
        ids(&neighbours(lenient, bank, query(9, &[1.0], &[0.0, 1.0])))
    };
    assert!(seen(2).iter().all(|id| *id <= 3), "{:?}", seen(2));
    assert!(seen(3).iter().any(|id| *id > 3), "{:?}", seen(3));
}

#[test]
fn held_out_samples_are_neighbours_of_none() {
    let (elected, out) = (elected(), run_whole(stage(), &elected()));
    let splits: HashMap<String, String> = crate::conformance::text_column(&elected, columns::SAMPLE_ID)
        .into_iter()
        .zip(crate::conformance::text_column(&elected, columns::SPLIT))
        .collect();
    assert!(splits.values().any(|split| split == "held_out"));
    for neighbour in neighbours_of(&out).into_iter().flatten() {
        assert_eq!(splits[&neighbour.sample_id.to_string()], "train");
    }
}

#[test]
fn a_fifth_of_the_querys_words_is_dropped() {
    let stage =
        |query_dropout| Retrieve::new(RetrieveConfig { query_dropout, ..RetrieveConfig::default() }, bank_of(&[]), spelled_out(), SEED);
    let caption = (0..20).map(|word| format!("word{word}")).collect::<Vec<_>>().join(" ");
    let kept = |stage: &Retrieve, id: u32| {
        let sample_id = SampleId(std::array::from_fn(|index| id.to_le_bytes()[index % 4]));
        let annotations = Annotations { captions: vec![caption.clone()], ..Annotations::default() };
        let row = In { sample_id, image_id: ImageId([0; 16]), annotations, text_embedding: vec![], image_embedding: vec![] };
        stage.query_text(&row).split(' ').count()
    };
    let total: usize = (0..1000).map(|id| kept(&stage(0.2), id)).sum();
    assert!((15_700..16_300).contains(&total), "{total} of 20,000 words");
    assert_eq!((0..100).map(|id| kept(&stage(0.0), id)).sum::<usize>(), 2000);
}

#[test]
fn every_bad_field_is_named_by_its_path() {
    assert!(RetrieveConfig::default().problems().is_empty());
    let config = RetrieveConfig { documents: 5, by_text: 2, by_image: 2, max_similarity: -1.0, query_dropout: 1.0, bank_rows: 0 };
    let problems = config.problems();
    assert_eq!(problems.len(), 4, "{problems:?}");
    assert!(problems.iter().all(|problem| problem.starts_with("retrieve.")), "{problems:?}");
}
