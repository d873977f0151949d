//! Readers that are killed and started again with other ranks, workers and weights read what one that was never disturbed reads.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use cm3flow_schemas::random::Draws;
use cm3flow_schemas::sample::Split;

use super::tests::{Committed, Dataset, packed};
use super::*;

/// Sources of the mixture with the packs of each variant of their windows.
const SOURCES: [(&str, &[&[u32]]); 3] = [("a", &[&[9], &[13]]), ("b", &[&[5, 6, 4]]), ("c", &[&[17], &[], &[4]])];
const SEED: u64 = 11;
/// Packs of a global batch, whatever the ranks: all of 1 to 8 that are drawn divide it.
const GLOBAL_BATCH: u64 = 24;
const RANKS: [u64; 6] = [1, 2, 3, 4, 6, 8];
const MAX_WORKERS: u64 = 4;

/// Datasets of the sources, made once, with a folder that holds the shards of all.
struct World {
    datasets: Vec<Dataset>,
    folder: tempfile::TempDir,
}

/// What one stretch of a run, between two kills, looks like.
#[derive(Debug)]
struct Stretch {
    steps: u64,
    ranks: u64,
    /// 0 reads in the trainer's own process, as one worker does.
    workers: u64,
    phases: Vec<Phase>,
    /// Whether the stretch goes on under the phases of all stretches before, or knows its own weights alone.
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

    /// Packs of each step of a stretch, in the order of their positions, and the state behind it.
    fn play(&self, stretch: &Stretch, phases: &[Phase], from: Option<&MixState>) -> (Vec<Vec<u32>>, MixState) {
        let workers = stretch.workers.max(1);
        let mut steps = vec![Vec::new(); stretch.steps as usize];
        let mut state = None;
        for rank in 0..stretch.ranks {
            let slice = |worker| Slice { batch_size: GLOBAL_BATCH / stretch.ranks, rank, world_size: stretch.ranks, worker, workers };
            let mut readers: Vec<BatchReader> = (0..workers).map(|worker| self.reader(phases, slice(worker))).collect();
            if let Some(from) = from {
                readers.iter_mut().for_each(|reader| reader.restore(from).unwrap());
            }
            for (step, packs) in steps.iter_mut().enumerate() {
                let batch = readers[step % workers as usize].next_batch().unwrap().unwrap();
                packs.extend(batch.rows.iter().map(number));
                state = Some(batch.state);
            }
        }
        // What a checkpoint holds is text.
        let text = serde_json::to_string(&state.unwrap()).unwrap();
        assert!(text.len() < 1024, "{text}");
        (steps, serde_json::from_str(&text).unwrap())
    }
}

/// Number of a pack with that of its source, told by its number of windows' packs.
fn number(row: &PackRow) -> u32 {
    let TokenIds::U16(ids) = row.tokens() else { panic!("ids are small") };
    u32::from(ids[1])
}

fn weights(draws: &mut Draws) -> BTreeMap<String, f64> {
    let mut weights: BTreeMap<String, f64> =
        SOURCES.iter().map(|(name, _)| ((*name).to_owned(), [0.0, 0.1, 1.0, 2.5][draws.index(4)])).collect();
    // One at least is read; sources come, go and come back.
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
        // A change that was planned for some position inside the stretch.
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
        // Weights that hold at the position, as if they always had.
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
    after.restore(&state).unwrap();
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
    // 22 packs of `a`, in global batches of 12.
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
    resumed.restore_worker(&next).unwrap();
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
        let error = reader.restore(&state).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    let mut untouched = world.reader(&phase, Slice::whole(2));
    untouched.restore(&sound).unwrap();
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
