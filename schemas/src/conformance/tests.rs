//! A sound tokenizer passes, and each broken one is reported by its rule.

use std::cell::Cell;

use super::*;
use crate::digest::Digest;
use crate::unit::NumericsClass;

type Encode = fn(&mut Levels, &[u8], Grid) -> Result<Vec<u32>, DynError>;
type Decode = fn(&mut Levels, &[u32], Grid) -> Result<Vec<u8>, DynError>;

/// Codes say how bright squares of 2 x 2 pixels are. Its parts can be exchanged for broken ones.
#[derive(Clone)]
struct Levels {
    spec: ImageTokenizerSpec,
    codebook: Vec<f32>,
    abilities: (bool, bool),
    /// Calls so far, and whether one of them failed.
    calls: u32,
    failed: bool,
    encode: Encode,
    decode: Decode,
    encode_square: fn(&mut Levels, &[u8]) -> Result<Vec<u32>, DynError>,
}

/// Side of what a code stands for, in pixels.
const CODE_PX: usize = 2;
const CODES: u32 = 16;
const SQUARE: Grid = Grid::square(4);

impl Levels {
    fn sound() -> Self {
        let numerics = NumericsClass {
            device: "cpu".into(),
            dtype: "uint8".into(),
            batch_size: 2,
            libtorch: "none".into(),
            threads: 1,
            cpu_capability: "any".into(),
        };
        let spec = ImageTokenizerSpec {
            name: "levels".into(),
            digest: Digest::of(b"levels"),
            side_px: 8,
            grid: 4,
            codebook_size: CODES,
            codebook_dim: 1,
            numerics,
        };
        Self {
            spec,
            codebook: (0..CODES).map(|code| code as f32).collect(),
            abilities: (true, true),
            calls: 0,
            failed: false,
            encode: Self::codes_of,
            decode: Self::pixels_of,
            encode_square: |levels, pixels| levels.encode_grid(pixels, SQUARE),
        }
    }

    /// The error for a grid that it does not take.
    fn without(&self, grid: Grid) -> DynError {
        ImageInputError::Grid { model: self.spec.name.clone(), takes: "others", grid }.into()
    }

    fn codes_of(&mut self, pixels: &[u8], grid: Grid) -> Result<Vec<u32>, DynError> {
        self.spec.images_of_pixels(pixels, grid)?;
        Ok(pixels.chunks_exact(self.spec.bytes_of(grid)).flat_map(|image| Self::codes_of_image(image, grid)).collect())
    }

    fn codes_of_image(image: &[u8], grid: Grid) -> Vec<u32> {
        let columns = grid.columns as usize;
        let mut sums = vec![0; grid.codes()];
        for (place, level) in image.iter().enumerate() {
            let (row, column) = (place / 3 / CODE_PX / columns / CODE_PX, place / 3 % (columns * CODE_PX) / CODE_PX);
            sums[row * columns + column] += u32::from(*level);
        }
        sums.into_iter().map(|sum| sum / (CODE_PX * CODE_PX * 3) as u32 * CODES / 256).collect()
    }

    fn pixels_of(&mut self, codes: &[u32], grid: Grid) -> Result<Vec<u8>, DynError> {
        self.spec.images_of_codes(codes, grid)?;
        let width = grid.columns as usize * CODE_PX;
        let image = |codes: &[u32]| -> Vec<u8> {
            let level = |place: usize| codes[place / width / CODE_PX * (width / CODE_PX) + place % width / CODE_PX] * 256 / CODES;
            (0..codes.len() * CODE_PX * CODE_PX).flat_map(|place| [level(place) as u8 + 5; 3]).collect()
        };
        Ok(codes.chunks_exact(grid.codes()).flat_map(image).collect())
    }
}

impl ImageTokenizer for Levels {
    fn spec(&self) -> &ImageTokenizerSpec {
        &self.spec
    }

    fn can_encode(&self) -> bool {
        self.abilities.0
    }

    fn encode_grid(&mut self, pixels: &[u8], grid: Grid) -> Result<Vec<u32>, DynError> {
        self.calls += 1;
        let result = (self.encode)(self, pixels, grid);
        self.failed |= result.is_err();
        result
    }

    fn encode(&mut self, pixels: &[u8]) -> Result<Vec<u32>, DynError> {
        (self.encode_square)(self, pixels)
    }

    fn can_decode(&self) -> bool {
        self.abilities.1
    }

    fn decode_grid(&mut self, codes: &[u32], grid: Grid) -> Result<Vec<u8>, DynError> {
        self.calls += 1;
        let result = (self.decode)(self, codes, grid);
        self.failed |= result.is_err();
        result
    }

