//! Packs: documents are whole and unaltered, and packs are full.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use cm3flow_schemas::document::{self, DocumentBuilder, Modality, Role};
use cm3flow_schemas::random::Draws;
use proptest::prelude::*;

use super::*;
use crate::conformance::{cases, check_stage, cuts_do_not_matter, output_table, rows_and_cuts, run, run_whole};
use crate::fixtures::{SEED, SEQ_LEN, kept, masked, vocabulary};

fn stage() -> Pack {
    Pack::new(&PackConfig { seq_len: SEQ_LEN }, vocabulary(), SEED)
}

fn packs_of(batch: &RecordBatch) -> Vec<PackRow> {
    rows::read(batch, &[columns::TOKENS, columns::SEGMENTS, columns::DOCUMENTS]).unwrap()
}

fn inputs(batch: &RecordBatch) -> Vec<In> {
    rows::read(batch, &[columns::DOCUMENT_ID, columns::SAMPLE_ID, columns::TASK, columns::TOKENS, columns::SEGMENTS, columns::REFUSAL])
        .unwrap()
}

/// Makes a document of `len` tokens: boundaries, a word, and an image.
fn document_of(number: u32, len: usize) -> In {
    let vocabulary = vocabulary();
    let mut builder = DocumentBuilder::new(&vocabulary);
    builder.text(Role::Target, &[number % 50]).unwrap();
    if len > 4 {
        builder.image(Role::Target, &vec![number % 8; len - 4]).unwrap();
    }
    let (tokens, segments) = builder.finish();
    let id = std::array::from_fn(|index| number.to_le_bytes()[index % 4]);
    In { document_id: DocumentId(id), sample_id: SampleId(id), task: "pair".into(), tokens, segments, refusal: None }
}

/// Checks that every document is in exactly one pack, unchanged.
#[track_caller]
fn check_packs(packs: &[PackRow], documents: &[In]) {
    let vocabulary = vocabulary();
    let mut left: BTreeMap<DocumentId, &In> = documents.iter().map(|document| (document.document_id, document)).collect();
    assert_eq!(left.len(), documents.len());
    for pack in packs {
        assert_eq!(pack.tokens.len(), SEQ_LEN as usize);
        let mut end = 0;
        for placed in &pack.documents {
            let original = left.remove(&placed.document_id).expect("a document stands twice, or came from nowhere");
            let range = placed.start as usize..(placed.start + placed.len) as usize;
            assert_eq!(pack.tokens[range.clone()], original.tokens, "no token is altered");
            assert_eq!((placed.sample_id, &placed.task), (original.sample_id, &original.task));
            // The shared boundary belongs to the segments of the document before.
            assert_eq!(range.start, if end == 0 { 0 } else { end - 1 }, "documents stand side by side");
            let shared = usize::from(end > 0);
            let own: Vec<Segment> = pack
                .segments
                .iter()
                .filter(|segment| segment.range().start >= range.start + shared && segment.range().end <= range.end)
                .copied()
                .collect();
            let moved: Vec<Segment> =
                original.segments[shared..].iter().map(|segment| Segment { start: segment.start + placed.start, ..*segment }).collect();
            assert_eq!(own, moved, "no segment, and so no image, is cut");
            end = range.end;
        }
        assert!(pack.tokens[end..].iter().all(|id| *id == vocabulary.pad), "what is left is padding");
        assert_eq!(pack.segments.last().map_or(0, |segment| segment.range().end), end, "no segment covers the padding");
    }
    assert!(left.is_empty(), "{} documents are lost", left.len());
}

#[test]
fn pack_keeps_the_contract() {
    let out = check_stage(stage, &kept(&masked()));
    let packs = packs_of(&out);
    check_packs(&packs, &inputs(&kept(&masked())));
    for pack in &packs {
        for placed in &pack.documents {
            let range = placed.start as usize..(placed.start + placed.len) as usize;
            let moved: Vec<Segment> = pack
                .segments
                .iter()
                .filter(|segment| range.contains(&segment.range().start))
                .map(|segment| Segment { start: segment.start - placed.start, ..*segment })
                .collect();
            document::check(&pack.tokens[range], &moved, &vocabulary()).unwrap();
        }
    }
}

