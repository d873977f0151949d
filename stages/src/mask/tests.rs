//! Masks: Poisson frequencies, spans within a part, three tokens each, reversible.

#![allow(clippy::unwrap_used)]

use cm3flow_schemas::document::{self, DocumentBuilder, Modality, Role, TextPiece, unmasked};
use cm3flow_schemas::vocabulary::VocabularySizes;
use proptest::prelude::*;

use super::*;
use crate::conformance::{cases, check_stage, cuts_do_not_matter, output_table, rows_and_cuts};
use crate::fixtures::{SEED, documents, vocabulary};
use crate::stage::Map;

fn stage() -> Map<Mask> {
    Map(Mask::new(&MaskConfig::default(), vocabulary(), SEED))
}

fn wide() -> Vocabulary {
    wide_with(32)
}

fn wide_with(sentinels: u32) -> Vocabulary {
    Vocabulary::try_new("wide", &VocabularySizes { text: 1000, image: 1000, sentinels, total: None }).unwrap()
}

/// Settings of random spans alone.
fn random() -> MaskConfig {
    MaskConfig { holes: 0.0, drop: 0.0, ..MaskConfig::default() }
}

/// Returns a function from numbers of documents of a text and an image to their numbers of spans.
fn span_counter(config: &MaskConfig, seed: u64, sentinels: u32) -> impl Fn(u32) -> u16 + use<> {
    let (config, vocabulary, (tokens, segments)) = (config.clone(), wide_with(sentinels), parts(&[12, 36]));
    move |number| Objective { config: &config, vocabulary: &vocabulary, seed }.span_count(document_id(number), &tokens, &segments)
}

fn document_id(number: u32) -> DocumentId {
    DocumentId(std::array::from_fn(|index| number.to_le_bytes()[index % 4]))
}

/// Makes a document of parts of the given lengths, text and image in turn, with distinct ids.
fn parts(lengths: &[usize]) -> (Vec<u32>, Vec<Segment>) {
    let vocabulary = wide();
    let mut builder = DocumentBuilder::new(&vocabulary);
    let mut next = 0;
    for (index, &length) in lengths.iter().enumerate() {
        let ids: Vec<u32> = (next..next + length as u32).collect();
        next += length as u32;
        if index % 2 == 0 { builder.text(Role::Target, &ids).unwrap() } else { builder.image(Role::Target, &ids).unwrap() }
    }
    builder.finish()
}

fn mask_one(number: u32, (tokens, segments): (Vec<u32>, Vec<Segment>), spans: u16) -> Out {
    Mask::new(&random(), wide(), SEED).mask(In { document_id: document_id(number), tokens, segments, spans, refusal: None })
}

#[test]
fn mask_keeps_the_contract() {
    let out = check_stage(stage, &documents());
    let wanted = [columns::DOCUMENT_ID, columns::TOKENS, columns::SEGMENTS, columns::SPANS, columns::REFUSAL];
    let before: Vec<In> = rows::read(&documents(), &wanted).unwrap();
    let after: Vec<In> = rows::read(&out, &wanted).unwrap();
    assert!(after.iter().any(|row| row.spans > 1 && row.refusal.is_none()));
    for (before, after) in before.iter().zip(&after).filter(|(before, _)| before.refusal.is_none()) {
        document::check(&after.tokens, &after.segments, &vocabulary()).unwrap();
        assert_eq!(after.tokens.len(), before.tokens.len() + TOKENS_PER_SPAN * usize::from(after.spans));
        assert_eq!(unmasked(&after.tokens, &after.segments, &vocabulary()), (before.tokens.clone(), before.segments.clone()));
        assert!(after.spans <= before.spans);
    }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn mask_does_not_depend_on_cuts(case in rows_and_cuts(documents().num_rows())) {
        cuts_do_not_matter(stage, &documents(), &case)?;
    }
}