    fn codebook(&self) -> &[f32] {
        &self.codebook
    }
}

fn squares(count: usize) -> Vec<u8> {
    let mut draws = Draws::new(1, "squares", b"");
    let codes: Vec<u32> = (0..count * 16).map(|_| draws.below(CODES.into()) as u32).collect();
    Levels::sound().decode(&codes).expect("codes in range")
}

/// The rule that tokenizers of `make` break: the suite's message begins with it.
fn reported_of(make: impl Fn() -> Levels) -> String {
    let checked = catch_unwind(AssertUnwindSafe(|| check_image_tokenizer(make, &squares(4))));
    let panic = checked.expect_err("the suite takes a broken tokenizer for a sound one");
    let message = panic.downcast_ref::<String>().expect("a panic with values");
    message.split(':').next().unwrap_or_default().to_owned()
}

fn reported(broken: Levels) -> String {
    reported_of(|| broken.clone())
}

#[test]
fn a_sound_tokenizer_passes() {
    check_image_tokenizer(Levels::sound, &squares(4));
}

#[test]
fn a_tokenizer_of_squares_alone_passes() {
    let squares_alone = || Levels {
        encode: |levels, pixels, grid| if grid == SQUARE { levels.codes_of(pixels, grid) } else { Err(levels.without(grid)) },
        decode: |levels, codes, grid| if grid == SQUARE { levels.pixels_of(codes, grid) } else { Err(levels.without(grid)) },
        ..Levels::sound()
    };
    check_image_tokenizer(squares_alone, &squares(3));
}

#[test]
fn tokenizers_that_lack_abilities_pass() {
    let no_encoder: Encode = |_, _, _| Err("no encoder".into());
    let no_decoder: Decode = |_, _, _| Err("no decoder".into());
    check_image_tokenizer(|| Levels { abilities: (false, true), encode: no_encoder, ..Levels::sound() }, &[]);
    check_image_tokenizer(|| Levels { abilities: (true, false), decode: no_decoder, ..Levels::sound() }, &squares(3));
    check_image_tokenizer(|| Levels { abilities: (false, false), encode: no_encoder, decode: no_decoder, ..Levels::sound() }, &[]);
}

#[test]
fn a_tokenizer_that_changes_is_reported() {
    let sound = Levels::sound;
    let renamed = Levels {
        encode: |levels, pixels, grid| {
            levels.spec.name.push('!');
            levels.codes_of(pixels, grid)
        },
        ..sound()
    };
    assert_eq!(reported(renamed), "rule 1");
    let disabled = Levels {
        decode: |levels, codes, grid| {
            levels.abilities.1 = levels.calls < 5;
            levels.pixels_of(codes, grid)
        },
        ..sound()
    };
    assert_eq!(reported(disabled), "rule 1");
    let made = Cell::new(0);
    let counted = || {
        made.set(made.get() + 1);
        let mut levels = sound();
        levels.spec.digest = Digest::of(&[made.get()]);
        levels
    };
    assert_eq!(reported_of(counted), "rule 1", "digests of tokenizers made alike differ");
    assert_eq!(reported(Levels { codebook: vec![0.0; 3], ..sound() }), "rule 1");
    assert_eq!(reported(Levels { codebook: vec![f32::NAN; 16], ..sound() }), "rule 1");
    let mut unsized_batch = sound();
    unsized_batch.spec.numerics.batch_size = 0;
    assert_eq!(reported(unsized_batch), "rule 1");
}

#[test]
fn wrong_numbers_and_codes_out_of_range_are_reported() {
    let sound = Levels::sound;
    let one_too_high = Levels {
        encode: |levels, pixels, grid| {
            let codes = levels.codes_of(pixels, grid)?;
            Ok(codes.into_iter().map(|code| if code == CODES - 1 { CODES } else { code }).collect())
        },
        ..sound()
    };
    assert_eq!(reported(one_too_high), "rule 2");
    let one_too_few = Levels {
        encode: |levels, pixels, grid| {
            let mut codes = levels.codes_of(pixels, grid)?;
            codes.pop();
            Ok(codes)
        },
        ..sound()
    };
    assert_eq!(reported(one_too_few), "rule 2");
    let padded = Levels {
        encode: |levels, pixels, grid| {
            let mut codes = levels.codes_of(pixels, grid)?;
            codes.resize(codes.len().next_multiple_of(2 * grid.codes()), 0);
            Ok(codes)
        },
        ..sound()
    };
    assert_eq!(reported(padded), "rule 2", "the padding of a batch comes out");
    let grey = Levels {
        decode: |levels, codes, grid| {
            let pixels = levels.pixels_of(codes, grid)?;
            Ok(pixels.chunks_exact(3).map(|pixel| pixel[0]).collect())
        },
        ..sound()
    };
    assert_eq!(reported(grey), "rule 2");
    let without_last = Levels {
        decode: |levels, codes, grid| {
            if codes.contains(&(CODES - 1)) { Err("no such code".into()) } else { levels.pixels_of(codes, grid) }
        },
        ..sound()
    };
    assert_eq!(reported(without_last), "rule 2");
    let never_empty = Levels {
        encode: |levels, pixels, grid| if pixels.is_empty() { Err("nothing to do".into()) } else { levels.codes_of(pixels, grid) },
        ..sound()
    };
    assert_eq!(reported(never_empty), "rule 2");
}