#[test]
fn refused_documents_are_in_no_pack() {
    assert!(masked().num_rows() > kept(&masked()).num_rows(), "the fixture has a refused document");
    assert_eq!(run_whole(stage(), &masked()), run_whole(stage(), &kept(&masked())));
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn pack_does_not_depend_on_cuts(case in rows_and_cuts(masked().num_rows())) {
        cuts_do_not_matter(stage, &masked(), &case)?;
    }

    #[test]
    fn documents_of_any_length_stand_whole_in_full_packs(lengths in prop::collection::vec(3_usize..=256, 0..80), seed in any::<u64>()) {
        let documents: Vec<In> = lengths.iter().zip(0..).map(|(&length, number)| document_of(number, length)).collect();
        let packs = Pack::new(&PackConfig { seq_len: SEQ_LEN }, vocabulary(), seed).pack(&documents).unwrap();
        check_packs(&packs, &documents);
        let costs: usize = documents.iter().map(|document| document.tokens.len() - 1).sum();
        let least = costs.div_ceil(SEQ_LEN as usize - 1);
        // Any two packs have more tokens than fit into one, or they would have been one.
        prop_assert!(packs.len() >= least && packs.len() <= (2 * least).max(1), "{} packs, {} at least", packs.len(), least);
    }
}

#[test]
fn pack_schema() {
    insta::assert_snapshot!(output_table(&stage(), &columns::document()));
}

#[test]
fn many_documents_fill_nearly_every_place() {
    let mut draws = Draws::new(1, "test", b"");
    let documents: Vec<In> = (0..2000).map(|number| document_of(number, 20 + draws.index(80))).collect();
    let packs = stage().pack(&documents).unwrap();
    let statistics = statistics(&packs, SEQ_LEN as usize);
    let costs: usize = documents.iter().map(|document| document.tokens.len() - 1).sum();
    let least = costs.div_ceil(SEQ_LEN as usize - 1);
    assert!(packs.len() * 100 <= least * 102, "{} packs, {least} at least", packs.len());
    assert!(statistics.fill_rate() > 0.98, "{}", statistics.fill_rate());
}

#[test]
fn a_document_that_fills_a_pack_stands_alone_and_one_more_token_is_an_error() {
    let packs = stage().pack(&[document_of(1, 256), document_of(2, 10)]).unwrap();
    assert_eq!(packs.len(), 2);
    let error = stage().pack(&[document_of(1, 257)]).unwrap_err();
    assert!(matches!(error, StageError::DocumentTooLong { len: 257, seq_len: 256, .. }), "{error:?}");
}

#[test]
fn a_document_without_boundaries_is_an_error_and_no_panic() {
    for tokens in [vec![], vec![vocabulary().boundary]] {
        let broken = In { tokens, segments: vec![], ..document_of(1, 10) };
        let error = stage().pack(&[document_of(2, 10), broken]).unwrap_err();
        assert!(matches!(error, StageError::BrokenDocument { .. }), "{error:?}");
    }
}

/// Returns a document in a pack, with segments counted from its first token.
fn placed_in(pack: &PackRow, placed: &PlacedDocument) -> (Vec<u32>, Vec<Segment>) {
    let range = placed.start as usize..(placed.start + placed.len) as usize;
    let inside = pack.segments.iter().filter(|segment| range.contains(&segment.range().start));
    let moved = inside.map(|segment| Segment { start: segment.start - placed.start, ..*segment }).collect();
    (pack.tokens[range].to_vec(), moved)
}

