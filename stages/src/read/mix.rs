//! Mixture of sources: chooses the source of each position, by weights that change at given positions.
//!
//! The choice at a position depends only on seed, position and the weights there, so weights may change, and sources come and go, at any
//! step. Positions are cut into rounds of [`ROUND`]. A keyed permutation deals the places of a round to the sources, so every whole round
//! has exactly each source's share. To count the packs of a source before a position takes at most the time of one round.

use std::collections::BTreeMap;

use cm3flow_schemas::canonical::digest_of;
use serde::{Deserialize, Serialize};

use super::order::Permutation;
use crate::error::{Result, StageError};

/// Number of positions in a round, and thus the finest share: a source has at least one pack of each.
const ROUND: u64 = 1 << 16;
/// Limits of the number of sources and of the bytes of a name: a state stays below 1 KiB.
const MAX_SOURCES: usize = 16;
const MAX_NAME_BYTES: usize = 32;

/// Weights from a position on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// First position, in packs over all ranks, that the weights apply to. The first phase begins at 0.
    pub from: u64,
    /// Weights by name of the source, finite and at least 0, one above 0. An absent source has weight 0.
    pub weights: BTreeMap<String, f64>,
}

/// Validated schedule of weights over sources.
#[derive(Debug, Clone)]
pub struct Schedule {
    names: Vec<String>,
    phases: Vec<Share>,
    seed: u64,
    id: String,
    /// Round of the last request.
    round: Option<(u64, Permutation)>,
}

#[derive(Debug, Clone)]
struct Share {
    from: u64,
    /// End of each source's places in a round.
    ends: Vec<u64>,
    /// Source that has all places, if there is one.
    only: Option<usize>,
}

impl Schedule {
    /// Builds a schedule of `phases` over the sources `names`, which ascend.
    ///
    /// # Errors
    /// [`StageError::Mixture`] with the problem of names, weights or positions.
    pub fn try_new(names: Vec<String>, phases: &[Phase], seed: u64) -> Result<Self> {
        check_names(&names)?;
        let first = phases.first().ok_or_else(|| refused("a schedule needs at least one phase".into()))?;
        if first.from != 0 {
            return Err(refused(format!("the first phase must begin at position 0, got {}", first.from)));
        }
        if let Some(pair) = phases.windows(2).find(|pair| pair[0].from >= pair[1].from) {
            return Err(refused(format!("phases must be in order of position, got {} and then {}", pair[0].from, pair[1].from)));
        }
        let id = digest_of("schedule", &(seed, phases)).short();
        let phases = phases.iter().map(|phase| Share::try_new(&names, phase)).collect::<Result<_>>()?;
        Ok(Self { names, phases, seed, id, round: None })
    }

    /// Builds the schedule of one source.
    ///
    /// # Errors
    /// [`StageError::Mixture`] if the name is too long.
    pub fn single(name: &str, seed: u64) -> Result<Self> {
        let phase = Phase { from: 0, weights: BTreeMap::from([(name.to_owned(), 1.0)]) };
        Self::try_new(vec![name.to_owned()], &[phase], seed)
    }

    /// Returns the names of the sources.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the identity of the schedule: a digest of seed and phases.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the seed of the choices.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns the index of the source that `position` reads from.
    pub fn source_at(&mut self, position: u64) -> usize {
        let phase = self.phases.partition_point(|phase| phase.from <= position) - 1;
        if let Some(only) = self.phases[phase].only {
            return only;
        }
        let place = self.place(position);
        self.phases[phase].ends.partition_point(|end| *end <= place)
    }