proptest! {
    #[test]
    fn any_document_is_masked_within_the_grammar_and_restored(lengths in prop::collection::vec(0_usize..30, 1..8), number in any::<u32>(), spans in 0_u16..17) {
        let (tokens, segments) = parts(&lengths);
        let vocabulary = wide();
        let masked = mask_one(number, (tokens.clone(), segments.clone()), spans);
        prop_assert!(masked.spans <= spans);
        prop_assert_eq!(masked.tokens.len(), tokens.len() + TOKENS_PER_SPAN * usize::from(masked.spans));
        prop_assert_eq!(document::check(&masked.tokens, &masked.segments, &vocabulary), Ok(()));
        prop_assert_eq!(unmasked(&masked.tokens, &masked.segments, &vocabulary), (tokens, segments));
    }

    #[test]
    fn spans_are_disjoint_not_empty_and_within_one_part(lengths in prop::collection::vec(1_usize..30, 1..8), number in any::<u32>(), count in 0_usize..17) {
        let (_, segments) = parts(&lengths);
        let chosen = spans::choose(&segments, count, &mut Draws::new(SEED, "test", &number.to_le_bytes()));
        prop_assert!(chosen.len() <= count);
        prop_assert!(chosen.windows(2).all(|pair| pair[0].end <= pair[1].start), "{:?}", chosen);
        for span in &chosen {
            prop_assert!(span.start < span.end);
            let within = |segment: &&Segment| segment.modality != Modality::Control && segment.range().start <= span.start && span.end <= segment.range().end;
            prop_assert!(segments.iter().find(within).is_some(), "{:?} crosses a break", span);
        }
    }
}

#[test]
fn mask_schema() {
    insta::assert_snapshot!(output_table(&stage(), &documents().schema()));
}

#[test]
fn numbers_of_spans_follow_poisson_of_one() {
    let draws = 100_000_u32;
    let mut counts = [0_u32; 3];
    let span_count = span_counter(&random(), 1, 512);
    for number in 0..draws {
        counts[usize::from(span_count(number)).min(2)] += 1;
    }
    let none = (-1.0_f64).exp();
    for (count, expected) in counts.iter().zip([none, none, 1.0 - 2.0 * none]) {
        let share = f64::from(*count) / f64::from(draws);
        assert!((share - expected).abs() < 0.01, "{share} instead of {expected}");
    }
}

/// Returns the share of documents that get one span though they want `count`: all further candidates are empty or overlap the first kept
/// one. Computed over all pairs of cut points.
fn share_left_with_one(segments: &[Segment], count: usize) -> f64 {
    let end = segments.last().unwrap().range().start;
    let mut shares = std::collections::BTreeMap::<(usize, usize), f64>::new();
    for (a, b) in (1..=end).flat_map(|a| (1..=end).map(move |b| (a, b))) {
        let span = spans::clip(a.min(b)..a.max(b), segments);
        *shares.entry(if span.is_empty() { (0, 0) } else { (span.start, span.end) }).or_default() += 1.0 / (end * end) as f64;
    }
    let empty = shares.remove(&(0, 0)).unwrap_or(0.0);
    let tries = (count * count) as i32;
    let one = |(&(start, end), &share): (&(usize, usize), &f64)| {
        let overlapping: f64 = shares.iter().filter(|((from, to), _)| start < *to && *from < end).map(|(_, share)| share).sum();
        (0..tries).map(|before| empty.powi(before) * share * (empty + overlapping).powi(tries - 1 - before)).sum::<f64>()
    };
    shares.iter().map(one).sum()
}

#[test]
fn documents_have_no_span_one_or_more_as_often_as_poisson_and_clipping_say() {
    let documents = 100_000_u32;
    let (tokens, segments) = parts(&[12, 36]);
    let mut found = [0_u32; 3];
    let span_count = span_counter(&random(), SEED, 32);
    for number in 0..documents {
        let asked = span_count(number);
        let chosen = spans::choose(&segments, usize::from(asked), &mut Draws::new(SEED, NAME, &document_id(number).0));
        found[chosen.len().min(2)] += 1;
    }
    assert_eq!(tokens.len(), 51);
    let poisson = |count: i32| (-1.0_f64).exp() / (1..=count).product::<i32>().max(1) as f64;
    let left_with_one: f64 = (2..8).map(|count| poisson(count) * share_left_with_one(&segments, count as usize)).sum();
    let expected = [poisson(0), poisson(1) + left_with_one, 1.0 - poisson(0) - poisson(1) - left_with_one];
    for (count, expected) in found.iter().zip(expected) {
        let share = f64::from(*count) / f64::from(documents);
        assert!((share - expected).abs() < 0.01, "{share} instead of {expected}");
    }
    assert!(left_with_one > 0.02, "clipping and overlaps matter: {left_with_one}");
}

