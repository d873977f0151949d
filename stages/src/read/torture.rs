//! Interrupted readers: after kills and restarts with other ranks, workers and weights they read the same as an undisturbed one.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use cm3flow_schemas::random::Draws;
use cm3flow_schemas::sample::Split;

use super::tests::{Committed, Dataset, packed};
use super::*;

/// Sources of the mixture, with the packs of each variant of their windows.
const SOURCES: [(&str, &[&[u32]]); 3] = [("a", &[&[9], &[13]]), ("b", &[&[5, 6, 4]]), ("c", &[&[17], &[], &[4]])];
const SEED: u64 = 11;
/// Number of packs in a global batch; every drawn number of ranks, 1 to 8, divides it.
const GLOBAL_BATCH: u64 = 24;
const RANKS: [u64; 6] = [1, 2, 3, 4, 6, 8];
const MAX_WORKERS: u64 = 4;

/// Datasets of the sources, made once, with a folder of all their shards.
struct World {
    datasets: Vec<Dataset>,
    folder: tempfile::TempDir,
}

/// A stretch of a run between two kills.
#[derive(Debug)]
struct Stretch {
    steps: u64,
    ranks: u64,
    /// Number of workers; 0 reads in the trainer's own process, as one worker does.
    workers: u64,
    phases: Vec<Phase>,
    /// `true` if the stretch knows the phases of all stretches before, `false` if only its own weights.
    is_told_all: bool,
}

impl World {
    fn new() -> Self {
        let datasets: Vec<Dataset> = SOURCES.iter().map(|(_, sizes)| Dataset::of_variants(sizes)).collect();
        let folder = tempfile::tempdir().unwrap();
        datasets.iter().for_each(|dataset| dataset.save(folder.path()));
        Self { datasets, folder }
    }

    fn runtime(&self) -> tokio::runtime::Handle {
        self.datasets[0].runtime.handle().clone()
    }

    fn mix(&self, names: &[String], phases: &[Phase]) -> MixReader {
        let input = |name: &String| {
            let dataset = &self.datasets[SOURCES.iter().position(|(source, _)| source == name).unwrap()];
            SourceInput {
                feed: Box::new(Committed(dataset.windows.clone())),
                origin: Origin::Folder(self.folder.path().to_owned()),
                schema: packed().schema(),
                split: Split::Train,
                limits: PoolLimits::default(),
            }
        };
        let schedule = Schedule::try_new(names.to_vec(), phases, SEED).unwrap();
        MixReader::new(names.iter().map(input).collect(), schedule, &self.runtime())
    }

    fn reader(&self, phases: &[Phase], slice: Slice) -> BatchReader {
        let mut names: Vec<String> = phases.iter().flat_map(|phase| phase.weights.keys().cloned()).collect();
        names.sort_unstable();
        names.dedup();
        BatchReader::try_new(self.mix(&names, phases), slice, End::Repeat, self.runtime()).unwrap()
    }

    /// Returns the packs of each step of a stretch, in the order of their positions, and the state behind it.
    fn play(&self, stretch: &Stretch, phases: &[Phase], from: Option<&MixState>) -> (Vec<Vec<u32>>, MixState) {
        let workers = stretch.workers.max(1);
        let mut steps = vec![Vec::new(); stretch.steps as usize];
        let mut state = None;
        for rank in 0..stretch.ranks {
            let slice = |worker| Slice { batch_size: GLOBAL_BATCH / stretch.ranks, rank, world_size: stretch.ranks, worker, workers };
            let mut readers: Vec<BatchReader> = (0..workers).map(|worker| self.reader(phases, slice(worker))).collect();
            if let Some(from) = from {
                readers.iter_mut().for_each(|reader| reader.restore(from, false).unwrap());
            }
            for (step, packs) in steps.iter_mut().enumerate() {
                let batch = readers[step % workers as usize].next_batch().unwrap().unwrap();
                packs.extend(batch.rows.iter().map(number));
                state = Some(batch.state);
            }
        }
        // A checkpoint holds the state as text.
        let text = serde_json::to_string(&state.unwrap()).unwrap();
        assert!(text.len() < 1024, "{text}");
        (steps, serde_json::from_str(&text).unwrap())
    }
}