/// Checks that `after` is `before` without the documents of `gone`, with a hole in place of each.
#[track_caller]
fn check_holes(before: &PackRow, after: &PackRow, gone: &[PlacedDocument]) {
    let vocabulary = vocabulary();
    assert_eq!(after.tokens.len(), before.tokens.len());
    assert_eq!(after.documents.len() + gone.len(), before.documents.len());
    let mut is_held = vec![false; after.tokens.len()];
    for placed in &after.documents {
        assert!(before.documents.contains(placed), "a document that stays, stays where it was");
        let (tokens, segments) = placed_in(after, placed);
        assert_eq!((&tokens, &segments), (&placed_in(before, placed).0, &placed_in(before, placed).1), "and as it was");
        document::check(&tokens, &segments, &vocabulary).unwrap();
        is_held[placed.start as usize..(placed.start + placed.len) as usize].fill(true);
    }
    for (position, is_held) in is_held.into_iter().enumerate() {
        let covered = after.segments.iter().filter(|segment| segment.range().contains(&position)).count();
        assert_eq!(covered, usize::from(is_held), "segments cover what documents hold, once, and nothing else");
        assert!(is_held || after.tokens[position] == vocabulary.pad, "what no document holds is padding");
    }
    assert!(after.segments.is_sorted_by_key(|segment| segment.start));
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn documents_are_taken_out_and_the_rest_stays_token_by_token(choice in any::<u64>()) {
        for (number, before) in packs_of(&run_whole(stage(), &kept(&masked()))).into_iter().enumerate() {
            let is_gone = |placed: &PlacedDocument| choice.rotate_left(number as u32) >> (placed.document_id.0[0] % 64) & 1 == 1;
            let mut after = before.clone();
            let gone = withdraw(&mut after, &vocabulary(), is_gone);
            prop_assert!(gone.iter().all(is_gone) && !after.documents.iter().any(is_gone));
            check_holes(&before, &after, &gone);
            // Withdrawal one by one leaves the same pack.
            let mut slowly = before.clone();
            for document in gone.iter().rev() {
                withdraw(&mut slowly, &vocabulary(), |placed| placed == document);
            }
            prop_assert_eq!(slowly, after);
        }
    }
}

#[test]
fn a_boundary_stays_as_long_as_one_of_its_documents_does() {
    let documents: Vec<In> = [5, 6, 7].into_iter().zip(0..).map(|(len, number)| document_of(number, len)).collect();
    let before = stage().assemble(documents.iter());
    let starts: Vec<u32> = before.documents.iter().map(|document| document.start).collect();
    assert_eq!(starts, [0, 4, 9]);
    let (boundary, pad) = (vocabulary().boundary, vocabulary().pad);
    let without = |gone: &[usize]| {
        let mut pack = before.clone();
        let ids: Vec<DocumentId> = gone.iter().map(|&index| before.documents[index].document_id).collect();
        let taken = withdraw(&mut pack, &vocabulary(), |placed| ids.contains(&placed.document_id));
        check_holes(&before, &pack, &taken);
        pack
    };
    let middle = without(&[1]);
    assert_eq!((middle.tokens[4], middle.tokens[9]), (boundary, boundary));
    assert!(middle.tokens[5..9].iter().all(|id| *id == pad));
    let first = without(&[0]);
    assert!(first.tokens[..4].iter().all(|id| *id == pad) && first.tokens[4] == boundary);
    let last = without(&[2]);
    assert!(last.tokens[9] == boundary && last.tokens[10..].iter().all(|id| *id == pad));
    let two = without(&[1, 2]);
    assert!(two.tokens[4] == boundary && two.tokens[5..].iter().all(|id| *id == pad));
    assert!(without(&[0, 1, 2]).tokens.iter().all(|id| *id == pad), "an empty pack is padding");
    assert_eq!(without(&[]), before);
}

#[test]
fn statistics_of_packs_with_holes_count_what_is_left() {
    let documents: Vec<In> = [5, 6, 7].into_iter().zip(0..).map(|(len, number)| document_of(number, len)).collect();
    let mut pack = stage().assemble(documents.iter());
    let gone = withdraw(&mut pack, &vocabulary(), |placed| placed.start == 4);
    assert_eq!(gone.len(), 1);
    let found = statistics(&[pack], SEQ_LEN as usize);
    assert_eq!((found.used, found.capacity, found.tasks["pair"].documents), (5 + 7, u64::from(SEQ_LEN), 2));
}

