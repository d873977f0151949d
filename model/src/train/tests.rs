//! Training: learns, resumes bit by bit, and refuses mismatches.

use std::collections::BTreeMap;
use std::sync::Mutex;

use cm3flow_schemas::DynError;
use cm3flow_schemas::pack::PackBatch;
use cm3flow_schemas::traits::{CheckpointFiles, CheckpointStore, LanguageModel, PackSource, ReaderState, StepReport};

use super::*;
use crate::decoder::AttentionScope;
use crate::decoder::tests::{config, packs, vocabulary};
use crate::device::DeviceChoice;
use crate::error::ModelError;

/// Store of checkpoints in memory.
#[derive(Default)]
pub(crate) struct Memory(pub(crate) Mutex<BTreeMap<u64, CheckpointFiles>>);

impl CheckpointStore for Memory {
    fn put(&self, step: u64, files: &CheckpointFiles) -> Result<(), DynError> {
        self.0.lock().expect("no test panics while it holds the lock").insert(step, files.clone());
        Ok(())
    }

    fn latest(&self) -> Result<Option<(u64, CheckpointFiles)>, DynError> {
        let files = self.0.lock().expect("no test panics while it holds the lock");
        Ok(files.last_key_value().map(|(step, files)| (*step, files.clone())))
    }
}

impl Memory {
    fn steps(&self) -> Vec<u64> {
        self.0.lock().expect("no test panics while it holds the lock").keys().copied().collect()
    }
}

/// Source of packs that repeat after `period`; from `ends_at` on there are none.
struct Packs {
    position: u64,
    period: u64,
    ends_at: u64,
}

impl Packs {
    const fn new(period: u64) -> Self {
        Self { position: 0, period, ends_at: u64::MAX }
    }
}

impl PackSource for Packs {
    fn next_batch(&mut self, rows: usize) -> Result<PackBatch, DynError> {
        let rows = rows.min((self.ends_at - self.position) as usize);
        let batch = packs(rows, self.position % self.period);
        self.position += rows as u64;
        Ok(batch)
    }

    fn state(&self) -> ReaderState {
        ReaderState { position: self.position }
    }

    fn restore(&mut self, state: ReaderState) {
        self.position = state.position;
    }
}

/// Observer that records everything, and stops or fails behind a chosen step.
#[derive(Default)]
struct Recorder {
    reports: Vec<StepReport>,
    positions: Vec<u64>,
    evaluated: Vec<u64>,
    stop_at: Option<u64>,
    fail_at: Option<u64>,
}

impl TrainObserver for Recorder {
    fn step(&mut self, report: &StepReport, reader: &ReaderState) -> Result<(), DynError> {
        if self.fail_at == Some(report.step) {
            return Err("the disk is full".into());
        }
        self.reports.push(*report);
        self.positions.push(reader.position);
        Ok(())
    }

    fn evaluate(&mut self, step: u64, model: &mut dyn LanguageModel) -> Result<(), DynError> {
        model.losses(&packs(1, 99))?;
        self.evaluated.push(step);
        Ok(())
    }

    fn stop_requested(&self) -> bool {
        self.stop_at.is_some_and(|step| self.reports.last().is_some_and(|report| report.step >= step))
    }
}

fn settings() -> TrainConfig {
    TrainConfig { steps: 8, batch_packs: 2, warm_up_steps: Some(2), checkpoint_every: 3, evaluate_every: 4, ..TrainConfig::default() }
}

fn trainer(settings: TrainConfig) -> Trainer {
    Trainer::try_new(config(AttentionScope::Document), settings, vocabulary(), 7, DeviceChoice::Cpu).expect("small")
}

fn run(trainer: &mut Trainer, store: &Memory, recorder: &mut Recorder) -> Result<TrainSummary, ModelError> {
    trainer.train(&mut Packs::new(100), store, recorder)
}