    /// Adds the number of positions in `from..to` that read from each source to `counts`.
    pub fn count(&mut self, from: u64, to: u64, counts: &mut [u64]) {
        let mut at = from;
        while at < to {
            let phase = self.phases.partition_point(|phase| phase.from <= at) - 1;
            let end = self.phases.get(phase + 1).map_or(to, |next| next.from.min(to));
            if let Some(only) = self.phases[phase].only {
                counts[only] += end - at;
                at = end;
                continue;
            }
            let rounds = if at.is_multiple_of(ROUND) { (end - at) / ROUND } else { 0 };
            if rounds > 0 {
                let mut start = 0;
                for (count, end) in counts.iter_mut().zip(&self.phases[phase].ends) {
                    *count += rounds * (end - start);
                    start = *end;
                }
                at += rounds * ROUND;
            } else {
                let stop = end.min((at / ROUND + 1) * ROUND);
                (at..stop).for_each(|position| counts[self.source_at(position)] += 1);
                at = stop;
            }
        }
    }

    /// Returns the place of a position in the order of its round.
    fn place(&mut self, position: u64) -> u64 {
        let number = position / ROUND;
        let permutation = match &mut self.round {
            Some((round, permutation)) if *round == number => permutation,
            round => {
                let key = [self.seed.to_le_bytes(), number.to_le_bytes()].concat();
                &mut round.insert((number, Permutation::new(ROUND, &[b"mixture", &key]))).1
            }
        };
        permutation.at(position % ROUND)
    }
}

impl Share {
    fn try_new(names: &[String], phase: &Phase) -> Result<Self> {
        let at = phase.from;
        if let Some(unknown) = phase.weights.keys().find(|name| !names.contains(name)) {
            return Err(refused(format!("the phase from {at} weighs {unknown:?}, which is no source; there are {}", names.join(", "))));
        }
        if let Some((name, weight)) = phase.weights.iter().find(|(_, weight)| !(weight.is_finite() && **weight >= 0.0)) {
            return Err(refused(format!("the weight of {name} from {at} must be 0 or more and finite, got {weight}")));
        }
        let weights: Vec<f64> = names.iter().map(|name| phase.weights.get(name).copied().unwrap_or_default()).collect();
        let sum: f64 = weights.iter().sum();
        if !(sum.is_finite() && sum > 0.0) {
            return Err(refused(format!("the weights from {at} must have a sum above 0, got {sum}")));
        }
        let mut end = 0;
        let place = |places| {
            end += places;
            end
        };
        let ends: Vec<u64> = places_of(&weights, sum).into_iter().map(place).collect();
        let mut weighed = weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0).map(|(source, _)| source);
        let only = weighed.next().filter(|_| weighed.next().is_none());
        Ok(Self { from: phase.from, ends, only })
    }
}

/// Returns the places of a round for each weight: by largest remainder, at least one for each positive weight.
fn places_of(weights: &[f64], sum: f64) -> Vec<u64> {
    let exact: Vec<f64> = weights.iter().map(|weight| weight / sum * ROUND as f64).collect();
    let least = |source: usize| u64::from(weights[source] > 0.0);
    let mut places: Vec<u64> = exact.iter().enumerate().map(|(source, share)| (share.floor() as u64).max(least(source))).collect();
    // Floats compare alike on all machines; ties go to the earlier source.
    let remainder = |places: &[u64], source: usize| exact[source] - places[source] as f64;
    while places.iter().sum::<u64>() < ROUND {
        let lacking = (0..places.len()).rev().max_by(|a, b| remainder(&places, *a).total_cmp(&remainder(&places, *b)));
        places[lacking.expect("there is a source")] += 1;
    }
    while places.iter().sum::<u64>() > ROUND {
        let spare = (0..places.len()).filter(|source| places[*source] > 1);
        let most = spare.min_by(|a, b| remainder(&places, *a).total_cmp(&remainder(&places, *b)));
        places[most.expect("fewer sources than places")] -= 1;
    }
    places
}

fn check_names(names: &[String]) -> Result<()> {
    if names.is_empty() || names.len() > MAX_SOURCES {
        return Err(refused(format!("a mixture has 1 to {MAX_SOURCES} sources, got {}", names.len())));
    }
    if let Some(name) = names.iter().find(|name| name.is_empty() || name.len() > MAX_NAME_BYTES) {
        return Err(refused(format!("the name of a source has 1 to {MAX_NAME_BYTES} bytes, got {name:?}")));
    }
    // Choices depend on the order of the sources, and the user's order must not matter.
    match names.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) if pair[0] == pair[1] => Err(refused(format!("two sources are called {:?}", pair[0]))),
        Some(pair) => Err(refused(format!("sources must be in the order of their names, got {:?} before {:?}", pair[0], pair[1]))),
        None => Ok(()),
    }
}

