//! `mask.variants`: epochs read the same records with other masks, other retrieved documents and other wordings.

use std::collections::{BTreeMap, BTreeSet};

use cm3flow::run::RunOutcome;
use cm3flow::train::follow::Followed;
use cm3flow_schemas::document::{Role, check};
use cm3flow_schemas::pack::Pack;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::traits::PackSource;
use cm3flow_schemas::{DocumentId, SampleId, columns};
use cm3flow_stages::read::{BlockReader, PackOrder, PackReader, read_packs};
use cm3flow_tests::trial::{SMALL, Trial, corpus_source, documents};

const VARIANTS: u16 = 3;

fn trial(variants: u16) -> Trial {
    Trial::try_new(&format!("{SMALL}[mask]\nvariants = {variants}\n"), &corpus_source(10)).expect("a good configuration")
}

/// Returns the packs of one variant of a split, in the order of their shards.
async fn packs_of(trial: &Trial, outcome: &RunOutcome, split: Split, variant: u16) -> Vec<Pack> {
    let schema = columns::pack(outcome.manifest.seq_len as usize, outcome.manifest.vocabulary.width());
    let shards = outcome.windows.iter().flat_map(|window| &window.shards);
    let shards: Vec<_> = shards.filter(|shard| shard.split == split && shard.variant == variant).cloned().collect();
    read_packs(&mut BlockReader::new(trial.store.objects(), schema), &shards, usize::MAX).await.expect("whole")
}

/// Counts the documents of `packs` by sample and task.
fn records(packs: &[Pack]) -> BTreeMap<(SampleId, String), usize> {
    let mut counts = BTreeMap::new();
    for placed in packs.iter().flat_map(|pack| &pack.documents) {
        *counts.entry((placed.sample_id, placed.task.clone())).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn every_variant_holds_the_same_records_with_other_masks_and_neighbours() {
    let trial = trial(VARIANTS);
    let outcome = trial.run().await.expect("the run ends");
    let vocabulary = &outcome.manifest.vocabulary;
    let mut variants = Vec::new();
    for variant in 0..VARIANTS {
        variants.push(packs_of(&trial, &outcome, Split::Train, variant).await);
    }
    let mut ids: BTreeSet<DocumentId> = BTreeSet::new();
    let (mut masks, mut neighbours) = (BTreeSet::new(), BTreeSet::new());
    for packs in &variants {
        assert_eq!(records(packs), records(&variants[0]));
        for (placed, tokens, segments) in documents(packs) {
            check(&tokens, &segments, vocabulary).expect("whole documents");
            assert!(ids.insert(placed.document_id), "{} is in two variants", placed.document_id);
        }
        let of_role = |role: Role| -> Vec<_> {
            let all = documents(packs).map(|(placed, tokens, segments)| {
                let texts = segments.iter().filter(|segment| segment.role == role).map(|segment| tokens[segment.range()].to_vec());
                (placed.sample_id, placed.task.clone(), texts.collect::<Vec<_>>(), segments.len())
            });
            let mut all: Vec<_> = all.collect();
            all.sort();
            all
        };
        masks.insert(of_role(Role::SpanEnd));
        neighbours.insert(of_role(Role::Retrieved).into_iter().map(|(sample, task, texts, _)| (sample, task, texts)).collect::<Vec<_>>());
    }
    assert_eq!((masks.len(), neighbours.len()), (3, 3), "each variant has masks and neighbours of its own");

    let held_out = packs_of(&trial, &outcome, Split::HeldOut, 0).await;
    assert!(!held_out.is_empty() && packs_of(&trial, &outcome, Split::HeldOut, 1).await.is_empty(), "what is evaluated has one variant");
    let built = outcome.manifest.documents.packed as usize;
    assert_eq!(built, ids.len() + records(&held_out).values().sum::<usize>(), "the ledger counts the documents of all variants");
    let counted = &outcome.manifest.statistics[Split::Train.name()];
    assert_eq!(counted.variant_packs, variants.iter().map(|packs| packs.len() as u64).collect::<Vec<_>>());
    assert_eq!(counted.packs, counted.variant_packs.iter().sum::<u64>());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_variant_is_what_there_is_without_others() {
    let (one, several) = (trial(1), trial(VARIANTS));
    let alone = one.run().await.expect("the run ends");
    let among = several.run().await.expect("the run ends");
    for split in Split::ALL {
        assert_eq!(packs_of(&one, &alone, split, 0).await, packs_of(&several, &among, split, 0).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_reads_one_variant_an_epoch() {
    let trial = trial(VARIANTS);
    let outcome = trial.run().await.expect("the run ends");
    let mut epochs = Vec::new();
    for variant in (0..VARIANTS).chain(0..1) {
        let mut tokens: Vec<Vec<u32>> =
            packs_of(&trial, &outcome, Split::Train, variant).await.into_iter().map(|pack| pack.tokens).collect();
        tokens.sort_unstable();
        epochs.push(tokens);
    }
    let (seq_len, width) = (outcome.manifest.seq_len as usize, outcome.manifest.vocabulary.width());
    let feed = Followed::published(&outcome.windows).feed();
    let (objects, runtime) = (trial.store.objects(), tokio::runtime::Handle::current());
    let reading = tokio::task::spawn_blocking(move || {
        let order = PackOrder { split: Split::Train, seed: 1, seq_len };
        let mut reader = PackReader::new(objects, Box::new(feed), columns::pack(seq_len, width), order, runtime);
        for (number, wanted) in epochs.iter().enumerate() {
            let batch = reader.next_batch(wanted.len()).expect("packs follow");
            let mut read: Vec<Vec<u32>> = batch.tokens.chunks_exact(seq_len).map(<[u32]>::to_vec).collect();
            read.sort_unstable();
            assert!(read == *wanted, "epoch {number} reads other packs");
        }
    });
    reading.await.expect("no panic");
}