#[test]
fn a_whole_text_or_image_is_masked_where_that_is_asked_for() {
    let config = MaskConfig { full_segment: 1.0, sentinel_loss: 0.0, ..random() };
    let (tokens, segments) = parts(&[12, 36]);
    let mut lengths = std::collections::BTreeSet::new();
    let span_count = span_counter(&config, SEED, 32);
    for number in 0..50 {
        assert_eq!(span_count(number), 1);
        let document_id = document_id(number);
        let row = In { document_id, tokens: tokens.clone(), segments: segments.clone(), spans: 1, refusal: None };
        let masked = Mask::new(&config, wide(), SEED).mask(row);
        document::check(&masked.tokens, &masked.segments, &wide()).unwrap();
        let sentinels = masked.segments.iter().filter(|segment| segment.role == Role::Sentinel);
        assert!(sentinels.clone().count() == 2 && sentinels.clone().all(|segment| segment.loss_weight == 0.0));
        lengths.insert(masked.segments.iter().rev().find(|segment| segment.role == Role::Target).unwrap().len);
    }
    assert_eq!(lengths, [12, 36].into());
    let some = span_counter(&MaskConfig { full_segment: 0.25, mean_spans: 1e-9, ..config }, SEED, 32);
    let share = (0..4000).filter(|number| some(*number) == 1).count();
    assert!((900..1100).contains(&share), "{share} of 4000");
}

#[test]
fn documents_that_ask_for_spans_get_some() {
    let draws = 20_000_u32;
    let mut placed = [[0_u32; 3]; 3];
    let span_count = span_counter(&random(), 1, 32);
    for number in 0..draws {
        let asked = span_count(number);
        let got = mask_one(number, parts(&[30, 256]), asked).spans;
        placed[usize::from(asked.min(2))][usize::from(got.min(2))] += 1;
    }
    assert_eq!(placed[0][1] + placed[0][2], 0, "none where none were asked for");
    assert_eq!((placed[1][0], placed[1][2]), (0, 0), "one where one was asked for");
    // As in the original, too few of n squared candidates may be disjoint; one span is nearly always found.
    assert!(placed[2][0] * 1000 < draws, "{placed:?}");
    assert!(placed[2][2] * 2 > placed[2][1], "{placed:?}");
}

#[test]
fn numbers_are_clamped_to_the_limit_and_the_sentinels() {
    let most = |config: &MaskConfig, sentinels| (0..5000).map(span_counter(config, 1, sentinels)).max().unwrap();
    let many = MaskConfig { mean_spans: 16.0, ..random() };
    assert_eq!(most(&many, 512), 16);
    assert_eq!(most(&many, 8), 7);
    assert_eq!((most(&many, 1), most(&many, 0)), (0, 0));
    assert_eq!(most(&MaskConfig { max_spans: 2, ..many }, 512), 2);
    assert_eq!(most(&MaskConfig { mean_spans: 0.0, ..MaskConfig::default() }, 512), 0, "holes included");
}

#[test]
fn a_document_without_spans_is_left_as_it_is() {
    let (tokens, segments) = parts(&[5, 16]);
    let masked = mask_one(1, (tokens.clone(), segments.clone()), 0);
    assert_eq!((masked.tokens, masked.segments, masked.spans), (tokens, segments, 0));
}

#[test]
fn a_document_without_content_gets_no_span() {
    let empty = DocumentBuilder::new(&wide()).finish();
    assert_eq!(mask_one(1, empty.clone(), 3).tokens, empty.0);
    assert_eq!(mask_one(1, (vec![], vec![]), 3).spans, 0);
}

