//! Bin packing of integer costs.

use std::collections::BTreeMap;

/// Items of each bin, one bin after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bins {
    items: Vec<u32>,
    /// End of each bin in `items`.
    ends: Vec<u32>,
}

impl Bins {
    /// Number of bins.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Indices of the items of each bin, largest item first.
    pub fn iter(&self) -> impl Iterator<Item = &[u32]> {
        let begins = std::iter::once(&0).chain(&self.ends);
        begins.zip(&self.ends).map(|(begin, end)| &self.items[*begin as usize..*end as usize])
    }
}

/// Distributes items of `costs` over bins of `capacity`: the largest first, each into the fullest bin that still holds it. Of equally large
/// items the earlier one is placed first; of equally full bins the one that became so last takes it. Time: `n + capacity`, for all that
/// matters; memory: some 20 bytes an item.
///
/// # Panics
/// If an item is larger than the capacity, or there are 2^32 items or more; the caller has checked.
///
/// # Source
/// Best-fit decreasing: Johnson 1973.
#[must_use]
pub fn best_fit_decreasing(costs: &[usize], capacity: usize) -> Bins {
    let mut rooms = Rooms::new(capacity);
    let mut bin_of = vec![0_u32; costs.len()];
    let order = largest_first(costs, capacity);
    for &item in &order {
        bin_of[item as usize] = rooms.place(costs[item as usize]);
    }
    group(&order, &bin_of, rooms.next.len())
}

/// Indices by descending cost; equal ones ascend.
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

/// Items of each bin, in the order of `order`.
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
        // While items are put in, the end of a bin is where its next item goes, which is what the end of the bin before will be.
        let place = &mut ends[bin_of[item as usize] as usize];
        items[*place as usize] = item;
        *place += 1;
    }
    ends.truncate(bins);
    Bins { items, ends }
}

/// No bin.
const NONE: u32 = u32::MAX;

/// Open bins by the room that is left in them.
struct Rooms {
    capacity: usize,
    /// For each room the bin that came to have it last.
    heads: Vec<u32>,
    /// For each bin the next one of the same room.
    next: Vec<u32>,
    /// Bit `r` of the first level: some bin has room `r`; of each further one: some bit of word `r` below is set.
    levels: [Vec<u64>; 3],
}

impl Rooms {
    fn new(capacity: usize) -> Self {
        let words = |bits: usize| bits.div_ceil(64).max(1);
        let (first, second) = (words(capacity + 1), words(words(capacity + 1)));
        let levels = [vec![0; first], vec![0; second], vec![0; words(second)]];
        Self { capacity, heads: vec![NONE; capacity + 1], next: Vec::new(), levels }
    }

    /// Puts an item into the fullest bin that holds it, or a new one; returns the bin.
    fn place(&mut self, cost: usize) -> u32 {
        let (bin, room) = match self.least_from(cost) {
            Some(room) => (self.take(room), room),
            None => {
                self.next.push(NONE);
                ((self.next.len() - 1) as u32, self.capacity)
            }
        };
        self.put(room - cost, bin);
        bin
    }

    fn take(&mut self, room: usize) -> u32 {
        let bin = self.heads[room];
        self.heads[room] = self.next[bin as usize];
        if self.heads[room] == NONE {
            let mut bit = room;
            for level in &mut self.levels {
                level[bit / 64] &= !(1 << (bit % 64));
                if level[bit / 64] != 0 {
                    break;
                }
                bit /= 64;
            }
        }
        bin
    }

    fn put(&mut self, room: usize, bin: u32) {
        self.next[bin as usize] = self.heads[room];
        self.heads[room] = bin;
        let mut bit = room;
        for level in &mut self.levels {
            level[bit / 64] |= 1 << (bit % 64);
            bit /= 64;
        }
    }

    /// The least room of an open bin that is `cost` or more.
    fn least_from(&self, cost: usize) -> Option<usize> {
        let mut from = cost;
        for (height, level) in self.levels.iter().enumerate() {
            let found = level.get(from / 64).map_or(0, |word| word & (u64::MAX << (from % 64)));
            if found != 0 {
                let mut bit = from / 64 * 64 + found.trailing_zeros() as usize;
                for below in self.levels[..height].iter().rev() {
                    bit = bit * 64 + below[bit].trailing_zeros() as usize;
                }
                return Some(bit);
            }
            from = from / 64 + 1;
        }
        None
    }
}

/// Multiples of `pack.seq_len` that are looked at, in sixteenths: one and a little holds an image more than one does.
const OTHER_LENGTHS: [usize; 8] = [8, 12, 16, 17, 18, 20, 24, 32];

/// Packs that documents with `costs` (tokens behind the first one) fill at `seq_len` and at some lengths from half to double, rounded up to a multiple of
/// 64; lengths that do not hold all of them are left out.
#[must_use]
pub fn packs_at_other_lengths(costs: &[usize], seq_len: usize) -> BTreeMap<u32, u64> {
    let longest = costs.iter().max().map_or(0, |cost| cost + 1);
    let lengths = OTHER_LENGTHS.map(|sixteenths| (seq_len * sixteenths / 16).next_multiple_of(64));
    let packs = |length: usize| (length as u32, best_fit_decreasing(costs, length - 1).len() as u64);
    lengths.into_iter().filter(|length| *length >= longest && !costs.is_empty()).map(packs).collect()
}

/// Largest parameter of the rounding bounds: items below a hundredth of a bin hardly matter.
const MAX_ROUNDING: u64 = 100;

/// A number of bins of `capacity` that items of `costs` cannot do without: the larger of two bounds.
///
/// # Panics
/// If an item is larger than the capacity.
#[must_use]
pub fn least_bins(costs: &[usize], capacity: usize) -> usize {
    if capacity == 0 {
        return usize::from(!costs.is_empty());
    }
    let mut count = vec![0; capacity + 1];
    costs.iter().for_each(|&cost| count[cost] += 1);
    by_halves(&count).max(by_rounding(&count))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn bins(costs: &[usize], capacity: usize) -> Vec<Vec<u32>> {
        best_fit_decreasing(costs, capacity).iter().map(<[u32]>::to_vec).collect()
    }

    /// Number of bins that best-fit decreasing takes, by its definition.
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

    /// Least number of bins, by trying all ways.
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

    proptest! {
        #[test]
        fn every_item_is_placed_once_and_no_bin_overflows(costs in prop::collection::vec(0_usize..=50, 0..200)) {
            let bins = bins(&costs, 50);
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
            prop_assert!(least <= bins(&costs, 20).len());
        }
    }
}
