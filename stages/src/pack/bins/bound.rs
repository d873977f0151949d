//! What no packing can do without.

use std::cmp::Ordering;

/// Largest parameter of the rounding bounds: items below a hundredth of a bin hardly matter.
const MAX_ROUNDING: u64 = 100;

/// Most sizes of parts that are tried.
const MAX_PARTS: usize = 2048;

/// A number of bins of `capacity` that items of `costs` cannot do without: the largest of three bounds.
///
/// # Panics
/// If an item is larger than the capacity.
#[must_use]
pub fn least_bins(costs: &[usize], capacity: usize) -> usize {
    least_bins_up_to(costs, capacity, usize::MAX)
}

/// As [`least_bins`], but what is `enough` need not be surpassed: the cheaper bounds come first.
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

/// Items above half of the capacity stand in a bin each. Of the others, for every size up to half: those of at least that size fit only beside
/// such items as leave that much, and what finds no room there needs bins of its own. `count` is the number of items of each size.
///
/// # Source
/// Bound L2: Martello and Toth, "Lower bounds and reduction procedures for the bin packing problem", 1990.
fn by_halves(count: &[usize]) -> usize {
    let capacity = count.len() - 1;
    let half = capacity / 2;
    let above_half: usize = count[half + 1..].iter().sum();
    let (mut bound, mut room, mut small) = (above_half, 0, 0);
    for size in (0..=half).rev() {
        small += size * count[size];
        // Of an even capacity, half of it is not above half.
        if capacity - size > half {
            room += size * count[capacity - size];
        }
        bound = bound.max(above_half + small.saturating_sub(room).div_ceil(capacity));
    }
    bound
}

/// For every `k`: if items are rounded down to multiples of a bin's `(k + 1)`-th part, and those parts are then counted as `k`-th ones, what
/// fitted into a bin still does. Items above a quarter of a bin are a third each by this, for `k = 3`. `count` as for [`by_halves`].
///
/// # Source
/// Dual feasible functions: Fekete and Schepers, "New classes of fast lower bounds for bin packing problems", 2001, theorem 4.
fn by_rounding(count: &[usize]) -> usize {
    let capacity = (count.len() - 1) as u64;
    let bound = |k: u64| {
        // In units of one part in `k * capacity`.
        let rounded = |size: u64| {
            let parts = (k + 1) * size;
            if parts.is_multiple_of(capacity) { size * k } else { parts / capacity * capacity }
        };
        let total: u64 = (0..).zip(count).map(|(size, &items)| items as u64 * rounded(size)).sum();
        total.div_ceil(k * capacity)
    };
    (1..=MAX_ROUNDING).map(bound).max().unwrap_or_default() as usize
}

/// For every size of a part: what items below half of a bin hold in whole parts is counted, and from those above half the whole parts beside them are
/// taken off. What fitted into a bin still does. This sees that a half and two quarters do not fit if each is a little too large. `count` as for
/// [`by_halves`].
///
/// # Source
/// Dual feasible functions: Carlier, Clautiaux and Moukrim, "New reduction procedures and lower bounds for the two-dimensional bin packing problem with
/// fixed orientation", 2007, function f0.
fn by_parts(count: &[usize]) -> usize {
    let capacity = count.len() - 1;
    let items: Vec<(usize, usize)> = count.iter().copied().enumerate().filter(|(_, items)| *items > 0).collect();
    // In halves of a part, since an item of half a bin is half of its parts.
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
