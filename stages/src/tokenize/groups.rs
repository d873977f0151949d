//! Groups of images that are encoded together: one shape each, in the order of the unit.
//!
//! A group depends only on the images before it, not on the cuts of the input.

use std::collections::{BTreeMap, VecDeque};

use cm3flow_schemas::Grid;

/// Number of waiting images, in group sizes, at which the shape of the first one is encoded as it is. Thus a rare shape does not hold up
/// its unit.
const GROUPS_WAITING: usize = 8;

/// Images of one shape, encoded by one call.
pub(super) struct Group {
    pub(super) grid: Grid,
    /// Pixels of the images, one after another.
    pub(super) pixels: Vec<u8>,
    /// Numbers of the images, ascending.
    pub(super) images: Vec<usize>,
}

/// Images on their way to codes, numbered by arrival.
pub(super) struct Groups {
    /// Number of images in a whole group.
    size: usize,
    /// Incomplete groups, by shape.
    open: BTreeMap<Grid, Group>,
    /// Number of images in incomplete groups.
    waiting: usize,
    /// Groups to encode; several groups of one shape are merged.
    complete: Vec<Group>,
    /// Codes of the images that have not been taken, from number `taken` on.
    codes: VecDeque<Option<Vec<u32>>>,
    taken: usize,
}

impl Groups {
    /// Returns empty groups of `size` images.
    pub(super) const fn new(size: usize) -> Self {
        Self { size, open: BTreeMap::new(), waiting: 0, complete: Vec::new(), codes: VecDeque::new(), taken: 0 }
    }

    /// Appends an image.
    pub(super) fn push(&mut self, grid: Grid, pixels: &[u8]) {
        let group = self.open.entry(grid).or_insert_with(|| Group { grid, pixels: Vec::new(), images: Vec::new() });
        group.pixels.extend(pixels);
        group.images.push(self.taken + self.codes.len());
        let is_whole = group.images.len() == self.size;
        self.codes.push_back(None);
        self.waiting += 1;
        if is_whole {
            self.close(grid);
        } else if self.waiting >= GROUPS_WAITING * self.size {
            let first = self.open.values().min_by_key(|group| group.images[0]).map(|group| group.grid);
            first.into_iter().for_each(|grid| self.close(grid));
        }
    }

    fn close(&mut self, grid: Grid) {
        let Some(group) = self.open.remove(&grid) else { return };
        self.waiting -= group.images.len();
        // A new call begins behind a group that is not full, because encoders count off groups from the front.
        match self.complete.iter_mut().rfind(|found| found.grid == grid) {
            Some(found) if found.images.len().is_multiple_of(self.size) => {
                found.pixels.extend(group.pixels);
                found.images.extend(group.images);
            }
            _ => self.complete.push(group),
        }
    }

    /// Returns the groups to encode now; all images if `last`.
    pub(super) fn complete(&mut self, last: bool) -> Vec<Group> {
        if last {
            let rest: Vec<Grid> = self.open.keys().copied().collect();
            rest.into_iter().for_each(|grid| self.close(grid));
        }
        std::mem::take(&mut self.complete)
    }

    /// Stores the codes of the image `number`.
    pub(super) fn fill(&mut self, number: usize, codes: &[u32]) {
        self.codes[number - self.taken] = Some(codes.to_vec());
    }

    /// Returns the codes of the next `count` images; `None` while one of them has none.
    pub(super) fn take(&mut self, count: usize) -> Option<Vec<Vec<u32>>> {
        if count > self.codes.len() || self.codes.range(..count).any(Option::is_none) {
            return None;
        }
        self.taken += count;
        Some(self.codes.drain(..count).flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Grid = Grid { rows: 2, columns: 8 };
    const SQUARE: Grid = Grid { rows: 4, columns: 4 };

    /// Returns the numbers of the images in each group that `groups` has ready.
    fn ready(groups: &mut Groups, last: bool) -> Vec<(Grid, Vec<usize>)> {
        groups.complete(last).into_iter().map(|group| (group.grid, group.images)).collect()
    }

    #[test]
    fn a_group_is_of_one_shape_and_full_until_the_end() {
        let mut groups = Groups::new(2);
        for grid in [SQUARE, WIDE, SQUARE, SQUARE, SQUARE, SQUARE] {
            groups.push(grid, &[0]);
        }
        assert_eq!(ready(&mut groups, false), [(SQUARE, vec![0, 2, 3, 4])], "two groups go together");
        assert_eq!(ready(&mut groups, true), [(WIDE, vec![1]), (SQUARE, vec![5])]);
    }

    #[test]
    fn a_rare_shape_does_not_wait_for_the_end() {
        let mut groups = Groups::new(2);
        groups.push(WIDE, &[0]);
        let rare = |number: u32| Grid { rows: 1, columns: number };
        (1..=15).for_each(|number| groups.push(rare(number), &[0]));
        assert_eq!(ready(&mut groups, false), [(WIDE, vec![0])], "sixteen wait, so the first one goes");
        groups.push(WIDE, &[0]);
        groups.push(WIDE, &[0]);
        assert_eq!(ready(&mut groups, false), [(rare(1), vec![1]), (WIDE, vec![16, 17])], "the call before was of another group");
    }

    #[test]
    fn codes_are_taken_in_the_order_of_the_images() {
        let mut groups = Groups::new(2);
        [WIDE, SQUARE, SQUARE].into_iter().for_each(|grid| groups.push(grid, &[0]));
        groups.fill(1, &[1]);
        assert_eq!((groups.take(1), groups.take(0)), (None, Some(vec![])));
        groups.fill(0, &[0]);
        assert_eq!((groups.take(2), groups.take(1)), (Some(vec![vec![0], vec![1]]), None));
        groups.fill(2, &[2]);
        assert_eq!(groups.take(1), Some(vec![vec![2]]));
    }
}
