//! Test data in memory: small pictures, samples and documents in every state of the flow.

use std::io::Cursor;
use std::sync::{Arc, LazyLock, Mutex};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, is_null, not};
use cm3flow_schemas::preparation::{AspectBuckets, Crop, Preparation};
use cm3flow_schemas::sample::{self, Annotations, DroppedPart, Edit, LabelledBox, MAIN_IMAGE, Question, Refusal, RoleImage};
use cm3flow_schemas::traits::{AnnotatedImage, ImageAnnotator, ImageAnnotatorSpec, ImageTokenizer, NotFinite, PairEmbedder};
use cm3flow_schemas::unit::NumericsClass;
use cm3flow_schemas::vocabulary::{Vocabulary, VocabularySizes};
use cm3flow_schemas::{Digest, DynError, ImageId, SampleId, columns, rows};
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, GrayImage, ImageFormat, Rgb, RgbImage};
use png::{BitDepth, ColorType, Encoder};
use serde::Serialize;

use crate::annotate::{Annotate, Annotator};
use crate::conformance::{is_refused, run_whole};
use crate::derive::{Derive, DeriveConfig};
use crate::embed::{Embed, EmbedConfig, EmbedderOwner, IdfTable, NgramColourEmbedder};
use crate::filter::{Filter, FilterConfig};
use crate::index::{Bank, Index};
use crate::instruct::{Contents, Instruct, InstructConfig, InstructContext};
use crate::mask::{Mask, MaskConfig};
use crate::owner::Owner;
use crate::pack::{Pack, PackConfig};
use crate::retrieve::{Retrieve, RetrieveConfig};
use crate::split::{Split, SplitConfig};
use crate::stage::Map;
use crate::tokenize::{ImageTokenizerOwner, PatchTokenizer, TextTokenizer, Tokenize, fit_text};

/// Side of the tokenizer's square, in pixels.
pub(crate) const SIDE: u32 = 16;
/// Side of a patch, in pixels: 16 codes an image.
pub(crate) const PATCH: u32 = 4;
/// Size of the tokenizer's codebook.
pub(crate) const CODES: u32 = 8;
/// Number of tokens in a pack.
pub(crate) const SEQ_LEN: u32 = 256;
/// Seed of all draws.
pub(crate) const SEED: u64 = 7;

/// A row of [`columns::raw_sample`].
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Raw {
    pub sample_id: SampleId,
    pub image_id: ImageId,
    pub source: String,
    pub key: String,
    pub row: u64,
    pub images: Vec<RoleImage>,
    pub annotations: Annotations,
    pub dropped: Vec<DroppedPart>,
    pub refusal: Option<Refusal>,
}

impl Raw {
    /// Makes a sample with a main image and captions.
    pub(crate) fn new(key: &str, main: Vec<u8>, captions: &[&str]) -> Self {
        let image_id = ImageId::of(&main);
        let images = vec![RoleImage { role: MAIN_IMAGE.into(), bytes: main }];
        let annotations = Annotations { captions: captions.iter().map(ToString::to_string).collect(), ..Annotations::default() };
        Self {
            sample_id: sample::sample_id(&images, &annotations),
            image_id,
            source: "fixture".into(),
            key: key.into(),
            row: 0,
            images,
            annotations,
            dropped: Vec::new(),
            refusal: None,
        }
    }

    /// Changes the annotations, and the id with them.
    pub(crate) fn annotated(mut self, change: impl FnOnce(&mut Annotations)) -> Self {
        change(&mut self.annotations);
        self.sample_id = sample::sample_id(&self.images, &self.annotations);
        self
    }

    /// Adds an image, and changes the id.
    pub(crate) fn with_image(mut self, role: &str, bytes: Vec<u8>) -> Self {
        self.images.push(RoleImage { role: role.into(), bytes });
        self.sample_id = sample::sample_id(&self.images, &self.annotations);
        self
    }

