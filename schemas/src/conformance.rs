//! The contract of [`ImageTokenizer`], as a suite that the tests of every image tokenizer run.
//!
//! A broken rule is a panic that begins with its number, as in `rule 5: …`. Both ways, to codes and back, run through the same checks.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::DynError;
use crate::grid::Grid;
use crate::image_input::ImageInputError;
use crate::random::Draws;
use crate::traits::{ImageTokenizer, ImageTokenizerSpec};

const CONSTANT: &str = "rule 1: specification, codebook and abilities never change";
const WHOLE: &str = "rule 2: images give their number of codes in range, codes their number of bytes";
const ROW_MAJOR: &str = "rule 3: codes and pixels stand row-major";
const REPEATABLE: &str = "rule 4: the same input gives the same output";
const ALONE: &str = "rule 5: each image has the output that it has alone, in the order of the images";
const GRIDS: &str = "rule 6: squares are taken, and other grids both ways or neither way";
const REFUSED: &str = "rule 7: input that is not taken is an ImageInputError";
const AS_BEFORE: &str = "rule 8: after an error everything is as before";
const ABSENT: &str = "rule 9: without encoder or decoder each call is an error";

/// Random cuts that rule 5 is checked with, beside single images and all at once.
const RANDOM_CUTS: usize = 4;

/// Checks the contract for tokenizers of `make`, which makes them alike. `squares` are fitted squares, 3 or more, one after the other, whose codes
/// differ; a tokenizer without an encoder needs none.
///
/// # Panics
/// If a rule is broken, or `squares` prove nothing.
pub fn check_image_tokenizer<T: ImageTokenizer + 'static>(make: impl Fn() -> T, squares: &[u8]) {
    let make = || -> Box<dyn ImageTokenizer> { Box::new(make()) };
    let subject = make();
    let said = Said::by(&*subject);
    said.check();
    said.check_same(&*make(), "of another tokenizer");

    let (encodes, decodes) = said.abilities;
    let mut suite = Suite { make: &make, subject, said, squares, known: Known::default() };
    if encodes {
        suite.check_squares();
    }
    if decodes {
        suite.check_every_code();
    }
    suite.known = suite.known(WHOLE);
    if encodes {
        suite.check_way(&ENCODE);
    } else {
        suite.check_absent(&ENCODE);
    }
    if decodes {
        suite.check_way(&DECODE);
    } else {
        suite.check_absent(&DECODE);
    }
    if encodes && decodes {
        suite.check_both_ways();
    }
}

/// Statements of a tokenizer about itself.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    spec: ImageTokenizerSpec,
    codebook: Vec<f32>,
    /// To encode, to decode.
    abilities: (bool, bool),
}

impl Said {
    fn by(tokenizer: &dyn ImageTokenizer) -> Self {
        let abilities = (tokenizer.can_encode(), tokenizer.can_decode());
        Self { spec: tokenizer.spec().clone(), codebook: tokenizer.codebook().to_vec(), abilities }
    }

    fn check(&self) {
        let spec = &self.spec;
        let sizes = [spec.side_px, spec.grid, spec.codebook_size, spec.numerics.batch_size];
        assert!(sizes.iter().all(|size| *size > 0), "{CONSTANT}: a size is 0 in {spec:?}");
        let values = spec.codebook_size as usize * spec.codebook_dim as usize;
        assert!(
            self.codebook.len() == values,
            "{CONSTANT}: the codebook has {} values, its size and length say {values}",
            self.codebook.len()
        );
        assert!(self.codebook.iter().all(|value| value.is_finite()), "{CONSTANT}: a value of the codebook is not finite");
    }

    /// Rule 1: `tokenizer` says the same.
    fn check_same(&self, tokenizer: &dyn ImageTokenizer, when: &str) {
        let found = Self::by(tokenizer);
        assert!(found.spec == self.spec, "{CONSTANT}: {:?} is {:?} {when}", self.spec, found.spec);
        assert!(found.abilities == self.abilities, "{CONSTANT}: abilities {:?} are {:?} {when}", self.abilities, found.abilities);
        assert!(found.codebook == self.codebook, "{CONSTANT}: the codebook is another one {when}");
    }

    /// The square, and two other shapes of about its area.
    fn grids(&self) -> [Grid; 3] {
        let (square, long, short) = (self.spec.square(), self.spec.grid * 2, (self.spec.grid / 2).max(1));
        [square, Grid { rows: short, columns: long }, Grid { rows: long, columns: short }]
    }
}

