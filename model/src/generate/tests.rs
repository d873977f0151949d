//! Sampling: cache against recomputation, guidance, ranges.

use cm3flow_schemas::Grid;
use cm3flow_schemas::document::image_of;
use cm3flow_schemas::traits::{Continuation, LanguageModel, Prompt, Sampling};
use cm3flow_schemas::vocabulary::{IdRange, ImageShapes};
use tch::{Kind, Tensor};

use crate::decoder::tests::{shaken, shaken_over, vocabulary};
use crate::decoder::{AttentionScope, attention};
use crate::generate::continuation::guided;
use crate::language::TokenModel;

fn prompts() -> Vec<Prompt> {
    let v = vocabulary();
    let unconditional = vec![v.boundary, v.sentinels.start, v.break_];
    let of = |tokens: &[u32]| Prompt { tokens: [&[v.boundary], tokens, &[v.break_]].concat(), unconditional: unconditional.clone() };
    vec![of(&[4, 9, 7, 20]), of(&[]), of(&[11])]
}

fn sampling(temperature: f64, guidance: f64) -> Sampling {
    Sampling { temperature, top_p: 0.95, guidance, seed: 3 }
}

/// Returns the hidden vector behind the last token, computed without a cache: `[width]`.
fn hidden(model: &TokenModel, tokens: &[u32]) -> Tensor {
    let ids: Vec<i64> = tokens.iter().map(|id| i64::from(*id)).collect();
    let ids = Tensor::from_slice(&ids).unsqueeze(0);
    let positions = Tensor::arange(tokens.len() as i64, (Kind::Int64, tch::Device::Cpu)).unsqueeze(0);
    let all = model.decoder.hidden(&ids, &positions, &mut |_, q, k, v| attention(q, k, v, None)).expect("small");
    all.select(0, 0).select(0, -1)
}

#[test]
fn cached_generation_equals_full_recomputation() {
    for scope in [AttentionScope::Causal, AttentionScope::Document] {
        let mut model = shaken(scope);
        for strength in [1.0, 3.0] {
            let continued = model.generate(&prompts(), Continuation::Image { tokens: 12 }, &sampling(0.0, strength)).expect("fits");
            let image = model.vocabulary.image;
            let output = model.decoder.embedding.narrow(0, i64::from(image.start), i64::from(image.len));
            for (prompt, continued) in prompts().iter().zip(continued) {
                let (mut tokens, mut unconditional) = (prompt.tokens.clone(), prompt.unconditional.clone());
                for found in continued {
                    let (c, u) = (output.mv(&hidden(&model, &tokens)), output.mv(&hidden(&model, &unconditional)));
                    let logits = if strength == 1.0 { c } else { guided(&c, &u, strength).expect("small") };
                    assert_eq!(i64::from(found), i64::from(image.start) + logits.argmax(0, false).int64_value(&[]));
                    tokens.push(found);
                    unconditional.push(found);
                }
            }
        }
    }
}

#[test]
fn guidance_goes_from_unconditional_through_conditional_logits() {
    let (c, u) = (Tensor::from_slice(&[1.0_f32, -2.0]), Tensor::from_slice(&[0.5_f32, 1.0]));
    let of = |strength| Vec::<f32>::try_from(guided(&c, &u, strength).expect("small")).expect("small");
    assert_eq!((of(0.0), of(1.0), of(3.0)), (vec![0.5, 1.0], vec![1.0, -2.0], vec![2.0, -8.0]));
}

#[test]
fn images_have_exactly_the_codes_asked_for() {
    let mut model = shaken(AttentionScope::Causal);
    let continued = model.generate(&prompts(), Continuation::Image { tokens: 20 }, &sampling(2.0, 1.5)).expect("fits");
    let image = model.vocabulary.image;
    assert_eq!(continued.iter().map(Vec::len).collect::<Vec<_>>(), [20, 20, 20]);
    assert!(continued.iter().flatten().all(|id| image.contains(*id)));
}

#[test]
fn an_image_says_its_size_and_ends_with_its_last_row() {
    let mut vocabulary = vocabulary();
    let grids = [(1, 4), (2, 2), (2, 3), (4, 1)].map(|(rows, columns)| Grid { rows, columns }).to_vec();
    let start = vocabulary.used();
    let most = ImageShapes::most_tokens(&grids);
    vocabulary.shapes = Some(ImageShapes { sizes: IdRange { start, len: 4 }, line_end: start + 4, grids: grids.clone() });
    let mut model = shaken_over(AttentionScope::Causal, vocabulary.clone());
    let many: Vec<Prompt> = prompts().into_iter().cycle().take(40).collect();
    for strength in [1.0, 2.0] {
        let continued = model.generate(&many, Continuation::Image { tokens: most }, &sampling(3.0, strength)).expect("fits");
        let found: Vec<Grid> =
            continued.iter().map(|ids| image_of(&vocabulary, ids).expect("one whole image").grid.expect("shapes")).collect();
        assert!(grids.iter().all(|grid| found.contains(grid)), "{found:?}");
    }
}

#[test]
fn text_has_only_text_and_may_end_early() {
    let mut model = shaken(AttentionScope::Causal);
    let many: Vec<Prompt> = prompts().into_iter().cycle().take(18).collect();
    let continued = model.generate(&many, Continuation::Text { max_tokens: 20 }, &sampling(2.0, 1.0)).expect("fits");
    let text = model.vocabulary.text;
    assert!(continued.iter().flatten().all(|id| text.contains(*id)));
    assert!(continued.iter().all(|tokens| (1..=20).contains(&tokens.len())) && continued.iter().any(|tokens| tokens.len() < 20));
    assert_eq!(continued.len(), 18);
}

#[test]
fn draws_depend_on_the_seed_and_the_place_of_the_prompt() {
    let mut model = shaken(AttentionScope::Causal);
    let same = vec![prompts()[0].clone(); 2];
    let mut of = |seed| {
        let sampling = Sampling { seed, ..sampling(2.0, 1.0) };
        model.generate(&same, Continuation::Image { tokens: 16 }, &sampling).expect("fits")
    };
    let one = of(1);
    assert_eq!(one, of(1));
    assert_ne!(one, of(2));
    assert_ne!(one[0], one[1]);
}

#[test]
fn prompts_that_do_not_fit_are_named() {
    let mut model = shaken(AttentionScope::Causal);
    let mut refused = |prompt: Prompt, tokens| {
        let prompts = [prompts()[0].clone(), prompt];
        model.generate(&prompts, Continuation::Image { tokens }, &sampling(1.0, 1.0)).expect_err("does not fit").to_string()
    };
    let prompt = |tokens: &[u32]| Prompt { tokens: tokens.to_vec(), unconditional: vec![2, 2] };
    assert_eq!(refused(prompt(&[]), 1), "prompt 1 is empty");
    assert_eq!(refused(prompt(&[2; 9]), 24), "prompt 1 has 9 tokens; with 24 more it exceeds the sequence length of 32");
    assert_eq!(refused(prompt(&[2, 64]), 1), "token 64 at 1 of row 1 is out of range 0..64");
}