    fn refused(mut self) -> Self {
        self.images.clear();
        self.refusal = Some(Refusal::new("ingest", "missing_image", "gone.jpg does not exist"));
        self
    }
}

/// Returns raw samples as a batch, with numbered rows.
pub(crate) fn raw_batch(samples: &[Raw]) -> RecordBatch {
    let numbered: Vec<Raw> = samples.iter().zip(0..).map(|(sample, row)| Raw { row, ..sample.clone() }).collect();
    rows::write(&columns::raw_sample(), &numbered).expect("raw rows fit their schema")
}

/// Makes a picture with a gradient, and with a rectangle whose place and colour depend on `kind`.
pub(crate) fn picture(kind: u8, width: u32, height: u32) -> RgbImage {
    let step = |x: u32, length: u32| (x * 255 / length.max(1)) as u8;
    RgbImage::from_fn(width, height, |x, y| {
        let (row, column) = (u32::from(kind % 4), u32::from(kind / 4 % 4));
        if x * 4 / width == column && y * 4 / height == row {
            Rgb([kind.wrapping_mul(83), kind.wrapping_mul(151), 255 - kind.wrapping_mul(29)])
        } else {
            let colour = [step(x, width), step(y, height), step(x + y, width + height)];
            Rgb([colour[kind as usize % 3], colour[kind as usize / 3 % 3], kind.wrapping_mul(57)])
        }
    })
}

/// Encodes `picture` as a PNG file.
pub(crate) fn png(picture: &RgbImage) -> Vec<u8> {
    encoded(&DynamicImage::ImageRgb8(picture.clone()), ImageFormat::Png)
}

/// Encodes `picture` as a JPEG file of high quality.
pub(crate) fn jpeg(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(picture).expect("encodes in memory");
    bytes
}

/// Encodes `picture` as a file of `format`.
pub(crate) fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).expect("encodes in memory");
    bytes.into_inner()
}

/// Encodes `levels` as a PNG with samples of `depth` bits: grey levels, or indices into `palette`.
pub(crate) fn level_png(levels: &GrayImage, depth: BitDepth, palette: Option<&[Rgb<u8>]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, levels.width(), levels.height());
    encoder.set_depth(depth);
    encoder.set_color(if palette.is_some() { ColorType::Indexed } else { ColorType::Grayscale });
    if let Some(palette) = palette {
        encoder.set_palette(palette.iter().flat_map(|colour| colour.0).collect::<Vec<u8>>());
    }
    let bits = depth as usize;
    let packed = |samples: &[u8]| (0..).zip(samples).fold(0, |byte, (place, level)| byte | (level << (8 - bits - place * bits)));
    let lines = levels.as_raw().chunks(levels.width() as usize);
    let data: Vec<u8> = lines.flat_map(|line| line.chunks(8 / bits).map(packed).collect::<Vec<u8>>()).collect();
    encoder.write_header().and_then(|mut writer| writer.write_image_data(&data)).expect("encodes in memory");
    bytes
}

