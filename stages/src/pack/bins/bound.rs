//! Lower bounds of the number of bins.

use std::cmp::Ordering;

/// Largest parameter of the rounding bounds: items below a hundredth of a bin hardly matter.
const MAX_ROUNDING: u64 = 100;

/// Largest number of part sizes that are tried.
const MAX_PARTS: usize = 2048;

/// Returns a lower bound of the number of bins of `capacity` for items of `costs`: the largest of three bounds.
///
/// # Panics
/// If an item exceeds the capacity.
#[must_use]
pub fn least_bins(costs: &[usize], capacity: usize) -> usize {
    least_bins_up_to(costs, capacity, usize::MAX)
}

/// Computes [`least_bins`], but stops at the first bound of at least `enough`. The cheaper bounds come first.
pub(super) fn least_bins_up_to(costs: &[usize], capacity: usize, enough: usize) -> usize {
    if capacity == 0 {
        return usize::from(!costs.is_empty());
    }
    let mut count = vec![0; capacity + 1];
    costs.iter().for_each(|&cost| count[cost] += 1);
    let mut bound = 0;
    for better in [by_halves, by_rounding, by_parts] {
        bound = better(&count).max(bound);
        if bound >= enough {
            break;
        }
    }
    bound
}

/// Bound L2. Items above half of the capacity need a bin each. For every size up to half, the smaller items of at least that size fit only
/// beside such items as leave that much room; the rest needs further bins. `count` is the number of items of each size.
///
/// # Source
/// Martello and Toth, "Lower bounds and reduction procedures for the bin packing problem", 1990.
fn by_halves(count: &[usize]) -> usize {
    let capacity = count.len() - 1;
    let half = capacity / 2;
    let above_half: usize = count[half + 1..].iter().sum();
    let (mut bound, mut room, mut small) = (above_half, 0, 0);
    for size in (0..=half).rev() {
        small += size * count[size];
        // If the capacity is even, its half is not above half.
        if capacity - size > half {
            room += size * count[capacity - size];
        }
        bound = bound.max(above_half + small.saturating_sub(room).div_ceil(capacity));
    }
    bound
}

/// Rounding bounds. For every `k`, sizes are rounded down to multiples of a `(k + 1)`-th of a bin, and each such part counts as a `k`-th of
/// a bin. Items that fit into a bin still do. For `k = 3`, items above a quarter of a bin count as a third each. `count` as for
/// [`by_halves`].
///
/// # Source
/// Dual feasible functions: Fekete and Schepers, "New classes of fast lower bounds for bin packing problems", 2001, theorem 4.
fn by_rounding(count: &[usize]) -> usize {
    let capacity = (count.len() - 1) as u64;
    let bound = |k: u64| {
        // In units of a bin over `k * capacity`.
        let rounded = |size: u64| {
            let parts = (k + 1) * size;
            if parts.is_multiple_of(capacity) { size * k } else { parts / capacity * capacity }
        };
        let total: u64 = (0..).zip(count).map(|(size, &items)| items as u64 * rounded(size)).sum();
        total.div_ceil(k * capacity)
    };
    (1..=MAX_ROUNDING).map(bound).max().unwrap_or_default() as usize
}

/// Part bounds. For every size of a part, an item below half of a bin counts the whole parts in it, and an item above half counts all parts
/// of a bin less the whole parts that fit beside it. Items that fit into a bin still do. This shows that a half and two quarters do not fit
/// if each is a little too large. `count` as for [`by_halves`].
///
/// # Source
/// Dual feasible functions: Carlier, Clautiaux and Moukrim, "New reduction procedures and lower bounds for the two-dimensional bin packing
/// problem with fixed orientation", 2007, function f0.
fn by_parts(count: &[usize]) -> usize {
    let capacity = count.len() - 1;
    let items: Vec<(usize, usize)> = count.iter().copied().enumerate().filter(|(_, items)| *items > 0).collect();
    // In half parts, since an item of half a bin counts half of the bin's parts.
    let bound = |part: usize| {
        let parts = capacity / part;
        let halves = |size: usize| match (2 * size).cmp(&capacity) {
            Ordering::Less => 2 * (size / part),
            Ordering::Equal => parts,
            Ordering::Greater => 2 * (parts - (capacity - size) / part),
        };
        items.iter().map(|&(size, items)| items * halves(size)).sum::<usize>().div_ceil(2 * parts)
    };
    (1..=capacity / 2).step_by((capacity / 2).div_ceil(MAX_PARTS).max(1)).map(bound).max().unwrap_or_default()
}