#[test]
fn spans_begin_and_end_anywhere() {
    let mut starts = std::collections::BTreeSet::new();
    let mut ends = std::collections::BTreeSet::new();
    let (_, segments) = parts(&[6, 8]);
    for number in 0..5000_u32 {
        for span in spans::choose(&segments, 1, &mut Draws::new(SEED, "test", &number.to_le_bytes())) {
            starts.insert(span.start);
            ends.insert(span.end);
        }
    }
    // Text is at 1..7, the break at 7, the image at 8..16.
    assert_eq!(starts, (1..7).chain(8..16).collect());
    assert_eq!(ends, (2..8).chain(9..17).collect());
}

#[test]
fn a_span_that_crosses_a_break_is_clipped_to_where_most_of_it_lies() {
    // The longer part is hit more often in proportion, and no span has tokens of both.
    let (tokens, segments) = parts(&[4, 40]);
    let v = wide();
    for number in 0..2000 {
        let masked = mask_one(number, (tokens.clone(), segments.clone()), 1);
        let tail = masked.tokens.iter().rposition(|id| v.sentinels.contains(*id)).unwrap();
        let span = &masked.tokens[tail + 1..masked.tokens.len() - 2];
        assert!(!span.is_empty());
        assert!(span.iter().all(|id| v.text.contains(*id)) || span.iter().all(|id| v.image.contains(*id)), "{span:?}");
    }
}

#[test]
fn sentinels_carry_loss_and_segments_keep_their_roles() {
    let vocabulary = wide();
    let mut builder = DocumentBuilder::new(&vocabulary);
    builder.text(Role::Condition, &[1, 2, 3, 4, 5, 6]).unwrap();
    builder.image(Role::Target, &[1; 16]).unwrap();
    let (tokens, mut segments) = builder.finish();
    segments[1].loss_weight = 0.5;
    for number in 0..50 {
        let masked = mask_one(number, (tokens.clone(), segments.clone()), 3);
        for segment in &masked.segments {
            match (segment.modality, segment.role) {
                (Modality::Text, role) => assert_eq!((role, segment.loss_weight), (Role::Condition, 0.5)),
                (_, Role::SpanEnd) => assert!([0.5, 1.0].contains(&segment.loss_weight), "it has the weight of what it ends"),
                (_, role) => assert!(role != Role::Condition && segment.loss_weight == 1.0),
            }
        }
    }
}

#[test]
fn a_mean_out_of_range_is_named() {
    assert!(MaskConfig::default().problems().is_empty());
    for mean_spans in [-1.0, 17.0, f64::NAN] {
        assert!(MaskConfig { mean_spans, ..MaskConfig::default() }.problems()[0].starts_with("mask.mean_spans"));
    }
    let both = MaskConfig { holes: 0.95, drop: 0.1, ..MaskConfig::default() }.problems();
    assert_eq!(both, ["mask.holes and mask.drop must be at most 1 together, got 0.95 and 0.1"]);
}

/// Kinds of documents, as the tasks that ship make them.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A caption and the image that it asks for, behind a retrieved pair.
    Pair,
    /// A question around two holes, and a given image.
    Question,
    /// An instruction, an image, a caption, and the image that is asked for.
    Control,
    /// A given text, a given image, and a label image that is asked for.
    Segmentation,
}