/// Makes seventeen samples: good ones, duplicates of two kinds, and one for each early refusal.
pub(crate) fn raw_samples() -> Vec<Raw> {
    let captions = [
        "a red kite over a hill",
        "a green boat on a lake",
        "a blue door in a wall",
        "two dogs run on sand",
        "an old clock tower",
        "a bowl of ripe plums",
    ];
    let mut samples: Vec<Raw> = captions
        .iter()
        .zip(0_u8..)
        .map(|(caption, kind)| Raw::new(&format!("plain-{kind}"), png(&picture(kind, 32, 24)), &[caption, "a small test picture"]))
        .collect();
    let boxes = vec![LabelledBox { label: "door".into(), x0: 4, y0: 4, x1: 20, y1: 28 }];
    let questions = vec![Question::new("What is it?", "a door."), Question::new("What colour?", "blue")];
    let annotated = Raw::new("annotated", jpeg(&picture(6, 24, 32)), &["a door in the sun"]).annotated(|annotations| {
        annotations.boxes = boxes;
        annotations.questions = questions;
    });
    let edits = vec![Edit { instruction: "make it darker".into(), image: "edit0".into() }];
    let edited = Raw::new("edited", png(&picture(7, 20, 20)), &["a lamp on a desk"])
        .with_image("edit0", png(&picture(8, 20, 20)))
        .annotated(|annotations| annotations.edits = edits);
    let mut cut = png(&picture(9, 40, 40));
    cut.truncate(cut.len() / 2);
    samples.extend([
        annotated.clone(),
        edited,
        Raw::new("tiny", png(&picture(10, 8, 8)), &["a tiny picture"]),
        Raw::new("speechless", png(&picture(11, 32, 32)), &[]),
        Raw::new("broken", cut, &["half a picture"]),
        Raw::new("gone", vec![], &["a picture that is gone"]).refused(),
        Raw::new("twin", png(&picture(0, 32, 24)), &["the same kite in other words"]),
        Raw { key: "copy".into(), ..annotated },
        Raw::new("square", png(&picture(12, SIDE, SIDE)), &["a square of colours"]),
        Raw::new("wide", png(&picture(13, 60, 20)), &["a wide meadow under clouds"]),
        Raw::new("talkative", png(&picture(14, 24, 24)), &[&(0..250).map(|n| n.to_string()).collect::<Vec<_>>().join(" ")]),
    ]);
    samples
}

/// Returns limits that the small pictures pass.
pub(crate) fn filter_config() -> FilterConfig {
    FilterConfig { min_short_side_px: SIDE, ..FilterConfig::default() }
}

/// Returns the preparation of the image tokenizer.
pub(crate) fn preparation() -> Preparation {
    Preparation::chameleon(SIDE, Crop::Center)
}

/// Returns a tokenizer fitted on the test pictures.
pub(crate) fn patch_tokenizer() -> PatchTokenizer {
    static FITTED: LazyLock<PatchTokenizer> = LazyLock::new(|| {
        let images: Vec<u8> = (0..12).flat_map(|kind| picture(kind, SIDE, SIDE).into_raw()).collect();
        PatchTokenizer::fit(&images, SIDE, PATCH, CODES, SEED).expect("more patches than codes")
    });
    FITTED.clone()
}

/// Puts the tokenizer on a thread, as a stage takes it.
pub(crate) fn tokenizer_owner() -> ImageTokenizerOwner {
    Owner::spawn("image tokenizer", Box::new(patch_tokenizer()) as Box<dyn ImageTokenizer>).expect("a thread")
}

/// Returns a text tokenizer fitted on the test captions.
pub(crate) fn text_tokenizer() -> TextTokenizer {
    static FITTED: LazyLock<TextTokenizer> = LazyLock::new(|| {
        let texts: Vec<String> = raw_samples().into_iter().flat_map(|sample| sample.annotations.captions).collect();
        TextTokenizer::from_json(&fit_text(&texts, 320).expect("fits")).expect("its own file")
    });
    FITTED.clone()
}

/// Returns an embedder fitted on the test captions, with the tokenizer's codebook.
pub(crate) fn embedder() -> NgramColourEmbedder {
    let texts: Vec<String> = raw_samples().into_iter().flat_map(|sample| sample.annotations.captions).collect();
    let table = IdfTable::fit(&EmbedConfig { text_buckets: 64, ..EmbedConfig::default() }, texts.iter().map(String::as_str));
    let tokenizer = patch_tokenizer();
    NgramColourEmbedder::new(table, tokenizer.codebook(), tokenizer.spec().codebook_dim as usize, SIDE as usize)
}

/// Puts the embedder on a thread, as a stage takes it.
pub(crate) fn embedder_owner() -> EmbedderOwner {
    Owner::spawn("pair embedder", Box::new(embedder()) as Box<dyn PairEmbedder>).expect("a thread")
}

