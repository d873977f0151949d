//! Benchmarks of the expensive parts: encoding of pictures (images/s) and a training step (tokens/s).

use std::hint::black_box;
use std::ops::ControlFlow;

use cm3flow_model::decoder::{DecoderConfig, DecoderPreset};
use cm3flow_model::device::DeviceChoice;
use cm3flow_model::train::{TrainConfig, TrainObserver, Trainer};
use cm3flow_model::vq::{FitJob, VqConfig, VqFitConfig, VqTokenizer, fit};
use cm3flow_schemas::DynError;
use cm3flow_schemas::document::{DocumentBuilder, Role};
use cm3flow_schemas::pack::PackBatch;
use cm3flow_schemas::random::Draws;
use cm3flow_schemas::traits::{CheckpointFiles, CheckpointStore, ImageTokenizer, LanguageModel, PackSource, ReaderState, StepReport};
use cm3flow_schemas::vocabulary::{Vocabulary, VocabularySizes};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const IMAGES: usize = 16;
const PACKS: usize = 4;
const SEQ_LEN: usize = 1024;

fn noise(images: usize) -> Vec<u8> {
    let mut draws = Draws::new(1, "bench", b"");
    (0..images * 128 * 128 * 3).map(|_| draws.below(256) as u8).collect()
}

fn encode(criterion: &mut Criterion) {
    let (config, images) = (VqConfig::photos_tiny(), noise(IMAGES));
    // One step suffices for weights of the right shapes.
    let fit_config = VqFitConfig { steps: 1, warm_up_steps: 1, ..VqFitConfig::default() };
    let job = FitJob { config: &config, fit: &fit_config, images: &images, perceptual: None, seed: 1, device: DeviceChoice::Cpu };
    let weights = fit(&job, None, &mut |_| ControlFlow::Continue(())).expect("one step");
    let mut tokenizer = VqTokenizer::try_new(&config, &weights, 8, DeviceChoice::Cpu).expect("its own weights");
    let mut group = criterion.benchmark_group("vq_encode");
    group.throughput(Throughput::Elements(IMAGES as u64)).sample_size(10);
    group.bench_function("photos_tiny", |bencher| bencher.iter(|| tokenizer.encode(black_box(&images)).expect("whole images")));
    group.finish();
}

/// Source that repeats the same packs: one document of three captions and three images each.
struct Packs(PackBatch);

impl Packs {
    fn new(vocabulary: &Vocabulary) -> Self {
        let mut draws = Draws::new(1, "bench packs", b"");
        let mut batch = PackBatch { seq_len: SEQ_LEN, tokens: Vec::new(), segments: Vec::new(), document_starts: Vec::new() };
        for _ in 0..PACKS {
            let mut builder = DocumentBuilder::new(vocabulary);
            let mut values = |count: u32, bound: u32| (0..count).map(|_| draws.below(bound.into()) as u32).collect::<Vec<_>>();
            for _ in 0..3 {
                builder.text(Role::Target, &values(80, vocabulary.text.len)).expect("in range");
                builder.image(Role::Target, &values(256, vocabulary.image.len)).expect("in range");
            }
            let (mut tokens, segments) = builder.finish();
            tokens.resize(SEQ_LEN, vocabulary.pad);
            batch.tokens.extend(tokens);
            batch.segments.push(segments);
            batch.document_starts.push(vec![0]);
        }
        Self(batch)
    }
}

impl PackSource for Packs {
    fn next_batch(&mut self, _: usize) -> Result<PackBatch, DynError> {
        Ok(self.0.clone())
    }

    fn state(&self) -> ReaderState {
        ReaderState::default()
    }

    fn restore(&mut self, _: ReaderState) {}
}

/// Store that keeps nothing.
struct Nowhere;

impl CheckpointStore for Nowhere {
    fn put(&self, _: u64, _: &CheckpointFiles) -> Result<(), DynError> {
        Ok(())
    }

    fn latest(&self) -> Result<Option<(u64, CheckpointFiles)>, DynError> {
        Ok(None)
    }
}

impl TrainObserver for Nowhere {
    fn step(&mut self, _: &StepReport, _: &ReaderState) -> Result<(), DynError> {
        Ok(())
    }

    fn evaluate(&mut self, _: u64, _: &mut dyn LanguageModel) -> Result<(), DynError> {
        Ok(())
    }

    fn stop_requested(&self) -> bool {
        false
    }
}

/// Measures four steps, with one checkpoint that is discarded.
fn train(criterion: &mut Criterion) {
    let vocabulary =
        Vocabulary::try_new("bench", &VocabularySizes { text: 3_500, image: 512, sentinels: 16, total: None }).expect("adds up");
    let decoder: DecoderConfig = DecoderPreset::Tiny.config(vocabulary.size, SEQ_LEN as u32);
    let mut packs = Packs::new(&vocabulary);
    let config = TrainConfig { steps: 4, batch_packs: PACKS as u32, warm_up_steps: Some(0), log_every: 0, ..TrainConfig::default() };
    let mut group = criterion.benchmark_group("train_step");
    group.throughput(Throughput::Elements(4 * (PACKS * SEQ_LEN) as u64)).sample_size(10);
    group.bench_function("tiny", |bencher| {
        bencher.iter_batched(
            || Trainer::try_new(decoder.clone(), config.clone(), vocabulary.clone(), 1, DeviceChoice::Cpu).expect("a preset"),
            |mut trainer| trainer.train(&mut packs, &Nowhere, &mut Nowhere).expect("trains"),
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, encode, train);
criterion_main!(benches);