#[test]
fn equal_inputs_give_equal_packs_and_other_seeds_others() {
    let documents: Vec<In> = (0..100).map(|number| document_of(number, 10 + number as usize % 60)).collect();
    let packs = |seed| Pack::new(&PackConfig { seq_len: SEQ_LEN }, vocabulary(), seed).pack(&documents).unwrap();
    assert_eq!(packs(1), packs(1));
    assert_ne!(packs(1), packs(2));
}

#[test]
fn the_largest_documents_do_not_all_come_first() {
    let documents: Vec<In> = (0..100).map(|number| document_of(number, 130 + number as usize)).collect();
    let sizes: Vec<u32> = stage().pack(&documents).unwrap().iter().map(|pack| pack.documents[0].len).collect();
    assert!(!sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
}

#[test]
fn ids_of_sixteen_or_thirty_two_bits_are_kept() {
    let wide = cm3flow_schemas::vocabulary::VocabularySizes { text: 200_000, image: 8, sentinels: 8, total: None };
    let wide = Vocabulary::try_new("wide", &wide).unwrap();
    let mut builder = DocumentBuilder::new(&wide);
    builder.text(Role::Target, &[199_999]).unwrap();
    let (tokens, segments) = builder.finish();
    let document = In { tokens: tokens.clone(), segments, ..document_of(1, 10) };
    let packs = Pack::new(&PackConfig { seq_len: 128 }, wide.clone(), 1).pack(&[document]).unwrap();
    let batch = rows::write(&columns::pack(128, wide.width()), &packs).unwrap();
    assert_eq!(packs_of(&batch)[0].tokens[..3], tokens);
}

#[test]
fn statistics_count_what_stands_in_packs() {
    let documents = inputs(&kept(&masked()));
    let packs = stage().pack(&documents).unwrap();
    let found = statistics(&packs, SEQ_LEN as usize);
    let sum = |of: fn(&Segment) -> bool| {
        documents
            .iter()
            .flat_map(|document| &document.segments)
            .filter(|segment| of(segment))
            .map(|segment| u64::from(segment.len))
            .sum::<u64>()
    };
    let total = |of: fn(&cm3flow_schemas::pack::TaskStatistics) -> u64| found.tasks.values().map(of).sum::<u64>();
    assert_eq!(total(|task| task.documents), documents.len() as u64);
    assert_eq!(total(|task| task.text_tokens), sum(|segment| segment.modality == Modality::Text));
    assert_eq!(total(|task| task.image_tokens), sum(|segment| segment.modality == Modality::Image));
    assert_eq!(total(|task| task.control_tokens), sum(|segment| segment.modality == Modality::Control));
    assert_eq!(total(|task| task.spans), sum(|segment| segment.role == Role::SpanEnd));
    let lengths: u64 = documents.iter().map(|document| document.tokens.len() as u64).sum();
    assert_eq!(found.used, lengths - documents.len() as u64 + packs.len() as u64, "each shared boundary counts once");
    assert_eq!((found.packs, found.capacity), (packs.len() as u64, packs.len() as u64 * u64::from(SEQ_LEN)));
    assert_eq!(statistics(&[], 256).fill_rate(), 0.0);
}

#[test]
fn an_error_reaches_whoever_runs_the_stage() {
    let short = Pack::new(&PackConfig { seq_len: 8 }, vocabulary(), SEED);
    assert!(matches!(run(short, vec![kept(&masked())]), Err(StageError::DocumentTooLong { seq_len: 8, .. })));
}

#[test]
fn a_length_out_of_range_is_named() {
    assert!(PackConfig::default().problems().is_empty());
    for seq_len in [0, 127, 131_073] {
        assert!(PackConfig { seq_len }.problems()[0].starts_with("pack.seq_len"));
    }
}