fn document_of(kind: Kind) -> (Vec<u32>, Vec<Segment>) {
    let vocabulary = wide();
    let mut builder = DocumentBuilder::new(&vocabulary);
    let image = |first: u32| (first..first + 36).collect::<Vec<u32>>();
    match kind {
        Kind::Pair => {
            builder.text(Role::Retrieved, &[900, 901]).unwrap();
            builder.image(Role::Retrieved, &image(900)).unwrap();
            builder.text(Role::Target, &[1, 2, 3, 4]).unwrap();
            builder.image(Role::Target, &image(0)).unwrap();
        }
        Kind::Question => {
            let piece = |role, ids| TextPiece { role, ids };
            let pieces = [
                piece(Role::Condition, &[1, 2, 3][..]),
                piece(Role::Target, &[4, 5]),
                piece(Role::Condition, &[6]),
                piece(Role::Target, &[7, 8, 9]),
            ];
            builder.text_in_pieces(&pieces).unwrap();
            builder.image(Role::Condition, &image(0)).unwrap();
        }
        Kind::Control => {
            builder.text(Role::Condition, &[1, 2]).unwrap();
            builder.image(Role::Condition, &image(0)).unwrap();
            builder.text(Role::Condition, &[3, 4, 5]).unwrap();
            builder.image(Role::Target, &image(40)).unwrap();
        }
        Kind::Segmentation => {
            builder.text(Role::Condition, &[1, 2]).unwrap();
            builder.image(Role::Condition, &image(0)).unwrap();
            builder.image(Role::Target, &image(40)).unwrap();
        }
    }
    builder.finish()
}

/// Returns what a document masks by `config`: the text ids of its only span, or the number of its spans.
fn form_of(config: &MaskConfig, kind: Kind, number: u32) -> Result<Vec<u32>, usize> {
    let (vocabulary, (tokens, segments)) = (wide(), document_of(kind));
    let objective = Objective { config, vocabulary: &vocabulary, seed: SEED };
    let document_id = document_id(number);
    let spans = objective.span_count(document_id, &tokens, &segments);
    let row = In { document_id, tokens: tokens.clone(), segments: segments.clone(), spans, refusal: None };
    let masked = Mask::new(config, vocabulary.clone(), SEED).mask(row);
    document::check(&masked.tokens, &masked.segments, &vocabulary).unwrap();
    assert_eq!(unmasked(&masked.tokens, &masked.segments, &vocabulary), (tokens, segments));
    assert_eq!(objective.most_spans(document_id).max(masked.spans), objective.most_spans(document_id));
    let sentinel = masked.tokens.iter().rposition(|id| vocabulary.sentinels.contains(*id));
    match (masked.spans, sentinel) {
        (1, Some(sentinel)) => {
            let span = &masked.tokens[sentinel + 1..masked.tokens.len() - 2];
            if span.iter().all(|id| vocabulary.text.contains(*id)) { Ok(vocabulary.text_tokens(span).unwrap()) } else { Err(1) }
        }
        (spans, _) => Err(usize::from(spans)),
    }
}

/// Returns the shares of the forms of 20,000 documents, without random spans.
fn shares(config: &MaskConfig, kind: Kind) -> std::collections::BTreeMap<String, f64> {
    let config = MaskConfig { mean_spans: 1e-9, ..config.clone() };
    let mut shares = std::collections::BTreeMap::new();
    for number in 0..20_000 {
        *shares.entry(format!("{:?}", form_of(&config, kind, number))).or_default() += 1.0 / 20_000.0;
    }
    shares
}

#[test]
fn documents_have_the_forms_of_prompts_in_the_shares_that_are_asked_for() {
    let config = MaskConfig { holes: 0.5, drop: 0.1, ..random() };
    let expected = |kind| match kind {
        // Half of the holes, and what guidance leaves out, are the same text.
        Kind::Pair => vec![("Ok([1, 2, 3, 4])", 0.35), ("Err(0)", 0.65)],
        Kind::Question => vec![("Ok([4, 5])", 0.25), ("Ok([7, 8, 9])", 0.25), ("Err(0)", 0.5)],
        Kind::Control => vec![("Ok([3, 4, 5])", 0.1), ("Err(0)", 0.9)],
        Kind::Segmentation => vec![("Err(0)", 1.0)],
    };
    for kind in [Kind::Pair, Kind::Question, Kind::Control, Kind::Segmentation] {
        let found = shares(&config, kind);
        assert_eq!(found.len(), expected(kind).len(), "{kind:?}: {found:?}");
        for (form, share) in expected(kind) {
            // Five deviations of a share of 20,000 draws.
            assert!((found[form] - share).abs() < 0.018, "{kind:?} {form}: {found:?}");
        }
    }
}

