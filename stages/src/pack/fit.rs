//! Bin packing.

use std::collections::BTreeSet;

/// Distributes items of `costs` over bins of `capacity`: the largest first, each into the fullest bin that still holds it. Returns the
/// items of each bin; of equally large items the earlier one is placed first. Time: `n log n`.
///
/// # Panics
/// If an item is larger than the capacity; the caller has checked.
///
/// # Source
/// Best-fit decreasing: Johnson 1973.
#[must_use]
pub fn best_fit_decreasing(costs: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_key(|&item| std::cmp::Reverse(costs[item]));
    let mut bins: Vec<Vec<usize>> = Vec::new();
    let mut room: BTreeSet<(usize, usize)> = BTreeSet::new();
    for item in order {
        let cost = costs[item];
        assert!(cost <= capacity, "item {item} costs {cost}, a bin holds {capacity}");
        let (left, bin) = match room.range((cost, 0)..).next().copied() {
            Some(found) => {
                room.remove(&found);
                found
            }
            None => {
                bins.push(Vec::new());
                (capacity, bins.len() - 1)
            }
        };
        bins[bin].push(item);
        room.insert((left - cost, bin));
    }
    bins
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_fullest_bin_that_fits_is_taken() {
        assert_eq!(best_fit_decreasing(&[6, 5, 4, 3, 2], 10), [vec![0, 2], vec![1, 3, 4]]);
        assert!(best_fit_decreasing(&[], 10).is_empty());
    }

    proptest! {
        #[test]
        fn every_item_is_placed_once_and_no_bin_overflows(costs in prop::collection::vec(0_usize..=50, 0..200)) {
            let bins = best_fit_decreasing(&costs, 50);
            let mut placed: Vec<usize> = bins.iter().flatten().copied().collect();
            placed.sort_unstable();
            prop_assert_eq!(placed, (0..costs.len()).collect::<Vec<_>>());
            for bin in &bins {
                prop_assert!(bin.iter().map(|&item| costs[item]).sum::<usize>() <= 50);
            }
        }
    }
}