#[test]
fn values_in_another_order_than_rows_are_reported() {
    let by_columns = Levels {
        encode: |levels, pixels, grid| {
            let codes = levels.codes_of(pixels, grid)?;
            let (rows, columns) = (grid.rows as usize, grid.columns as usize);
            let image = |codes: &[u32]| -> Vec<u32> { (0..codes.len()).map(|at| codes[at % rows * columns + at / rows]).collect() };
            Ok(codes.chunks_exact(grid.codes()).flat_map(image).collect())
        },
        ..Levels::sound()
    };
    assert_eq!(reported(by_columns), "rule 3");
    let turned = Levels {
        decode: |levels, codes, grid| {
            let pixels = levels.pixels_of(codes, grid)?;
            Ok(pixels.chunks_exact(levels.spec.bytes_of(grid)).flat_map(|image| image.iter().rev()).copied().collect())
        },
        ..Levels::sound()
    };
    assert_eq!(reported(turned), "rule 3");
    let square_stride = Levels {
        encode: |levels, pixels, grid| {
            let square = Grid { rows: (grid.codes() / 4) as u32, columns: 4 };
            levels.spec.images_of_pixels(pixels, grid)?;
            levels.codes_of(pixels, square)
        },
        ..Levels::sound()
    };
    assert_eq!(reported(square_stride), "rule 3", "images of other grids are read as if they were squares");
}

#[test]
fn state_between_calls_is_reported() {
    let alternating = Levels {
        encode: |levels, pixels, grid| {
            let odd = levels.calls % 2;
            Ok(levels.codes_of(pixels, grid)?.into_iter().map(|code| code ^ odd).collect())
        },
        ..Levels::sound()
    };
    assert_eq!(reported(alternating), "rule 4");
    let late = Levels {
        decode: |levels, codes, grid| {
            let late = u8::from(levels.calls > 20);
            Ok(levels.pixels_of(codes, grid)?.into_iter().map(|level| level + late).collect())
        },
        ..Levels::sound()
    };
    assert_eq!(reported(late), "rule 4", "after some calls another path is taken");
    let made = Cell::new(0);
    let seeded = || {
        made.set(made.get() + 1);
        let encode: Encode = if made.get() % 2 == 0 {
            Levels::codes_of
        } else {
            |levels, pixels, grid| Ok(levels.codes_of(pixels, grid)?.into_iter().map(|code| code ^ 1).collect())
        };
        Levels { encode, ..Levels::sound() }
    };
    assert_eq!(reported_of(seeded), "rule 4", "codes of tokenizers made alike differ");
}

#[test]
fn images_that_meet_are_reported() {
    let swapped = Levels {
        encode: |levels, pixels, grid| {
            let mut codes = levels.codes_of(pixels, grid)?;
            let len = grid.codes();
            if codes.len() >= 2 * len {
                codes[..2 * len].rotate_left(len);
            }
            Ok(codes)
        },
        ..Levels::sound()
    };
    assert_eq!(reported(swapped), "rule 5");
    let backwards = Levels {
        decode: |levels, codes, grid| {
            let pixels = levels.pixels_of(codes, grid)?;
            Ok(pixels.chunks_exact(levels.spec.bytes_of(grid)).rev().flatten().copied().collect())
        },
        ..Levels::sound()
    };
    assert_eq!(reported(backwards), "rule 5");
    let normalized = Levels {
        encode: |levels, pixels, grid| {
            let codes = levels.codes_of(pixels, grid)?;
            let least = codes.iter().min().copied().unwrap_or(0);
            Ok(codes.into_iter().map(|code| code - least).collect())
        },
        ..Levels::sound()
    };
    assert_eq!(reported(normalized), "rule 5", "the darkest image of the call decides");
    let tail = Levels {
        encode: |levels, pixels, grid| {
            let mut codes = levels.codes_of(pixels, grid)?;
            let whole = codes.len() / (2 * grid.codes()) * 2 * grid.codes();
            codes[whole..].iter_mut().for_each(|code| *code /= 2);
            Ok(codes)
        },
        ..Levels::sound()
    };
    assert_eq!(reported(tail), "rule 5", "a short batch is computed in another way");
}