#[test]
fn documents_that_ask_for_an_image_are_left_whole_instead_of_hiding_a_hole() {
    let config = MaskConfig { holes: 1.0, drop: 0.0, mean_spans: 16.0, ..random() };
    for kind in [Kind::Control, Kind::Segmentation] {
        assert!((0..200).all(|number| form_of(&config, kind, number) == Err(0)), "{kind:?}");
    }
    let pairs = (0..2000).filter(|number| form_of(&config, Kind::Pair, *number) == Ok(vec![1, 2, 3, 4])).count();
    assert!((900..1100).contains(&pairs), "{pairs}");
}

#[test]
fn retrieved_pairs_are_no_whole_part_that_is_masked() {
    let config = MaskConfig { full_segment: 1.0, ..random() };
    let retrieved = [900, 901];
    for number in 0..500 {
        assert_ne!(form_of(&config, Kind::Pair, number), Ok(retrieved.to_vec()));
    }
}

#[test]
fn a_box_hides_a_rectangle_of_codes_row_by_row() {
    let config = MaskConfig { boxes: 1.0, ..random() };
    let vocabulary = wide();
    let (tokens, segments) = document_of(Kind::Pair);
    let objective = Objective { config: &config, vocabulary: &vocabulary, seed: SEED };
    let image = segments.iter().rfind(|segment| segment.modality == Modality::Image).unwrap().range();
    let mut sizes = std::collections::BTreeSet::new();
    for number in 0..300 {
        let Plan::Ranges(rows) = objective.plan(document_id(number), &tokens, &segments) else { panic!("a box") };
        let width = rows[0].len();
        assert!(rows.iter().all(|row| row.len() == width && row.start >= image.start && row.end <= image.end), "{rows:?}");
        assert!(rows.windows(2).all(|pair| pair[1].start == pair[0].start + 6), "{rows:?}");
        assert_eq!((rows[0].start - image.start) / 6, (rows[0].end - 1 - image.start) / 6, "a row of its own");
        sizes.insert((rows.len(), width));
        assert_eq!(form_of(&config, Kind::Pair, number), Err(rows.len()));
    }
    assert!(sizes.len() > 20, "{sizes:?}");
    let few = MaskConfig { max_spans: 2, ..config };
    let objective = Objective { config: &few, ..objective };
    assert!((0..100).all(|number| objective.span_count(document_id(number), &tokens, &segments) <= 2));
}

proptest! {
    #[test]
    fn texts_in_pieces_are_masked_within_the_grammar_and_restored(lengths in prop::collection::vec(0_usize..6, 1..7), first in any::<bool>(), number in any::<u32>(), spans in 0_u16..9) {
        let vocabulary = wide();
        let ids: Vec<u32> = (0..64).collect();
        let role = |index: usize| if index.is_multiple_of(2) == first { Role::Target } else { Role::Condition };
        let pieces: Vec<TextPiece<'_>> = lengths.iter().enumerate().map(|(index, len)| TextPiece { role: role(index), ids: &ids[..*len] }).collect();
        let mut builder = DocumentBuilder::new(&vocabulary);
        builder.text_in_pieces(&pieces).unwrap();
        builder.image(Role::Condition, &ids).unwrap();
        let (tokens, segments) = builder.finish();
        prop_assert!(segments.windows(2).all(|pair| (pair[0].modality, pair[0].role) != (pair[1].modality, pair[1].role)));
        for config in [random(), MaskConfig { holes: 1.0, drop: 0.0, ..random() }, MaskConfig { boxes: 1.0, ..random() }] {
            let row = In { document_id: document_id(number), tokens: tokens.clone(), segments: segments.clone(), spans, refusal: None };
            let masked = Mask::new(&config, wide(), SEED).mask(row);
            prop_assert_eq!(masked.tokens.len(), tokens.len() + TOKENS_PER_SPAN * usize::from(masked.spans));
            prop_assert_eq!(document::check(&masked.tokens, &masked.segments, &vocabulary), Ok(()));
            prop_assert_eq!(unmasked(&masked.tokens, &masked.segments, &vocabulary), (tokens.clone(), segments.clone()));
        }
    }
}