/// Returns the number of a pack within its source, which is the second token.
fn number(row: &PackRow) -> u32 {
    let TokenIds::U16(ids) = row.tokens() else { panic!("ids are small") };
    u32::from(ids[1])
}

fn weights(draws: &mut Draws) -> BTreeMap<String, f64> {
    let mut weights: BTreeMap<String, f64> =
        SOURCES.iter().map(|(name, _)| ((*name).to_owned(), [0.0, 0.1, 1.0, 2.5][draws.index(4)])).collect();
    // At least one source is read; sources come, go and come back.
    *weights.get_mut(SOURCES[draws.index(3)].0).unwrap() = 1.0;
    weights.retain(|_, weight| *weight > 0.0);
    weights
}

fn stretches(draws: &mut Draws) -> Vec<Stretch> {
    let mut position = 0;
    let mut all = Vec::new();
    for _ in 0..3 + draws.index(4) {
        let steps = 1 + draws.below(6);
        let mut phases = Vec::new();
        if all.is_empty() || draws.below(2) == 0 {
            phases.push(Phase { from: position, weights: weights(draws) });
        }
        // Some stretches have a planned change at a position inside.
        if draws.below(3) == 0 {
            phases.push(Phase { from: position + 1 + draws.below(steps * GLOBAL_BATCH - 1), weights: weights(draws) });
        }
        let (ranks, workers) = (RANKS[draws.index(RANKS.len())], draws.below(MAX_WORKERS + 1));
        all.push(Stretch { steps, ranks, workers, phases, is_told_all: draws.below(2) == 0 });
        position += steps * GLOBAL_BATCH;
    }
    all
}

fn torture(world: &World, round: u64) {
    let mut draws = Draws::new(1, "torture", &round.to_le_bytes());
    let stretches = stretches(&mut draws);
    let all_phases: Vec<Phase> = stretches.iter().flat_map(|stretch| stretch.phases.clone()).collect();
    let steps = stretches.iter().map(|stretch| stretch.steps).sum();
    let whole = Stretch { steps, ranks: 1, workers: 0, phases: Vec::new(), is_told_all: true };
    let (undisturbed, end) = world.play(&whole, &all_phases, None);

    let mut state: Option<MixState> = None;
    let mut disturbed = Vec::new();
    let mut known: Vec<Phase> = Vec::new();
    for stretch in &stretches {
        let position = state.as_ref().map_or(0, |state| state.position);
        known.extend(stretch.phases.clone());
        // Weights at the position, as if they had always applied.
        let holding = known.iter().rposition(|phase| phase.from <= position).unwrap();
        let mut own = if stretch.is_told_all { known.clone() } else { known[holding..].to_vec() };
        own[0].from = 0;
        // Some batches are lost with the process that had read them.
        let lost = Stretch { steps: 1 + draws.below(3), phases: Vec::new(), ..*stretch };
        world.play(&lost, &own, state.as_ref());
        let (steps, reached) = world.play(stretch, &own, state.as_ref());
        disturbed.extend(steps);
        state = Some(reached);
    }
    assert_eq!(disturbed, undisturbed, "round {round}: {stretches:#?}");
    let state = state.unwrap();
    assert_eq!((state.position, state.counters), (end.position, end.counters), "round {round}");
}

#[test]
fn disturbed_readers_read_what_an_undisturbed_one_reads() {
    let world = World::new();
    (0..50).for_each(|round| torture(&world, round));
}

#[test]
#[ignore = "long"]
fn disturbed_readers_read_what_an_undisturbed_one_reads_a_thousand_times() {
    let world = World::new();
    (0..1000).for_each(|round| torture(&world, round));
}