/// How the values of an image stand in rows.
struct Layout {
    columns: usize,
    rows: usize,
    /// Values of one place.
    depth: usize,
}

impl Layout {
    const fn len(&self) -> usize {
        self.columns * self.rows * self.depth
    }

    /// Quarter that the value at `index` of an image belongs to: upper left, upper right, lower left, lower right.
    const fn quarter(&self, index: usize) -> usize {
        let (row, column) = (index / self.depth / self.columns, index / self.depth % self.columns);
        2 * (2 * row / self.rows) + 2 * column / self.columns
    }

    /// Returns `true` if the value at `index` lies in the outermost quarter of the upper right quarter, away from the other quarters.
    const fn is_upper_right_corner(&self, index: usize) -> bool {
        let (row, column) = (index / self.depth / self.columns, index / self.depth % self.columns);
        row < self.rows.div_ceil(4) && column >= self.columns - self.columns.div_ceil(4)
    }
}

const UPPER_RIGHT: usize = 1;

/// A value of an image: a level of a pixel, or a code.
trait Value: Copy + PartialEq + Debug {
    fn layout(spec: &ImageTokenizerSpec, grid: Grid) -> Layout;

    /// Number of images in `values`, by the specification's own check.
    fn images(spec: &ImageTokenizerSpec, values: &[Self], grid: Grid) -> Result<usize, ImageInputError>;

    /// Different images.
    fn made(spec: &ImageTokenizerSpec, squares: &[u8], grid: Grid, images: usize) -> Vec<Self>;

    /// A value far from this one.
    fn altered(self, spec: &ImageTokenizerSpec) -> Self;

    fn distance(self, other: Self) -> u64;

    /// Values, of whole images but for the one wrong value, that are out of range.
    fn out_of_range(spec: &ImageTokenizerSpec, whole: &[Self]) -> Vec<Vec<Self>>;
}

impl Value for u8 {
    fn layout(spec: &ImageTokenizerSpec, grid: Grid) -> Layout {
        let (width, height) = spec.size_px(grid);
        Layout { columns: width as usize, rows: height as usize, depth: 3 }
    }

    fn images(spec: &ImageTokenizerSpec, values: &[Self], grid: Grid) -> Result<usize, ImageInputError> {
        spec.images_of_pixels(values, grid)
    }

    /// The squares' bytes one after the other, in each further round by so much brighter.
    fn made(spec: &ImageTokenizerSpec, squares: &[u8], grid: Grid, images: usize) -> Vec<Self> {
        let byte = |place: usize| squares[place % squares.len()].wrapping_add((place / squares.len() * 41) as u8);
        (0..images * spec.bytes_of(grid)).map(byte).collect()
    }

    fn altered(self, _: &ImageTokenizerSpec) -> Self {
        self.wrapping_add(128)
    }

    fn distance(self, other: Self) -> u64 {
        self.abs_diff(other).into()
    }

    fn out_of_range(_: &ImageTokenizerSpec, _: &[Self]) -> Vec<Vec<Self>> {
        Vec::new()
    }
}

impl Value for u32 {
    fn layout(_: &ImageTokenizerSpec, grid: Grid) -> Layout {
        Layout { columns: grid.columns as usize, rows: grid.rows as usize, depth: 1 }
    }

    fn images(spec: &ImageTokenizerSpec, values: &[Self], grid: Grid) -> Result<usize, ImageInputError> {
        spec.images_of_codes(values, grid)
    }

    fn made(spec: &ImageTokenizerSpec, _: &[u8], grid: Grid, images: usize) -> Vec<Self> {
        let mut draws = Draws::new(1, "conformance", grid.to_string().as_bytes());
        (0..images * grid.codes()).map(|_| draws.below(spec.codebook_size.into()) as Self).collect()
    }

    fn altered(self, spec: &ImageTokenizerSpec) -> Self {
        let size = u64::from(spec.codebook_size);
        ((u64::from(self) + size.div_ceil(2)) % size) as Self
    }

    fn distance(self, other: Self) -> u64 {
        (self != other).into()
    }

