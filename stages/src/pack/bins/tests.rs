//! Bins: every item is in one bin, no bin overflows, and no bound exceeds an attainable number.

use std::collections::BTreeSet;

use cm3flow_schemas::random::Draws;
use proptest::prelude::*;

use super::*;

fn lists(bins: &Bins) -> Vec<Vec<u32>> {
    bins.iter().map(<[u32]>::to_vec).collect()
}

fn bins(costs: &[usize], capacity: usize) -> Vec<Vec<u32>> {
    lists(&best_fit_decreasing(costs, capacity))
}

/// Returns the number of bins of best-fit decreasing, by its definition.
fn plain(costs: &[usize], capacity: usize) -> usize {
    let mut costs = costs.to_vec();
    costs.sort_unstable_by(|a, b| b.cmp(a));
    let mut rooms: Vec<usize> = Vec::new();
    for cost in costs {
        match rooms.iter_mut().filter(|room| **room >= cost).min() {
            Some(room) => *room -= cost,
            None => rooms.push(capacity - cost),
        }
    }
    rooms.len()
}

/// Returns the least number of bins, by trying all ways.
fn least(costs: &[usize], rooms: &mut Vec<usize>, capacity: usize) -> usize {
    let Some((cost, rest)) = costs.split_first() else { return rooms.len() };
    let mut best = usize::MAX;
    for bin in 0..rooms.len() {
        if rooms[bin] >= *cost {
            rooms[bin] -= cost;
            best = best.min(least(rest, rooms, capacity));
            rooms[bin] += cost;
        }
    }
    rooms.push(capacity - cost);
    best = best.min(least(rest, rooms, capacity));
    rooms.pop();
    best
}

#[test]
fn the_fullest_bin_that_fits_is_taken() {
    assert_eq!(bins(&[6, 5, 4, 3, 2], 10), [vec![0, 2], vec![1, 3, 4]]);
    assert!(best_fit_decreasing(&[], 10).is_empty());
    assert_eq!(bins(&[0, 0], 0), [vec![0, 1]]);
}

#[test]
fn rooms_far_apart_are_found() {
    // One bin of each room: the search has to cross words of all levels.
    let costs = [131_071, 100_000, 70_000, 60_000, 31_071, 1];
    assert_eq!(bins(&costs, 131_071), [vec![0], vec![1, 4], vec![2, 3, 5]]);
}

#[test]
fn large_items_cannot_do_with_fewer_bins_than_there_are() {
    assert_eq!(least_bins(&[51; 10], 100), 10, "more than half each");
    assert_eq!(least_bins(&[50; 10], 100), 5);
    assert_eq!(least_bins(&[60, 60, 60, 45, 45, 45], 100), 5, "beside 60 no 45 fits");
    assert_eq!(least_bins(&[26; 10], 100), 4, "three fit into a bin");
    assert_eq!((least_bins(&[], 100), least_bins(&[], 0), least_bins(&[0], 0), least_bins(&[100], 100)), (0, 0, 1, 1));
}

/// Makes lengths of one and two pictures, slightly above a quarter and a half of a bin, with texts of all lengths, and of longer documents.
fn mixture(items: usize) -> Vec<usize> {
    let mut draws = Draws::new(5, "mixture", &[]);
    let mut length = |_| match draws.below(20) {
        0..12 => 266 + draws.below(10) + draws.below(10) + draws.below(10),
        12..17 => 520 + draws.below(60) + draws.below(60),
        _ => 750 + draws.below(400),
    };
    (0..items).map(|item| length(item) as usize).collect()
}

#[test]
fn sums_fill_bins_that_best_fit_leaves_open() {
    // Best fit puts 4 beside 4, where nothing else fits.
    let costs = [4, 4, 3, 3, 3, 3];
    assert_eq!(bins(&costs, 10), [vec![0, 1], vec![2, 3, 4], vec![5]]);
    assert_eq!(lists(&sums::fill(&costs, 10)), [vec![0, 2, 3], vec![1, 4, 5]]);
    assert_eq!(fit(&costs, 10).len(), 2);
    assert_eq!(lists(&sums::fill(&[0, 0, 5, 5], 5)), [vec![2], vec![3, 0, 1]], "what has no length joins a bin");
    assert_eq!(lists(&sums::fill(&[0, 0], 5)), [vec![0, 1]]);
    assert!(sums::fill(&[], 5).is_empty());
}

#[test]
fn mixtures_are_packed_within_two_thousandths_of_the_bound() {
    let costs = mixture(10_000);
    let (least, best_fit, fitted) = (least_bins(&costs, 1151), best_fit_decreasing(&costs, 1151), fit(&costs, 1151));
    assert!(best_fit.len() * 1000 > least * 1005, "{} bins by best fit, bound {least}: this mixture shows nothing", best_fit.len());
    assert!(fitted.len() * 1000 <= least * 1002, "{} bins, bound {least}", fitted.len());
}

proptest! {
    #[test]
    fn every_item_is_placed_once_and_no_bin_overflows(costs in prop::collection::vec(0_usize..=50, 0..200), by_sums: bool) {
        let bins = lists(&if by_sums { sums::fill(&costs, 50) } else { best_fit_decreasing(&costs, 50) });
        let placed: BTreeSet<u32> = bins.iter().flatten().copied().collect();
        prop_assert_eq!(bins.iter().map(Vec::len).sum::<usize>(), costs.len());
        prop_assert_eq!(placed.len(), costs.len());
        for bin in &bins {
            prop_assert!(bin.iter().map(|&item| costs[item as usize]).sum::<usize>() <= 50);
            prop_assert!(bin.windows(2).all(|pair| costs[pair[0] as usize] >= costs[pair[1] as usize]), "largest first");
        }
    }

    #[test]
    fn as_many_bins_are_taken_as_by_the_definition(costs in prop::collection::vec(0_usize..=500, 0..150)) {
        prop_assert_eq!(bins(&costs, 500).len(), plain(&costs, 500));
    }

    #[test]
    fn no_way_takes_fewer_bins_than_the_bound(costs in prop::collection::vec(1_usize..=20, 0..8)) {
        let least = least(&costs, &mut Vec::new(), 20);
        prop_assert!(least_bins(&costs, 20) <= least);
        prop_assert!(least <= fit(&costs, 20).len());
    }
}