#[test]
fn a_source_that_is_added_repeats_nothing_of_the_others() {
    let world = World::new();
    let only = |names: &[&str], from| Phase { from, weights: names.iter().map(|name| ((*name).to_owned(), 1.0)).collect() };
    let mut before = world.reader(&[only(&["a"], 0)], Slice::whole(10));
    let first: Vec<u32> = before.next_batch().unwrap().unwrap().rows.iter().map(number).collect();
    let state = before.worker_state();
    assert_eq!(state.counters, BTreeMap::from([("a".to_owned(), 10)]));
    let mut after = world.reader(&[only(&["a", "b"], 0)], Slice::whole(12));
    after.restore(&state, false).unwrap();
    after.next_batch().unwrap().unwrap();
    let counters = after.worker_state().counters;
    assert_eq!(counters.values().sum::<u64>(), 22);
    assert!(counters["b"] > 0 && counters["a"] > 10, "{counters:?}");
    let mut alone = world.reader(&[only(&["a"], 0)], Slice::whole(22));
    let epoch: Vec<u32> = alone.next_batch().unwrap().unwrap().rows.iter().map(number).collect();
    assert_eq!(first, epoch[..10]);
}

#[test]
fn every_rank_gets_as_many_packs_and_the_end_is_the_one_that_was_chosen() {
    // `a` has 22 packs, in global batches of 12.
    let world = World::new();
    let phase = [Phase { from: 0, weights: BTreeMap::from([("a".to_owned(), 1.0)]) }];
    let batches = |end: End, rank: u64, worker: u64, workers: u64| {
        let slice = Slice { batch_size: 4, rank, world_size: 3, worker, workers };
        let mut reader = BatchReader::try_new(world.mix(&["a".into()], &phase), slice, end, world.runtime()).unwrap();
        let mut all = Vec::new();
        while let Some(batch) = reader.next_batch().unwrap() {
            assert_eq!(batch.rows.len(), 4);
            all.push(batch.rows.iter().map(number).collect::<Vec<_>>());
        }
        all
    };
    for (end, steps) in [
        (End::Drop { epochs: 1 }, 1),
        (End::Pad { epochs: 1 }, 2),
        (End::Drop { epochs: 2 }, 3),
        (End::Pad { epochs: 2 }, 4),
        (End::Drop { epochs: 6 }, 11),
        (End::Pad { epochs: 6 }, 11),
    ] {
        for rank in 0..3 {
            let alone = batches(end, rank, 0, 1);
            assert_eq!(alone.len(), steps, "{end:?}");
            let (even, odd) = (batches(end, rank, 0, 2), batches(end, rank, 1, 2));
            let shared = (0..steps).map(|step| if step % 2 == 0 { &even[step / 2] } else { &odd[step / 2] });
            assert!(shared.eq(&alone) && even.len() + odd.len() == steps, "{end:?}");
        }
    }
}

#[test]
fn workers_that_go_on_alone_go_on_where_they_stood() {
    let world = World::new();
    let phase = [Phase { from: 0, weights: BTreeMap::from([("a".to_owned(), 1.0), ("c".to_owned(), 2.0)]) }];
    let slice = Slice { batch_size: 2, rank: 1, world_size: 2, worker: 1, workers: 3 };
    let mut whole = world.reader(&phase, slice);
    whole.next_batch().unwrap().unwrap();
    let next = whole.worker_state();
    let mut resumed = world.reader(&phase, slice);
    resumed.restore_worker(&next, 0).unwrap();
    for _ in 0..5 {
        let (one, other) = (whole.next_batch().unwrap().unwrap(), resumed.next_batch().unwrap().unwrap());
        assert_eq!(one.rows.iter().map(number).collect::<Vec<_>>(), other.rows.iter().map(number).collect::<Vec<_>>());
        assert_eq!(one.state, other.state);
    }
}