/// Returns a vocabulary for the test tokenizers.
pub(crate) fn vocabulary() -> Vocabulary {
    let sizes = VocabularySizes { text: text_tokenizer().size(), image: CODES, sentinels: 8, total: None };
    Vocabulary::try_new("fixture", &sizes).expect("small")
}

/// Annotator without a network. It returns negatives of a quarter of its input's size, and takes `batch_size` pictures at once. If the last
/// pixel of a picture is less blue than `least_blue`, its values are not finite.
pub(crate) struct Negatives {
    spec: ImageAnnotatorSpec,
    least_blue: u8,
    /// Number of pictures in each call.
    pub(crate) calls: Arc<Mutex<Vec<usize>>>,
}

impl Negatives {
    pub(crate) fn new(side_px: u32, batch_size: u32, least_blue: u8) -> Self {
        let numerics = NumericsClass { batch_size, ..patch_tokenizer().spec().numerics.clone() };
        Self { spec: ImageAnnotatorSpec { digest: Digest::of(b"negatives"), side_px, numerics }, least_blue, calls: Arc::default() }
    }

    /// Puts the annotator on a thread, as the stage takes it.
    pub(crate) fn annotator(self, role: &str) -> Annotator {
        let spec = self.spec.clone();
        let owner = Owner::spawn("image annotator", Box::new(self) as Box<dyn ImageAnnotator>).expect("a thread");
        Annotator { role: role.into(), owner, spec }
    }
}

impl ImageAnnotator for Negatives {
    fn spec(&self) -> &ImageAnnotatorSpec {
        &self.spec
    }

    fn annotate(&mut self, pixels: &[u8]) -> Result<Vec<Result<AnnotatedImage, NotFinite>>, DynError> {
        let side = self.spec.side_px;
        let one = |pixels: &[u8]| {
            if pixels[pixels.len() - 1] < self.least_blue {
                return Err(NotFinite { values: 1, of: pixels.len() });
            }
            let picture = RgbImage::from_raw(side, side, pixels.to_vec()).expect("a whole picture");
            let negative = RgbImage::from_fn(side / 4, side / 4, |x, y| Rgb(picture.get_pixel(4 * x, 4 * y).0.map(|level| 255 - level)));
            Ok(AnnotatedImage { side_px: side / 4, pixels: negative.into_raw() })
        };
        let made: Vec<_> = pixels.chunks_exact(self.spec.bytes_per_image()).map(one).collect();
        self.calls.lock().expect("no panic").push(made.len());
        Ok(made)
    }
}

/// Returns two annotators of different sizes; the second one fails on pictures without blue.
pub(crate) fn annotate() -> Annotate {
    Annotate::new(vec![Negatives::new(SIDE, 3, 0).annotator("depth"), Negatives::new(24, 2, 20).annotator("hed")], SIDE)
}

/// Returns the tokenizer's preparation with several shapes: 2x8, 3x5, 4x4, 5x3 or 8x2 codes.
pub(crate) fn bucketed_preparation() -> Preparation {
    preparation().with_buckets(Some(AspectBuckets { max_aspect: 4, grid_px: PATCH, code_px: PATCH }))
}

/// Returns raw samples, as `ingest` sends them.
pub(crate) fn raw() -> RecordBatch {
    raw_batch(&raw_samples())
}

/// Returns [`raw`] after `filter`.
pub(crate) fn filtered() -> RecordBatch {
    run_whole(Map(Filter::new(filter_config())), &raw())
}

/// Returns [`filtered`] after `derive`.
pub(crate) fn derived() -> RecordBatch {
    run_whole(Map(Derive::new(DeriveConfig::default(), preparation(), SEED)), &filtered())
}

