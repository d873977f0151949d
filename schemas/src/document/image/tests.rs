//! Conversion of images to ids and back; refusal of ids that are no image.

use proptest::prelude::*;

use super::*;
use crate::document::{DocumentBuilder, Modality, Role, check, text_prompt};
use crate::error::GrammarError;
use crate::vocabulary::{IdRange, VocabularySizes};

const GRIDS: [Grid; 5] = [
    Grid { rows: 2, columns: 8 },
    Grid { rows: 3, columns: 5 },
    Grid { rows: 4, columns: 4 },
    Grid { rows: 5, columns: 3 },
    Grid { rows: 8, columns: 2 },
];

/// Builds a vocabulary: ids 4 to 13 are text, 14 to 23 codes; sizes 29 to 33 are 2, 3, 4, 5 and 8; rows end with 34.
fn shaped() -> Vocabulary {
    let sizes = VocabularySizes { text: 10, image: 10, sentinels: 3, total: None };
    let mut vocabulary = Vocabulary::try_new("test", &sizes).expect("small");
    let start = vocabulary.used();
    vocabulary.shapes = Some(ImageShapes { sizes: IdRange { start, len: 5 }, line_end: start + 5, grids: GRIDS.to_vec() });
    vocabulary.check().expect("free ids");
    vocabulary
}

fn image(grid: Grid) -> ImageCodes {
    ImageCodes { codes: (0..grid.codes() as u32).map(|code| code % 10).collect(), grid: Some(grid) }
}

fn ids(vocabulary: &Vocabulary, grid: Grid) -> Vec<u32> {
    image_ids(vocabulary, (&image(grid)).into()).expect("an image")
}

#[test]
fn an_image_says_its_size_and_where_rows_end() {
    let v = shaped();
    let expected = [30, 32, 14, 15, 16, 17, 18, 34, 19, 20, 21, 22, 23, 34, 14, 15, 16, 17, 18, 34];
    assert_eq!(ids(&v, GRIDS[1]), expected);
    assert_eq!(ImageShapes::most_tokens(&GRIDS), 26, "eight rows of two");
    assert_eq!((v.control_name(30), v.control_name(34)), (Some("<size:3>".into()), Some("<eol>".into())));
}

#[test]
fn codes_without_a_grid_that_images_have_are_refused() {
    let v = shaped();
    let refused = |codes: &[u32], grid: Option<Grid>| image_ids(&v, ImageRef { codes, grid }).expect_err("no image").to_string();
    assert!(refused(&[0; 16], None).contains("without their rows and columns"));
    assert!(refused(&[0; 6], Some(Grid { rows: 2, columns: 3 })).contains("no image has a grid of 2x3"));
    assert!(refused(&[0; 15], Some(GRIDS[0])).contains("15 codes are none of 2x8"));
    assert_eq!(DocumentBuilder::new(&v).image(Role::Target, ImageRef::default()), Ok(()), "an image that is not there adds nothing");
}

#[test]
fn documents_hold_whole_images_of_any_shape_masked_or_not() {
    let v = shaped();
    let mut builder = DocumentBuilder::new(&v);
    builder.text(Role::Condition, &[1]).expect("in range");
    builder.image(Role::Condition, &image(GRIDS[0])).expect("an image");
    builder.image(Role::Target, &image(GRIDS[4])).expect("an image");
    let (tokens, segments) = builder.finish();
    assert_eq!(check(&tokens, &segments, &v), Ok(()));
    let found: Vec<_> = segments.iter().filter(|segment| segment.modality == Modality::Image).collect();
    assert_eq!(
        found.iter().map(|found| image_of(&v, &tokens[found.range()])).collect::<Vec<_>>(),
        [Ok(image(GRIDS[0])), Ok(image(GRIDS[4]))]
    );
    for (place, id) in [(3, 33), (4, 29), (5, 34), (13, 14), (5, 4)] {
        let mut broken = tokens.clone();
        broken[place] = id;
        let error = check(&broken, &segments, &v).expect_err("a broken image");
        assert!(matches!(error, GrammarError::Image { .. } | GrammarError::Modality { .. }), "{id} at {place}: {error}");
    }
}

#[test]
fn a_prompt_holds_the_whole_image() {
    let v = shaped();
    let prompt = text_prompt(&v, &image(GRIDS[2])).expect("an image");
    assert_eq!(prompt[3..prompt.len() - 1], ids(&v, GRIDS[2]));
}

proptest! {
    #[test]
    fn images_of_every_shape_survive_their_ids(place in 0..GRIDS.len(), codes in proptest::collection::vec(0_u32..10, 16)) {
        let (v, grid) = (shaped(), GRIDS[place]);
        let image = ImageCodes { codes: codes[..grid.codes()].to_vec(), grid: Some(grid) };
        let ids = image_ids(&v, (&image).into()).expect("an image");
        prop_assert_eq!(ids.len(), ImageShapes::tokens_of(grid));
        prop_assert_eq!(image_of(&v, &ids), Ok(image));
    }

    /// One token more, less or of another kind makes no image; another valid code or size makes another image.
    #[test]
    fn what_is_not_one_whole_image_is_refused(place in 0..GRIDS.len(), at in 0_usize..26, id in 0_u32..36, edit in 0..3) {
        let v = shaped();
        let whole = ids(&v, GRIDS[place]);
        let at = at % whole.len();
        let mut broken = whole.clone();
        match edit {
            0 => drop(broken.remove(at)),
            1 => broken.insert(at, id),
            _ => broken[at] = id,
        }
        let is_other_code = edit == 2 && v.image.contains(id) && v.image.contains(whole[at]);
        prop_assert_eq!(image_of(&v, &broken).is_ok(), broken == whole || is_other_code, "{:?}", broken);
    }
}