#[test]
fn states_and_slices_that_make_no_sense_are_refused() {
    let world = World::new();
    let phase = [Phase { from: 0, weights: BTreeMap::from([("a".to_owned(), 1.0)]) }];
    let mut reader = world.reader(&phase, Slice::whole(2));
    let sound = reader.next_batch().unwrap().unwrap().state;
    let changed = |change: fn(&mut MixState)| {
        let mut state = sound.clone();
        change(&mut state);
        state
    };
    for (state, named) in [
        (changed(|state| state.seed += 1), "seed 12"),
        (changed(|state| state.position += 1), "add up"),
        (changed(|state| state.format_version = 2), "format is 2"),
        (changed(|state| state.counters = BTreeMap::from([("a".into(), u64::MAX), ("b".into(), 3)])), "add up"),
        (changed(|state| state.counters.extend((0..16).map(|old| (format!("old-{old}"), 0)))), "17 sources"),
    ] {
        let error = reader.restore(&state, false).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    let mut untouched = world.reader(&phase, Slice::whole(2));
    untouched.restore(&sound, false).unwrap();
    assert_eq!(
        reader.next_batch().unwrap().unwrap().state,
        untouched.next_batch().unwrap().unwrap().state,
        "a refused state changes nothing"
    );
    for (slice, named) in [
        (Slice { batch_size: 0, ..Slice::whole(1) }, "batch_size"),
        (Slice { rank: 1, ..Slice::whole(1) }, "rank must be below world_size = 1, got 1"),
        (Slice { workers: 0, ..Slice::whole(1) }, "workers"),
    ] {
        let refused = BatchReader::try_new(world.mix(&["a".into()], &phase), slice, End::Repeat, world.runtime());
        assert!(refused.err().unwrap().to_string().contains(named));
    }
}

/// Returns the number of packs of so many epochs of `a`, or of `a` and `b`, which has three variants.
fn packs_of(names: &[&str], epochs: u64) -> u64 {
    let of_b = |epoch: u64| [5, 6, 4][(epoch % 3) as usize];
    epochs * 22 + if names.len() > 1 { (0..epochs).map(of_b).sum() } else { 0 }
}

/// Returns a reader with an end over some of the sources, in equal shares.
fn ending(world: &World, names: &[&str], slice: Slice, end: End) -> BatchReader {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let phase = [Phase { from: 0, weights: names.iter().map(|name| (name.clone(), 1.0)).collect() }];
    BatchReader::try_new(world.mix(&names, &phase), slice, end, world.runtime()).unwrap()
}

/// Returns the batches up to the end, with the flag of the last one, and their states.
fn to_the_end(reader: &mut BatchReader) -> (Vec<Vec<u32>>, Vec<bool>, Vec<MixState>) {
    let (mut rows, mut told, mut states) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(batch) = reader.next_batch().unwrap() {
        rows.push(batch.rows.iter().map(number).collect());
        told.push(batch.is_last);
        states.push(batch.state);
    }
    (rows, told, states)
}

#[test]
fn passes_are_the_epochs_that_a_reader_without_end_reads() {
    let world = World::new();
    for names in [&["a"][..], &["a", "b"]] {
        let mut endless = ending(&world, names, Slice::whole(1), End::Repeat);
        let all: Vec<u32> = (0..packs_of(names, 8)).map(|_| number(&endless.next_batch().unwrap().unwrap().rows[0])).collect();
        for (epochs, pass) in [(1, 0), (1, 3), (2, 0), (2, 2)] {
            let (begin, end) = (packs_of(names, pass * epochs), packs_of(names, (pass + 1) * epochs));
            for is_padded in [false, true] {
                let kind = if is_padded { End::Pad { epochs } } else { End::Drop { epochs } };
                let steps = if is_padded { (end - begin).div_ceil(6) } else { (end - begin) / 6 };
                for (rank, workers) in [(0, 1), (1, 1), (0, 3)] {
                    let slice = |worker| Slice { batch_size: 3, rank, world_size: 2, worker, workers };
                    let mut parts = Vec::new();
                    for worker in 0..workers {
                        let mut reader = ending(&world, names, slice(worker), kind);
                        reader.begin_pass(pass);
                        assert_eq!(world.runtime().block_on(reader.pass_batches()).unwrap(), Some(steps));
                        parts.push(to_the_end(&mut reader));
                        assert_eq!(reader.pass(), Some(pass));
                        assert!(reader.next_batch().unwrap().is_none(), "an end stays one");
                    }
                    for step in 0..steps {
                        let (rows, told, states) = &parts[(step % workers) as usize];
                        let (place, first) = ((step / workers) as usize, (begin + step * 6 + rank * 3) as usize);
                        assert_eq!(rows[place], all[first..first + 3], "{kind:?} pass {pass} step {step}");
                        assert_eq!(told[place], step + 1 == steps);
                        // Packs that only fill up the last batch are read again.
                        assert_eq!(states[place].position, (begin + step * 6 + 6).min(end));
                    }
                    assert_eq!(parts.iter().map(|part| part.0.len() as u64).sum::<u64>(), steps);
                }
            }
        }
    }
}

#[test]
fn states_lead_back_into_their_pass_and_to_the_next_one() {
    let world = World::new();
    for end in [End::Drop { epochs: 1 }, End::Pad { epochs: 1 }] {
        let reader = || ending(&world, &["a", "b"], Slice::whole(5), end);
        let whole = |pass| {
            let mut reader = reader();
            reader.begin_pass(pass);
            to_the_end(&mut reader)
        };
        let passes: Vec<_> = (0..4).map(whole).collect();
        for pass in 0..3 {
            let (rows, _, states) = &passes[pass];
            for (done, state) in (1..).zip(states) {
                let resumed = |or_next: bool, wanted: Option<usize>| {
                    let mut reader = reader();
                    reader.restore(state, or_next).unwrap();
                    if let Some(wanted) = wanted {
                        reader.begin_pass(wanted as u64);
                    }
                    to_the_end(&mut reader).0
                };
                assert_eq!(resumed(false, None), rows[done..]);
                assert_eq!(resumed(false, Some(pass)), rows[done..]);
                assert_eq!(resumed(true, None), if done == rows.len() { &passes[pass + 1].0[..] } else { &rows[done..] });
                assert_eq!(resumed(false, Some(pass + 1)), passes[pass + 1].0);
                let mut early = reader();
                early.restore(state, false).unwrap();
                early.begin_pass(pass.wrapping_sub(1) as u64);
                if pass > 0 {
                    let error = early.next_batch().unwrap_err().to_string();
                    assert!(error.contains(&format!("stands in epoch {pass}")), "{error}");
                }
            }
        }
    }
}

#[test]
fn workers_go_on_behind_their_own_last_batch() {
    let world = World::new();
    for end in [End::Repeat, End::Drop { epochs: 1 }, End::Pad { epochs: 1 }] {
        let slice = Slice { batch_size: 2, rank: 0, world_size: 1, worker: 1, workers: 3 };
        let mut whole = ending(&world, &["a", "b"], slice, end);
        whole.begin_pass(1);
        for _ in 0..5 {
            let last = whole.next_batch().unwrap().unwrap().state;
            let mut resumed = ending(&world, &["a", "b"], slice, end);
            resumed.restore_behind_own(&last).unwrap();
            let rest = resumed.next_batch().unwrap();
            let mut again = ending(&world, &["a", "b"], slice, end);
            again.restore_worker(&whole.worker_state(), whole.pass().unwrap_or_default()).unwrap();
            let other = again.next_batch().unwrap();
            assert_eq!(rest.as_ref().map(|batch| &batch.state), other.as_ref().map(|batch| &batch.state));
            assert_eq!(
                rest.map(|batch| batch.rows.iter().map(number).collect::<Vec<_>>()),
                other.map(|batch| batch.rows.iter().map(number).collect())
            );
        }
    }
}

#[test]
fn a_pass_without_a_batch_is_refused() {
    let world = World::new();
    let error = ending(&world, &["a"], Slice::whole(23), End::Drop { epochs: 1 }).next_batch().unwrap_err().to_string();
    assert!(error.contains("22 packs") && error.contains("takes 23"), "{error}");
    let batch = ending(&world, &["a"], Slice::whole(23), End::Pad { epochs: 1 }).next_batch().unwrap().unwrap();
    assert!(batch.is_last && batch.state.position == 22);
    assert!(ending(&world, &["a"], Slice::whole(23), End::Drop { epochs: 2 }).next_batch().unwrap().is_some());
}
