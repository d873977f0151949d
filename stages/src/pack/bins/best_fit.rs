//! Best-fit decreasing bin packing, in linear time.

use super::{Bins, group, largest_first};

/// Distributes items of `costs` over bins of `capacity`: the largest first, each into the fullest bin that has room for it. Of equally
/// large items, the earlier one is placed first. Of equally full bins, the one that became so last takes the item. Time: proportional to
/// `n + capacity`; memory: about 20 bytes an item.
///
/// # Panics
/// If an item exceeds the capacity, or if there are 2^32 items or more; the caller has checked both.
///
/// # Source
/// Best-fit decreasing: Johnson 1973.
pub(super) fn best_fit_decreasing(costs: &[usize], capacity: usize) -> Bins {
    let mut rooms = Rooms::new(capacity);
    let mut bin_of = vec![0_u32; costs.len()];
    let order = largest_first(costs, capacity);
    for &item in &order {
        bin_of[item as usize] = rooms.place(costs[item as usize]);
    }
    group(&order, &bin_of, rooms.len())
}

/// End of a list of bins.
const NONE: u32 = u32::MAX;

/// Open bins, indexed by their room, the free part of the capacity.
///
/// The bins of each room form a linked list, whose head is the bin that got this room last. A bit set over the rooms tells which lists are
/// not empty. Its upper levels summarise 64 words each, so the search for the least sufficient room takes a few steps for any number of
/// bins. Three levels cover capacities below 2^18.
pub(super) struct Rooms {
    capacity: usize,
    /// By room: head of the list of its bins, or [`NONE`].
    heads: Vec<u32>,
    /// By bin: the next bin of the same room, or [`NONE`].
    next: Vec<u32>,
    /// Bit `r` of the first level is set if the list of room `r` is not empty. Bit `w` of a further level is set if word `w` of the level
    /// below is not 0.
    levels: [Vec<u64>; 3],
}

impl Rooms {
    pub(super) fn new(capacity: usize) -> Self {
        let words = |bits: usize| bits.div_ceil(64).max(1);
        let (first, second) = (words(capacity + 1), words(words(capacity + 1)));
        let levels = [vec![0; first], vec![0; second], vec![0; words(second)]];
        Self { capacity, heads: vec![NONE; capacity + 1], next: Vec::new(), levels }
    }

    /// Returns the number of bins.
    pub(super) fn len(&self) -> usize {
        self.next.len()
    }

    /// Opens a bin with `room` left.
    pub(super) fn open(&mut self, room: usize) {
        self.next.push(NONE);
        self.put(room, (self.next.len() - 1) as u32);
    }

    /// Puts an item into the fullest bin that has room for it, or else into a new one. Returns the bin.
    pub(super) fn place(&mut self, cost: usize) -> u32 {
        let room = self.least_from(cost).unwrap_or_else(|| {
            self.open(self.capacity);
            self.capacity
        });
        let bin = self.take(room);
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

    /// Returns the least room of an open bin that is at least `cost`.
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