#[test]
fn interrupted_training_goes_on_to_the_bit() {
    let (whole_store, mut whole) = (Memory::default(), Recorder::default());
    let summary = run(&mut trainer(settings()), &whole_store, &mut whole).expect("trains");
    assert_eq!(summary, TrainSummary { resumed_from: None, steps: 8, stopped: false, last: whole.reports.last().copied() });
    assert_eq!(whole_store.steps(), [3, 6, 8]);
    assert_eq!((whole.evaluated.as_slice(), whole.positions.as_slice()), (&[4, 8][..], &[2, 4, 6, 8, 10, 12, 14, 16][..]));
    // The first run stops behind step 4; the second is killed behind step 6, and loses step 7.
    let (store, mut first) = (Memory::default(), Recorder { stop_at: Some(4), ..Recorder::default() });
    let summary = run(&mut trainer(settings()), &store, &mut first).expect("stops");
    assert_eq!((summary.steps, summary.stopped, store.steps()), (4, true, vec![3, 4]));
    let mut second = Recorder { fail_at: Some(7), ..Recorder::default() };
    let error = run(&mut trainer(settings()), &store, &mut second).expect_err("the observer fails");
    assert_eq!(error.to_string(), "the observer failed at step 7");
    assert_eq!(std::error::Error::source(&error).map(ToString::to_string).as_deref(), Some("the disk is full"));
    let mut third = Recorder::default();
    let summary = run(&mut trainer(settings()), &store, &mut third).expect("goes on");
    assert_eq!((summary.resumed_from, summary.steps), (Some(6), 8));
    let reports = [first.reports, second.reports, third.reports].concat();
    assert_eq!(reports, whole.reports);
    // Step 4 was evaluated before the stop, and again after it.
    assert_eq!([first.evaluated, second.evaluated, third.evaluated], [vec![4], vec![4], vec![8]]);
    assert!(store.0.lock().expect("alone")[&8] == whole_store.0.lock().expect("alone")[&8], "weights, moments and state are equal");
}

#[test]
fn finished_training_takes_no_more_steps() {
    let (store, mut recorder) = (Memory::default(), Recorder::default());
    run(&mut trainer(settings()), &store, &mut Recorder::default()).expect("trains");
    let summary = run(&mut trainer(settings()), &store, &mut recorder).expect("nothing to do");
    assert_eq!(summary, TrainSummary { resumed_from: Some(8), steps: 8, stopped: false, last: None });
    assert_eq!((recorder.reports.len(), recorder.evaluated), (0, vec![8]));
}

#[test]
fn memorised_packs_are_predicted_ever_better() {
    let settings = TrainConfig { steps: 150, learning_rate: Some(1e-2), warm_up_steps: Some(10), ..settings() };
    let mut recorder = Recorder::default();
    trainer(settings).train(&mut Packs::new(2), &Memory::default(), &mut recorder).expect("trains");
    let loss = |index: usize| recorder.reports[index].losses.mean_of_all().expect("has targets");
    assert!((loss(0) - 64_f64.ln()).abs() < 0.1, "{}", loss(0));
    assert!(loss(149) < 0.3 * loss(0), "{} {}", loss(0), loss(149));
}

#[test]
fn packs_taken_one_by_one_train_alike() {
    let reports = [0, 1].map(|packs_at_once| {
        let mut recorder = Recorder::default();
        run(&mut trainer(TrainConfig { packs_at_once, ..settings() }), &Memory::default(), &mut recorder).expect("trains");
        recorder.reports
    });
    let near = |one: &StepReport, other: &StepReport| {
        let mean = |report: &StepReport| report.losses.mean_of_all().expect("has targets");
        (mean(one) - mean(other)).abs() < 1e-3 && one.losses.text_tokens == other.losses.text_tokens
    };
    assert!(reports[0].iter().zip(&reports[1]).all(|(one, other)| near(one, other)));
}

#[test]
fn divergence_names_the_step_and_takes_none() {
    let (store, mut trainer) = (Memory::default(), trainer(settings()));
    let _ = tch::no_grad(|| trainer.model().decoder.embedding.shallow_clone().fill_(f64::NAN));
    let error = run(&mut trainer, &store, &mut Recorder::default()).expect_err("no number");
    assert_eq!(error.to_string(), "training diverged: loss NaN, gradient norm NaN at step 1");
    assert_eq!((trainer.steps_done(), store.steps().len()), (0, 0));
}

#[test]
fn source_that_ends_is_an_error() {
    let mut source = Packs { ends_at: 5, ..Packs::new(100) };
    let error = trainer(settings()).train(&mut source, &Memory::default(), &mut Recorder::default()).expect_err("it ends");
    assert_eq!(error.to_string(), "the source of packs handed out 1 of 2 packs at step 3; it must go on for ever");
}

#[test]
fn packs_without_targets_change_nothing_but_the_decay() {
    struct Empty(Packs);
    impl PackSource for Empty {
        fn next_batch(&mut self, rows: usize) -> Result<PackBatch, DynError> {
            let mut batch = self.0.next_batch(rows)?;
            batch.segments.iter_mut().for_each(Vec::clear);
            Ok(batch)
        }
        fn state(&self) -> ReaderState {
            self.0.state()
        }
        fn restore(&mut self, state: ReaderState) {
            self.0.restore(state);
        }
    }
    let mut recorder = Recorder::default();
    trainer(settings()).train(&mut Empty(Packs::new(100)), &Memory::default(), &mut recorder).expect("trains");
    assert!(recorder.reports.iter().all(|report| report.gradient_norm == 0.0 && report.losses.mean_of_all().is_none()));
}