    fn out_of_range(spec: &ImageTokenizerSpec, whole: &[Self]) -> Vec<Vec<Self>> {
        let wrong = [(0, spec.codebook_size), (whole.len() - 1, spec.codebook_size), (whole.len() - 1, Self::MAX)];
        let with =
            |(place, code): (usize, Self)| whole.iter().enumerate().map(|(at, &value)| if at == place { code } else { value }).collect();
        wrong.map(with).into()
    }
}

/// Encodes or decodes images of a grid.
type Call<I, O> = fn(&mut dyn ImageTokenizer, &[I], Grid) -> Result<Vec<O>, DynError>;
/// Encodes or decodes squares.
type CallSquare<I, O> = fn(&mut dyn ImageTokenizer, &[I]) -> Result<Vec<O>, DynError>;

/// From values of one kind to those of the other.
struct Way<I, O> {
    name: &'static str,
    call: Call<I, O>,
    call_square: CallSquare<I, O>,
}

const ENCODE: Way<u8, u32> = Way {
    name: "encode",
    call: |tokenizer, pixels, grid| tokenizer.encode_grid(pixels, grid),
    call_square: |tokenizer, pixels| tokenizer.encode(pixels),
};

const DECODE: Way<u32, u8> = Way {
    name: "decode",
    call: |tokenizer, codes, grid| tokenizer.decode_grid(codes, grid),
    call_square: |tokenizer, codes| tokenizer.decode(codes),
};

/// The tokenizer under test.
struct Suite<'a> {
    make: &'a dyn Fn() -> Box<dyn ImageTokenizer>,
    subject: Box<dyn ImageTokenizer>,
    said: Said,
    squares: &'a [u8],
    known: Known,
}

/// Codes and pixels of two squares, as far as there are an encoder and a decoder.
#[derive(Default, PartialEq)]
struct Known {
    codes: Option<Vec<u32>>,
    pixels: Option<Vec<u8>>,
}

