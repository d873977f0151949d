//! Bin packing of integer costs: best-fit decreasing, and exact sums of items where best fit leaves too much room.

mod best_fit;
mod bound;
mod sums;

use std::collections::BTreeMap;

use best_fit::best_fit_decreasing;
pub use bound::least_bins;

/// Items of each bin, stored bin after bin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bins {
    items: Vec<u32>,
    /// End of each bin in `items`.
    ends: Vec<u32>,
}

impl Bins {
    /// Returns the number of bins.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Checks whether there are no bins.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Iterates over the bins, each as the indices of its items, largest item first.
    pub fn iter(&self) -> impl Iterator<Item = &[u32]> {
        let begins = std::iter::once(&0).chain(&self.ends);
        begins.zip(&self.ends).map(|(begin, end)| &self.items[*begin as usize..*end as usize])
    }
}

/// Excess of best fit over the lower bound, in thousandths, up to which no other way of packing is tried.
const TOLERANCE: usize = 1;

/// Distributes items of `costs` over bins of `capacity` by the better of two ways. The first is best-fit decreasing. If it takes over a
/// thousandth more than [`least_bins`], the second fills one bin after another by the sums of items.
///
/// # Panics
/// If an item exceeds the capacity, or if there are 2^32 items or more; the caller has checked both.
#[must_use]
pub fn fit(costs: &[usize], capacity: usize) -> Bins {
    let best_fit = best_fit_decreasing(costs, capacity);
    let enough = (best_fit.len() * 1000).div_ceil(1000 + TOLERANCE);
    if bound::least_bins_up_to(costs, capacity, enough) >= enough {
        return best_fit;
    }
    let by_sums = sums::fill(costs, capacity);
    if by_sums.len() < best_fit.len() { by_sums } else { best_fit }
}

/// Returns the indices of items by descending cost; equal ones ascend. It is a counting sort.
fn largest_first(costs: &[usize], capacity: usize) -> Vec<u32> {
    assert!(u32::try_from(costs.len()).is_ok(), "{} items are too many", costs.len());
    let mut begins = vec![0_u32; capacity + 2];
    for (item, &cost) in costs.iter().enumerate() {
        assert!(cost <= capacity, "item {item} costs {cost}, a bin holds {capacity}");
        begins[capacity - cost + 1] += 1;
    }
    for place in 1..begins.len() {
        begins[place] += begins[place - 1];
    }
    let mut order = vec![0; costs.len()];
    for (item, &cost) in (0_u32..).zip(costs) {
        let place = &mut begins[capacity - cost];
        order[*place as usize] = item;
        *place += 1;
    }
    order
}

/// Groups the items by bin, in the order of `order`.
fn group(order: &[u32], bin_of: &[u32], bins: usize) -> Bins {
    let mut ends = vec![0_u32; bins + 1];
    for &bin in bin_of {
        ends[bin as usize + 1] += 1;
    }
    for bin in 1..ends.len() {
        ends[bin] += ends[bin - 1];
    }
    let mut items = vec![0; order.len()];
    for &item in order {
        // During the loop, the end of a bin is the place of its next item; it finishes at the begin of the next bin.
        let place = &mut ends[bin_of[item as usize] as usize];
        items[*place as usize] = item;
        *place += 1;
    }
    ends.truncate(bins);
    Bins { items, ends }
}

/// Other values of `pack.seq_len` to try, in sixteenths of the present one. Slightly more than the present length may hold one more image.
const OTHER_LENGTHS: [usize; 8] = [8, 12, 16, 17, 18, 20, 24, 32];

/// Returns the number of packs that documents with `costs` (tokens behind the first one) fill at `seq_len` and at some lengths from half to
/// double, rounded up to a multiple of 64. Lengths below the longest document are left out.
#[must_use]
pub fn packs_at_other_lengths(costs: &[usize], seq_len: usize) -> BTreeMap<u32, u64> {
    let longest = costs.iter().max().map_or(0, |cost| cost + 1);
    let lengths = OTHER_LENGTHS.map(|sixteenths| (seq_len * sixteenths / 16).next_multiple_of(64));
    let packs = |length: usize| (length as u32, fit(costs, length - 1).len() as u64);
    lengths.into_iter().filter(|length| *length >= longest && !costs.is_empty()).map(packs).collect()
}

#[cfg(test)]
mod tests;
