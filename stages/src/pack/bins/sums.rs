//! Bin packing that fills one bin after another as well as the sums of items allow.

use super::best_fit::Rooms;
use super::{Bins, group, largest_first};

/// Limit of the words of sums that are visited, one or two seconds. Items that are left then are packed by best fit.
const MAX_WORDS: usize = 1 << 30;

/// Distributes items of `costs` over bins of `capacity`. The largest item left opens a bin, and the others whose sum comes closest to its
/// room join it, with a preference for larger ones. If lengths come in a few kinds that fit together only in some ways, this takes fewer
/// bins than best-fit decreasing. Memory: about 30 bytes an item, and 4 bytes a unit of capacity.
///
/// # Panics
/// As for [`super::best_fit_decreasing`].
///
/// # Source
/// Minimum bin slack: Gupta and Ho 1999, in the variant MBS' of Fleszar and Hindi 2002; here dynamic programming finds the sums.
pub(super) fn fill(costs: &[usize], capacity: usize) -> Bins {
    let order = largest_first(costs, capacity);
    let mut kinds = kinds(&order, costs);
    let mut sums = Sums::new(capacity);
    let mut rooms = Rooms::new(capacity);
    let mut bin_of = vec![0_u32; costs.len()];
    while let Some(largest) = kinds.first_mut().filter(|kind| kind.cost > 0)
        && sums.words < MAX_WORDS
    {
        let mut room = capacity - largest.cost;
        let bin = rooms.len() as u32;
        bin_of[largest.take(&order)] = bin;
        let mut sum = sums.closest(&kinds, room);
        room -= sum;
        while sum > 0 {
            let kind = &mut kinds[sums.last[sum] as usize];
            sum -= kind.cost;
            bin_of[kind.take(&order)] = bin;
        }
        rooms.open(room);
        kinds.retain(|kind| kind.left() > 0);
    }
    for kind in &mut kinds {
        while kind.left() > 0 {
            bin_of[kind.take(&order)] = rooms.place(kind.cost);
        }
    }
    group(&order, &bin_of, rooms.len())
}

/// Items of one cost that are not placed yet, as a range of an order.
#[derive(Debug)]
struct Kind {
    cost: usize,
    next: usize,
    end: usize,
}

impl Kind {
    fn left(&self) -> usize {
        self.end - self.next
    }

    /// Takes the next item, and returns its index.
    fn take(&mut self, order: &[u32]) -> usize {
        self.next += 1;
        order[self.next - 1] as usize
    }
}

/// Groups the items of `order` into kinds, by descending cost.
fn kinds(order: &[u32], costs: &[usize]) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    for (place, &item) in order.iter().enumerate() {
        let cost = costs[item as usize];
        match kinds.last_mut().filter(|kind| kind.cost == cost) {
            Some(kind) => kind.end += 1,
            None => kinds.push(Kind { cost, next: place, end: place + 1 }),
        }
    }
    kinds
}

/// Sums that subsets of items can have, up to some room.
#[derive(Debug)]
struct Sums {
    /// Bit `s` is set if some items have the sum `s`.
    found: Vec<u64>,
    /// Sums that the last copy of a kind added.
    fresh: Vec<u64>,
    /// By sum, except 0: the index of a kind with an item in it. The other items have a sum that was found before.
    last: Vec<u32>,
    /// Number of words visited so far.
    words: usize,
}

impl Sums {
    fn new(capacity: usize) -> Self {
        let words = capacity / 64 + 1;
        Self { found: vec![0; words], fresh: vec![0; words], last: vec![0; capacity + 1], words: 0 }
    }

    /// Returns the largest sum of at most `room` that items of `kinds` have.
    fn closest(&mut self, kinds: &[Kind], room: usize) -> usize {
        let words = room / 64 + 1;
        self.found[..words].fill(0);
        self.found[0] = 1;
        for (index, kind) in (0..).zip(kinds).filter(|(_, kind)| (1..=room).contains(&kind.cost)) {
            self.fresh[..words].copy_from_slice(&self.found[..words]);
            for _ in 0..kind.left() {
                self.words += words;
                if !self.add(kind.cost, index, room) {
                    break;
                }
            }
            if self.found[room / 64] >> (room % 64) & 1 == 1 {
                return room;
            }
        }
        let word = self.found[..words].iter().rposition(|word| *word != 0).unwrap_or_default();
        word * 64 + self.found[word].checked_ilog2().unwrap_or_default() as usize
    }

    /// Adds one item of `cost`, of the kind `index`, to the fresh sums; returns `true` if this gave a new sum.
    fn add(&mut self, cost: usize, index: u32, room: usize) -> bool {
        let (skip, shift) = (cost / 64, cost % 64);
        let mut any = 0;
        // Descending order reads each word before it is written.
        for word in (0..=room / 64).rev() {
            let at = |word: Option<usize>| word.map_or(0, |word| self.fresh[word]);
            let low = if shift == 0 { 0 } else { at(word.checked_sub(skip + 1)) >> (64 - shift) };
            let mut sums = (at(word.checked_sub(skip)) << shift | low) & !self.found[word];
            if word == room / 64 {
                sums &= u64::MAX >> (63 - room % 64);
            }
            self.fresh[word] = sums;
            self.found[word] |= sums;
            any |= sums;
            while sums != 0 {
                self.last[word * 64 + sums.trailing_zeros() as usize] = index;
                sums &= sums - 1;
            }
        }
        any != 0
    }
}