fn refused(problem: String) -> StageError {
    StageError::Mixture { problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(from: u64, weights: &[(&str, f64)]) -> Phase {
        Phase { from, weights: weights.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect() }
    }

    fn schedule(phases: &[Phase]) -> Schedule {
        Schedule::try_new(["a", "b", "c"].map(String::from).to_vec(), phases, 5).expect("sound")
    }

    #[test]
    fn every_whole_round_holds_exactly_the_shares() {
        let mut mixed = schedule(&[phase(0, &[("a", 2.0), ("b", 1.0), ("c", 1.0)])]);
        for round in [0, 3] {
            let mut counts = [0; 3];
            (round * ROUND..(round + 1) * ROUND).for_each(|position| counts[mixed.source_at(position)] += 1);
            assert_eq!(counts, [ROUND / 2, ROUND / 4, ROUND / 4]);
        }
        let mut early = [0; 3];
        mixed.count(0, 1000, &mut early);
        assert!((400..600).contains(&early[0]), "{early:?}");
    }

    #[test]
    fn counting_agrees_with_looking_at_every_position() {
        let phases = [phase(0, &[("a", 1.0)]), phase(777, &[("a", 0.3), ("b", 0.7)]), phase(200_000, &[("b", 1.0), ("c", 1e-9)])];
        let mut mixed = schedule(&phases);
        for (from, to) in [(0, 0), (0, 500), (700, 900), (0, 300_000), (65_536, 199_000), (199_999, 333_333)] {
            let (mut counts, mut looked) = ([0; 3], [0; 3]);
            mixed.count(from, to, &mut counts);
            (from..to).for_each(|position| looked[mixed.source_at(position)] += 1);
            assert_eq!(counts, looked, "{from}..{to}");
        }
    }

    #[test]
    fn a_source_with_any_weight_is_read_and_one_without_is_not() {
        let mut mixed = schedule(&[phase(0, &[("a", 1.0), ("b", 1e-12)])]);
        let mut counts = [0; 3];
        mixed.count(0, ROUND, &mut counts);
        assert_eq!(counts, [ROUND - 1, 1, 0]);
    }

    #[test]
    fn the_choice_at_a_position_depends_on_the_weights_there_alone() {
        let weights = [("a", 0.5), ("b", 0.5)];
        let mut always = schedule(&[phase(0, &weights)]);
        let mut later = schedule(&[phase(0, &[("c", 1.0)]), phase(1000, &weights)]);
        assert!((1000..3000).all(|position| always.source_at(position) == later.source_at(position)));
        assert_ne!(always.id(), later.id());
    }

    #[test]
    fn schedules_that_make_no_sense_are_named() {
        let names = || ["a", "b", "c"].map(String::from).to_vec();
        for (phases, named) in [
            (vec![], "at least one"),
            (vec![phase(5, &[("a", 1.0)])], "position 0"),
            (vec![phase(0, &[("a", 1.0)]), phase(0, &[("b", 1.0)])], "in order"),
            (vec![phase(0, &[("d", 1.0)])], "\"d\""),
            (vec![phase(0, &[("a", -1.0)])], "got -1"),
            (vec![phase(0, &[("a", f64::NAN)])], "NaN"),
            (vec![phase(0, &[("a", 0.0)])], "sum above 0"),
        ] {
            let error = Schedule::try_new(names(), &phases, 1).expect_err("refused").to_string();
            assert!(error.contains(named), "{error}");
        }
        for names in [
            vec![],
            vec![String::new()],
            vec!["x".repeat(33)],
            vec!["a".into(), "a".into()],
            vec!["b".into(), "a".into()],
            vec!["a".into(); 17],
        ] {
            assert!(matches!(Schedule::try_new(names, &[phase(0, &[])], 1), Err(StageError::Mixture { .. })));
        }
    }
}