impl Suite<'_> {
    /// Images of several whole batches and a short one.
    fn images(&self) -> usize {
        2 * self.said.spec.numerics.batch_size as usize + 1
    }

    fn made<V: Value>(&self, grid: Grid, images: usize) -> Vec<V> {
        V::made(&self.said.spec, self.squares, grid, images)
    }

    /// Result of a call; `rule` forbids it to panic.
    fn ask<R>(&mut self, rule: &str, call: impl FnOnce(&mut dyn ImageTokenizer) -> R) -> R {
        let result = catch_unwind(AssertUnwindSafe(|| call(&mut *self.subject))).unwrap_or_else(|_| panic!("{rule}: a call panicked"));
        self.said.check_same(&*self.subject, "after a call");
        result
    }

    /// Output for input that is taken; `rule` demands it.
    fn output<I: Value, O: Value>(&mut self, rule: &str, way: &Way<I, O>, input: &[I], grid: Grid) -> Vec<O> {
        let name = way.name;
        let output = self.ask(rule, |subject| (way.call)(subject, input, grid));
        let output = output.unwrap_or_else(|error| {
            let refuses_grid = matches!(error.downcast_ref(), Some(ImageInputError::Grid { .. }));
            panic!("{}: cannot {name} images of {grid}: {error}", if refuses_grid { GRIDS } else { rule })
        });
        let images = I::images(&self.said.spec, input, grid).expect("the suite's own images");
        match O::images(&self.said.spec, &output, grid) {
            Ok(found) => assert!(found == images, "{WHOLE}: {name} makes {found} images of {images} of {grid}"),
            Err(error) => panic!("{WHOLE}: {name} {images} images of {grid}: {error}"),
        }
        output
    }

    fn known(&mut self, rule: &str) -> Known {
        let (square, (encodes, decodes)) = (self.said.spec.square(), self.said.abilities);
        let codes = encodes.then(|| self.output(rule, &ENCODE, &self.made(square, 2), square));
        let pixels = decodes.then(|| self.output(rule, &DECODE, &self.made(square, 2), square));
        Known { codes, pixels }
    }

    /// The error of a call that must be one; rule 8.
    fn error<R>(&mut self, rule: &str, call: impl FnOnce(&mut dyn ImageTokenizer) -> Result<R, DynError>) -> Option<DynError> {
        assert!(self.known(REPEATABLE) == self.known, "{REPEATABLE}: after other calls it gives another one");
        let error = self.ask(rule, call).err()?;
        assert!(self.known(AS_BEFORE) == self.known, "{AS_BEFORE}: other output after {error}");
        Some(error)
    }

    fn check_squares(&mut self) {
        let spec = &self.said.spec;
        let (grid, codes) = (spec.square(), spec.codes_per_image());
        let images = spec.images_of_pixels(self.squares, grid).expect("the squares are whole");
        assert!(images >= 3, "the suite needs 3 squares, got {images}");
        let all = self.output(WHOLE, &ENCODE, self.squares, grid);
        let distinct: BTreeSet<&[u32]> = all.chunks_exact(codes).collect();
        assert_eq!(distinct.len(), images, "the suite needs squares whose codes differ");
    }

    /// Rule 2: each code can be decoded.
    fn check_every_code(&mut self) {
        let spec = &self.said.spec;
        let (grid, size) = (spec.square(), spec.codebook_size);
        let whole = (size as usize).next_multiple_of(grid.codes());
        let codes: Vec<u32> = (0..size).cycle().take(whole).collect();
        self.output(WHOLE, &DECODE, &codes, grid);
    }

    /// The output of one way is the input of the other.
    fn check_both_ways(&mut self) {
        for grid in self.said.grids() {
            let taken = (self.takes(&ENCODE, grid), self.takes(&DECODE, grid));
            assert!(taken.0 == taken.1, "{GRIDS}: images of {grid} are encoded: {}, and decoded: {}", taken.0, taken.1);
            if taken.0 {
                let (pixels, codes) = (self.made(grid, 2), self.made(grid, 2));
                let coded = self.output(WHOLE, &ENCODE, &pixels, grid);
                self.output(WHOLE, &DECODE, &coded, grid);
                let decoded = self.output(WHOLE, &DECODE, &codes, grid);
                self.output(WHOLE, &ENCODE, &decoded, grid);
            }
        }
    }

    /// Checks whether images of `grid` are taken. Rule 7 where they are not.
    fn takes<I: Value, O: Value>(&mut self, way: &Way<I, O>, grid: Grid) -> bool {
        let input = self.made(grid, 1);
        let expected = ImageInputError::Grid { model: String::new(), takes: "", grid };
        let error = self.error(REFUSED, |subject| (way.call)(subject, &input, grid));
        error.inspect(|error| check_error(way.name, error, &expected)).is_none()
    }

    /// All rules of one way.
    fn check_way<I: Value, O: Value>(&mut self, way: &Way<I, O>) {
        let square = self.said.spec.square();
        for grid in self.said.grids() {
            if self.takes(way, grid) {
                self.check_grid(way, grid);
            }
        }
        let input = self.made(square, 2);
        let expected = self.output(WHOLE, way, &input, square);
        let found = self.ask(GRIDS, |subject| (way.call_square)(subject, &input));
        let found = found.unwrap_or_else(|error| panic!("{GRIDS}: cannot {} squares: {error}", way.name));
        assert!(found == expected, "{GRIDS}: {} of squares gives something else than that of their grid", way.name);
        for grid in [Grid { rows: 0, columns: 1 }, Grid { rows: 1, columns: 0 }, Grid::square(0), Grid::square(u32::MAX)] {
            self.check_refused(way, &[], grid);
            self.check_refused(way, &input, grid);
        }
    }

    fn check_grid<I: Value, O: Value>(&mut self, way: &Way<I, O>, grid: Grid) {
        let (name, images) = (way.name, self.images());
        let input: Vec<I> = self.made(grid, images);
        self.output(WHOLE, way, &[], grid);
        let expected = self.output(WHOLE, way, &input, grid);
        assert!(self.output(REPEATABLE, way, &input, grid) == expected, "{REPEATABLE}: {name} images of {grid} twice");
        self.subject = (self.make)();
        assert!(self.output(REPEATABLE, way, &input, grid) == expected, "{REPEATABLE}: {name} images of {grid} by another tokenizer");

        let mut draws = Draws::new(1, "conformance", name.as_bytes());
        let random: Vec<Vec<usize>> = (0..RANDOM_CUTS).map(|_| (0..images).map(|_| draws.index(images)).collect()).collect();
        for sizes in std::iter::once(vec![1; images]).chain(random) {
            let found = self.in_pieces(way, &input, grid, &sizes);
            assert!(found == expected, "{ALONE}: {name} images of {grid} in calls of {sizes:?}");
        }
        let found = self.output(ALONE, way, &backwards(&input, images), grid);
        assert!(backwards(&found, images) == expected, "{ALONE}: {name} images of {grid}, the last one first");
        self.check_places(way, grid);

        for cut in [&input[1..], &input[..input.len() - 1], &input[..1]] {
            self.check_refused(way, cut, grid);
        }
        for wrong in I::out_of_range(&self.said.spec, &input) {
            self.check_refused(way, &wrong, grid);
        }
    }

    /// Output of pieces of `sizes` images and of a last one with the rest.
    fn in_pieces<I: Value, O: Value>(&mut self, way: &Way<I, O>, input: &[I], grid: Grid, sizes: &[usize]) -> Vec<O> {
        let (len, mut rest, mut output) = (I::layout(&self.said.spec, grid).len(), input, Vec::new());
        for size in sizes {
            let (piece, others) = rest.split_at((size * len).min(rest.len()));
            output.extend(self.output(ALONE, way, piece, grid));
            rest = others;
        }
        output.extend(self.output(ALONE, way, rest, grid));
        output
    }

    /// Rule 3: images that differ in the upper right corner have outputs that differ in that quarter more than in any other. Networks look
    /// beyond what they code, hence the corner.
    fn check_places<I: Value, O: Value>(&mut self, way: &Way<I, O>, grid: Grid) {
        if grid.rows < 2 || grid.columns < 2 {
            return;
        }
        let spec = self.said.spec.clone();
        let (from, to) = (I::layout(&spec, grid), O::layout(&spec, grid));
        let input: Vec<I> = self.made(grid, 3);
        let altered = |(place, value): (usize, &I)| {
            if from.is_upper_right_corner(place % from.len()) { value.altered(&spec) } else { *value }
        };
        let altered: Vec<I> = input.iter().enumerate().map(altered).collect();
        let (before, after) = (self.output(WHOLE, way, &input, grid), self.output(WHOLE, way, &altered, grid));
        let mut distances = [0; 4];
        for (place, (before, after)) in before.iter().zip(&after).enumerate() {
            distances[to.quarter(place % to.len())] += before.distance(*after);
        }
        let elsewhere = (0..4).filter(|quarter| *quarter != UPPER_RIGHT).map(|quarter| distances[quarter]).max();
        assert!(
            Some(distances[UPPER_RIGHT]) > elsewhere,
            "{ROW_MAJOR}: {} images of {grid} that differ in the upper right corner alone; differences by quarter are {distances:?}",
            way.name
        );
    }

    /// Rule 7 for one input, unless it is whole images after all.
    fn check_refused<I: Value, O: Value>(&mut self, way: &Way<I, O>, wrong: &[I], grid: Grid) {
        let Err(expected) = I::images(&self.said.spec, wrong, grid) else { return };
        match self.error(REFUSED, |subject| (way.call)(subject, wrong, grid)) {
            Some(error) => check_error(way.name, &error, &expected),
            None => panic!("{REFUSED}: {} takes {} values as images of {grid}, expected: {expected}", way.name, wrong.len()),
        }
    }

    /// Rule 9.
    fn check_absent<I: Value, O: Value>(&mut self, way: &Way<I, O>) {
        let (spec, square) = (&self.said.spec, self.said.spec.square());
        let whole: Vec<I> = I::made(spec, if self.squares.is_empty() { &[0] } else { self.squares }, square, 1);
        for input in [&whole[..], &[], &whole[1..]] {
            let errors = [
                self.error(ABSENT, |subject| (way.call)(subject, input, square)),
                self.error(ABSENT, |subject| (way.call_square)(subject, input)),
            ];
            assert!(errors.iter().all(Option::is_some), "{ABSENT}: {} answers", way.name);
        }
    }
}

/// Rule 7: `error` is the expected one; of a grid the implementor says what is taken.
fn check_error(name: &str, error: &DynError, expected: &ImageInputError) {
    let found = error.downcast_ref::<ImageInputError>();
    let is_expected = match (found, expected) {
        (Some(ImageInputError::Grid { grid: found, .. }), ImageInputError::Grid { grid, .. }) => found == grid,
        (found, expected) => found == Some(expected),
    };
    assert!(is_expected, "{REFUSED}: {name} says {error:?}, expected {expected:?}");
}

/// The same images, the last one first.
fn backwards<V: Value>(values: &[V], images: usize) -> Vec<V> {
    values.chunks_exact(values.len() / images).rev().flatten().copied().collect()
}

#[cfg(test)]
mod tests;