/// Returns [`derived`] after `annotate`.
pub(crate) fn annotated() -> RecordBatch {
    run_whole(annotate(), &derived())
}

/// Returns [`derived`] after `tokenize`.
pub(crate) fn tokenized() -> RecordBatch {
    run_whole(Tokenize::new(tokenizer_owner(), patch_tokenizer().spec().clone()), &derived())
}

/// Returns [`tokenized`] after `embed`.
pub(crate) fn embedded() -> RecordBatch {
    run_whole(Map(Embed::new(embedder_owner())), &tokenized())
}

/// Returns the kept rows of [`embedded`] with the columns of a prepared unit.
pub(crate) fn prepared() -> RecordBatch {
    static MADE: LazyLock<RecordBatch> = LazyLock::new(|| {
        let rows = kept(&embedded());
        let names = columns::prepared_sample();
        let indices: Vec<usize> =
            names.fields().iter().map(|field| rows.schema().index_of(field.name()).expect("a prepared column")).collect();
        rows.project(&indices).expect("columns of the batch")
    });
    MADE.clone()
}

/// Returns the rows without refusal.
pub(crate) fn kept(batch: &RecordBatch) -> RecordBatch {
    let refused: BooleanArray = is_refused(batch.column_by_name(columns::REFUSAL).expect("a refusal column"));
    filter_record_batch(batch, &not(&refused).expect("a mask")).expect("a filter of the same length")
}

/// Returns [`prepared`] with splits.
pub(crate) fn split() -> RecordBatch {
    run_whole(Map(Split::new(SplitConfig { held_out: 0.25 }, SEED)), &prepared())
}

/// Returns an empty batch for the samples of earlier windows.
pub(crate) fn no_earlier() -> RecordBatch {
    prepared().slice(0, 0)
}

/// Returns [`split`] with elections and no earlier windows.
pub(crate) fn settled() -> RecordBatch {
    run_whole(crate::dedup::Dedup::new(crate::dedup::DedupConfig::default(), no_earlier()), &split())
}

/// Returns the bank of [`settled`].
pub(crate) fn bank() -> Arc<Bank> {
    Arc::new(Bank::try_new(&[run_whole(Map(Index), &settled())]).expect("rows of a bank"))
}

/// Returns the rows of [`settled`] that are no duplicates.
pub(crate) fn elected() -> RecordBatch {
    let settled = settled();
    let duplicate = settled.column_by_name(columns::DUPLICATE_OF).expect("a settled column");
    filter_record_batch(&settled, &is_null(duplicate).expect("a mask")).expect("a filter of the same length")
}

/// Returns [`elected`] with neighbours.
pub(crate) fn retrieved() -> RecordBatch {
    run_whole(Map(Retrieve::new(RetrieveConfig::default(), bank(), embedder_owner(), SEED)), &elected())
}

/// Returns settings and tokenizer of `instruct`.
pub(crate) fn instruct_context() -> InstructContext {
    InstructContext {
        config: InstructConfig::default(),
        templates: InstructConfig::default().templates().expect("the templates in this crate"),
        mask: MaskConfig::default(),
        seq_len: SEQ_LEN as usize,
        vocabulary: vocabulary(),
        tokenizer: text_tokenizer(),
        seed: SEED,
    }
}

/// Returns the documents of [`retrieved`].
pub(crate) fn documents() -> RecordBatch {
    run_whole(Map(Instruct::new(Arc::new(instruct_context()), bank(), &Contents::default())), &retrieved())
}

/// Returns [`documents`] with masks.
pub(crate) fn masked() -> RecordBatch {
    run_whole(Map(Mask::new(&MaskConfig::default(), vocabulary(), SEED)), &documents())
}

/// Returns packs of the documents in [`masked`].
pub(crate) fn packed() -> RecordBatch {
    run_whole(Pack::new(&PackConfig { seq_len: SEQ_LEN }, vocabulary(), SEED), &kept(&masked()))
}