#[test]
fn grids_of_one_way_are_reported() {
    let reversed =
        Levels { encode_square: |levels, pixels| Ok(levels.codes_of(pixels, SQUARE)?.into_iter().rev().collect()), ..Levels::sound() };
    assert_eq!(reported(reversed), "rule 6", "squares are coded in two ways");
    let squares_back = Levels {
        decode: |levels, codes, grid| if grid == SQUARE { levels.pixels_of(codes, grid) } else { Err(levels.without(grid)) },
        ..Levels::sound()
    };
    assert_eq!(reported(squares_back), "rule 6", "what is encoded cannot be decoded");
    let no_squares = Levels {
        encode: |levels, pixels, grid| if grid == SQUARE { Err(levels.without(grid)) } else { levels.codes_of(pixels, grid) },
        ..Levels::sound()
    };
    assert_eq!(reported(no_squares), "rule 6");
}

#[test]
fn wrong_input_that_is_taken_or_panics_is_reported() {
    let sound = Levels::sound;
    let cuts = Levels {
        encode: |levels, pixels, grid| {
            let len = levels.spec.bytes_of(grid).max(1);
            levels.codes_of(&pixels[..pixels.len() / len * len], grid)
        },
        ..sound()
    };
    assert_eq!(reported(cuts), "rule 7", "a cut image is left out");
    let divides = Levels {
        encode: |levels, pixels, grid| {
            let (bytes, bytes_per_image) = (pixels.len(), levels.spec.bytes_of(grid));
            if bytes % bytes_per_image == 0 {
                levels.codes_of(pixels, grid)
            } else {
                Err(ImageInputError::Pixels { bytes, bytes_per_image }.into())
            }
        },
        ..sound()
    };
    assert_eq!(reported(divides), "rule 7", "grids without codes panic");
    let unnamed =
        Levels { encode: |levels, pixels, grid| levels.codes_of(pixels, grid).map_err(|error| error.to_string().into()), ..sound() };
    assert_eq!(reported(unnamed), "rule 7", "errors are text alone");
    let clamps = Levels {
        decode: |levels, codes, grid| {
            let codes: Vec<u32> = codes.iter().map(|code| *code.min(&(CODES - 1))).collect();
            levels.pixels_of(&codes, grid)
        },
        ..sound()
    };
    assert_eq!(reported(clamps), "rule 7", "codes out of range are taken");
    let looks_up = Levels {
        decode: |levels, codes, grid| {
            codes.iter().for_each(|code| assert!(levels.codebook[*code as usize] >= 0.0));
            levels.pixels_of(codes, grid)
        },
        ..sound()
    };
    assert_eq!(reported(looks_up), "rule 7", "codes out of range panic");
    let nothing =
        Levels { decode: |levels, codes, grid| if codes.is_empty() { Ok(Vec::new()) } else { levels.pixels_of(codes, grid) }, ..sound() };
    assert_eq!(reported(nothing), "rule 7", "nothing of a grid without codes is taken");
    let squares_alone = Levels {
        encode: |levels, pixels, grid| if grid == SQUARE { levels.codes_of(pixels, grid) } else { Err("no square".into()) },
        ..sound()
    };
    assert_eq!(reported(squares_alone), "rule 7", "a grid is refused by text alone");
}

#[test]
fn errors_that_leave_something_behind_are_reported() {
    let poisoned = Levels {
        encode: |levels, pixels, grid| if levels.failed { Err("poisoned".into()) } else { levels.codes_of(pixels, grid) },
        ..Levels::sound()
    };
    assert_eq!(reported(poisoned), "rule 8");
    let darkened = Levels {
        decode: |levels, codes, grid| {
            let darker = u8::from(levels.failed);
            Ok(levels.pixels_of(codes, grid)?.into_iter().map(|level| level - darker).collect())
        },
        ..Levels::sound()
    };
    assert_eq!(reported(darkened), "rule 8");
}

#[test]
fn abilities_that_are_denied_and_used_are_reported() {
    assert_eq!(reported(Levels { abilities: (false, true), ..Levels::sound() }), "rule 9");
    let panics = Levels { abilities: (true, false), decode: |_, _, _| panic!("there is no decoder"), ..Levels::sound() };
    assert_eq!(reported(panics), "rule 9");
}
