//! Names of columns, and the Arrow schema of a record batch after each segment.
//!
//! Ids are text of 32 hexadecimal digits, so any tool can open and join the files.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};

use crate::vocabulary::TokenWidth;

/// Id of the sample, a [`crate::SampleId`].
pub const SAMPLE_ID: &str = "sample_id";
/// Id of the main image, a [`crate::ImageId`].
pub const IMAGE_ID: &str = "image_id";
/// Name of the source in the configuration.
pub const SOURCE: &str = "source";
/// The sample's own key in its source: the member name of a tar without extension, a file name, a row's key.
pub const KEY: &str = "key";
/// Index of the sample in its unit, from 0.
pub const ROW: &str = "row";
/// Encoded images, each with its role.
pub const IMAGES: &str = "images";
/// Captions, boxes and the like, as [`crate::sample::Annotations`].
pub const ANNOTATIONS: &str = "annotations";
/// Reason of a refusal, a [`crate::sample::Refusal`]; null for a row that stays.
pub const REFUSAL: &str = "refusal";
/// Parts that the sample lost although it stays, as [`crate::sample::DroppedPart`]s.
pub const DROPPED: &str = "dropped";
/// Fitted RGB images, row-major, interleaved: `side * side * 3` bytes for each square.
pub const PIXELS: &str = "pixels";
/// Files of codes that the source gives, each with the role of its image.
pub const GIVEN_CODES: &str = "given_codes";
/// Width of the main image before fitting, in pixels.
pub const WIDTH: &str = "width";
/// Height of the main image before fitting, in pixels.
pub const HEIGHT: &str = "height";
/// Codes of each image, with its role.
pub const IMAGE_CODES: &str = "image_codes";
/// Grids of images with their roles; present only where images have several shapes.
pub const IMAGE_GRIDS: &str = "image_grids";
/// Grid of the main image of a bank sample; present only where images have several shapes.
pub const GRID: &str = "grid";
/// Embedding of the first caption, of unit length; empty without captions.
pub const TEXT_EMBEDDING: &str = "text_embedding";
/// Embedding of the main image, of unit length.
pub const IMAGE_EMBEDDING: &str = "image_embedding";
/// Embedding of the pair: the normalised mean of both.
pub const EMBEDDING: &str = "embedding";
/// Split of the sample, a [`crate::sample::Split`].
pub const SPLIT: &str = "split";
/// Index of the unit in its window, from 0.
pub const UNIT: &str = "unit";
/// `true` for a blocked sample: an earlier version withdrew it.
pub const WITHDRAWN: &str = "withdrawn";
/// Id of the sample that stays instead of this one; null for a sample that stays itself.
pub const DUPLICATE_OF: &str = "duplicate_of";
/// Neighbours in the bank, best first.
pub const NEIGHBOURS: &str = "neighbours";
/// Id of the document, a [`crate::DocumentId`].
pub const DOCUMENT_ID: &str = "document_id";
/// Name of the task whose template made the document.
pub const TASK: &str = "task";
/// Token ids of a document or a pack.
pub const TOKENS: &str = "tokens";
/// Runs of tokens of one modality and role, as [`crate::document::Segment`]s.
pub const SEGMENTS: &str = "segments";
/// Retrieved samples of the document.
pub const RETRIEVED: &str = "retrieved";
/// Number of retrieved documents that were drawn, before the length policy cut them.
pub const RETRIEVED_WANTED: &str = "retrieved_wanted";
/// Rows of the file that make up a source unit; present only if they are not consecutive.
pub const ONLY: &str = "only";
/// Variant of the document, from 0.
pub const VARIANT: &str = "variant";
/// Captions of a bank sample.
pub const CAPTIONS: &str = "captions";
/// Codes of the main image of a bank sample.
pub const CODES: &str = "codes";
/// Id that a sample shares with its duplicates: its image id or its sample id.
pub const SHARED_ID: &str = "shared_id";
/// Number of masked spans: drawn by `instruct`, placed by `mask`.
pub const SPANS: &str = "spans";
/// Documents of a pack.
pub const DOCUMENTS: &str = "documents";

fn field(name: &str, data_type: DataType) -> FieldRef {
    Arc::new(Field::new(name, data_type, false))
}

fn nullable(name: &str, data_type: DataType) -> FieldRef {
    Arc::new(Field::new(name, data_type, true))
}

fn list(of: DataType) -> DataType {
    DataType::List(field("item", of))
}

fn structure(fields: Vec<FieldRef>) -> DataType {
    DataType::Struct(Fields::from(fields))
}

/// Returns the `refusal` column: stage, reason and detail; null while the row is wanted.
#[must_use]
pub fn refusal() -> FieldRef {
    nullable(REFUSAL, structure(["stage", "reason", "detail"].map(|name| field(name, DataType::Utf8)).to_vec()))
}

/// Returns the `dropped` column: counts of lost parts by reason, each reason once.
#[must_use]
pub fn dropped() -> FieldRef {
    field(DROPPED, list(structure(vec![field("reason", DataType::Utf8), field("count", DataType::UInt64)])))
}

/// Returns the `annotations` column.
#[must_use]
pub fn annotations() -> FieldRef {
    let text = |name| field(name, DataType::Utf8);
    let pixel = |name| field(name, DataType::UInt32);
    let or_none = |name| nullable(name, DataType::Utf8);
    let question = vec![text("question"), text("answer"), or_none("context"), or_none("options"), or_none("explanation")];
    field(
        ANNOTATIONS,
        structure(vec![
            field("captions", list(DataType::Utf8)),
            field("questions", list(structure(question))),
            field("boxes", list(structure(vec![text("label"), pixel("x0"), pixel("y0"), pixel("x1"), pixel("y1")]))),
            field("edits", list(structure(vec![text("instruction"), text("image")]))),
            field("seg_labels", list(structure(vec![pixel("level"), text("label")]))),
            field("masks", list(structure(vec![text("label"), text("image")]))),
            field("narratives", list(DataType::Utf8)),
            field("translations", list(structure(vec![text("language"), text("caption")]))),
            field("references", list(DataType::Utf8)),
            field("items", list(structure(vec![or_none("text"), or_none("image")]))),
            or_none("ocr"),
            field("fields", list(structure(vec![text("name"), text("text")]))),
            or_none("license"),
            or_none("credit"),
            or_none("source"),
        ]),
    )
}

/// Returns the `pixels` column: fitted images with their roles.
#[must_use]
pub fn pixels() -> FieldRef {
    field(PIXELS, list(structure(vec![field("role", DataType::Utf8), field("bytes", DataType::Binary)])))
}

/// Returns the `given_codes` column: files of codes with the roles of their images.
#[must_use]
pub fn given_codes() -> FieldRef {
    field(GIVEN_CODES, list(structure(vec![field("role", DataType::Utf8), field("bytes", DataType::Binary)])))
}

/// Returns the `width` and `height` columns.
#[must_use]
pub fn size() -> Vec<FieldRef> {
    vec![field(WIDTH, DataType::UInt32), field(HEIGHT, DataType::UInt32)]
}

/// Returns the `image_codes` column: the codes of each image, row-major.
#[must_use]
pub fn image_codes() -> FieldRef {
    field(IMAGE_CODES, list(structure(vec![field("role", DataType::Utf8), field("codes", list(DataType::UInt32))])))
}

/// Returns the `image_grids` column: rows and columns of each image's codes. An image that is not listed has the grid of the main image.
#[must_use]
pub fn image_grids() -> FieldRef {
    let count = |name| field(name, DataType::UInt32);
    field(IMAGE_GRIDS, list(structure(vec![field("role", DataType::Utf8), count("rows"), count("columns")])))
}

/// Returns `names`, followed by [`IMAGE_GRIDS`] where images have several shapes.
#[must_use]
pub fn with_image_grids<'n>(names: &[&'n str], has_shapes: bool) -> Vec<&'n str> {
    names.iter().copied().chain(has_shapes.then_some(IMAGE_GRIDS)).collect()
}

/// Returns the `grid` column.
#[must_use]
pub fn grid() -> FieldRef {
    field(GRID, structure(["rows", "columns"].map(|name| field(name, DataType::UInt32)).to_vec()))
}

/// Returns `schema` with the columns `added` behind its own.
#[must_use]
pub fn with(schema: &SchemaRef, added: &[FieldRef]) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().chain(added).cloned().collect::<Vec<_>>()))
}

/// Returns the `text_embedding` and `image_embedding` columns.
#[must_use]
pub fn embeddings() -> Vec<FieldRef> {
    [TEXT_EMBEDDING, IMAGE_EMBEDDING].map(|name| field(name, list(DataType::Float32))).to_vec()
}

/// Returns the `split` column.
#[must_use]
pub fn split() -> FieldRef {
    field(SPLIT, DataType::Utf8)
}

/// Returns the `duplicate_of` column.
#[must_use]
pub fn duplicate_of() -> FieldRef {
    nullable(DUPLICATE_OF, DataType::Utf8)
}

/// Returns the `neighbours` column.
#[must_use]
pub fn neighbours() -> FieldRef {
    field(NEIGHBOURS, list(neighbour()))
}

fn neighbour() -> DataType {
    structure(vec![field(SAMPLE_ID, DataType::Utf8), field("similarity", DataType::Float32)])
}

fn segment() -> DataType {
    let offset = |name| field(name, DataType::UInt32);
    let kind = |name| field(name, DataType::UInt8);
    structure(vec![offset("start"), offset("len"), kind("modality"), kind("role"), field("loss_weight", DataType::Float32)])
}

/// Returns the schema that `ingest` sends: one sample a row, with encoded images and annotations.
#[must_use]
pub fn raw_sample() -> SchemaRef {
    Arc::new(Schema::new(vec![
        field(SAMPLE_ID, DataType::Utf8),
        field(IMAGE_ID, DataType::Utf8),
        field(SOURCE, DataType::Utf8),
        field(KEY, DataType::Utf8),
        field(ROW, DataType::UInt64),
        field(IMAGES, list(structure(vec![field("role", DataType::Utf8), field("bytes", DataType::Binary)]))),
        annotations(),
        dropped(),
        refusal(),
    ]))
}

/// Returns the schema of a prepared unit: one kept sample a row, with codes and embeddings. Where images have several shapes,
/// [`image_grids`] is appended.
#[must_use]
pub fn prepared_sample() -> SchemaRef {
    let mut fields = vec![
        field(SAMPLE_ID, DataType::Utf8),
        field(IMAGE_ID, DataType::Utf8),
        field(SOURCE, DataType::Utf8),
        field(KEY, DataType::Utf8),
        field(ROW, DataType::UInt64),
        annotations(),
    ];
    fields.extend(size());
    fields.push(image_codes());
    fields.extend(embeddings());
    Arc::new(Schema::new(fields))
}

/// Returns the schema of refused samples: enough to find a sample again, and the reason.
#[must_use]
pub fn refused_sample() -> SchemaRef {
    let text = |name| field(name, DataType::Utf8);
    let row = field(ROW, DataType::UInt64);
    Arc::new(Schema::new(vec![text(SAMPLE_ID), text(SOURCE), text(KEY), row, text("stage"), text("reason"), text("detail")]))
}

/// Returns the schema of refused documents.
#[must_use]
pub fn refused_document() -> SchemaRef {
    let names = [DOCUMENT_ID, SAMPLE_ID, TASK, "stage", "reason", "detail"];
    Arc::new(Schema::new(names.map(|name| field(name, DataType::Utf8)).to_vec()))
}

/// Returns the schema of what `settle` decides: split and duplicate of each prepared sample.
#[must_use]
pub fn settled_sample() -> SchemaRef {
    let text = |name| field(name, DataType::Utf8);
    Arc::new(Schema::new(vec![text(SAMPLE_ID), text(IMAGE_ID), field(UNIT, DataType::UInt32), split(), duplicate_of()]))
}

/// Returns the schema of kept samples, which later windows look up: both ids as 16 bytes, in ascending order.
#[must_use]
pub fn kept_sample() -> SchemaRef {
    Arc::new(Schema::new([SHARED_ID, SAMPLE_ID].map(|name| field(name, DataType::FixedSizeBinary(16))).to_vec()))
}

/// Returns the schema of the retrieval bank: one train sample a row, with everything that a document takes from a retrieved one. Where
/// images have several shapes, [`grid`] is appended.
#[must_use]
pub fn bank_sample() -> SchemaRef {
    let text = |name| field(name, DataType::Utf8);
    Arc::new(Schema::new(vec![
        text(SAMPLE_ID),
        text(IMAGE_ID),
        field(CAPTIONS, list(DataType::Utf8)),
        field(CODES, list(DataType::UInt32)),
        field(EMBEDDING, list(DataType::Float32)),
    ]))
}

/// Returns the schema of training documents, before and after masking.
#[must_use]
pub fn document() -> SchemaRef {
    let text = |name| field(name, DataType::Utf8);
    Arc::new(Schema::new(vec![
        text(DOCUMENT_ID),
        text(SAMPLE_ID),
        text(TASK),
        split(),
        field(TOKENS, list(DataType::UInt32)),
        field(SEGMENTS, list(segment())),
        field(RETRIEVED, list(neighbour())),
        field(RETRIEVED_WANTED, DataType::UInt16),
        field(SPANS, DataType::UInt16),
        refusal(),
    ]))
}

/// Returns [`document`] with the column `variant`, for windows with several variants.
#[must_use]
pub fn document_of_variant() -> SchemaRef {
    let mut fields = document().fields().to_vec();
    fields.push(field(VARIANT, DataType::UInt16));
    Arc::new(Schema::new(fields))
}

/// Returns the schema of packs of `seq_len` tokens in ids of `width`.
#[must_use]
pub fn pack(seq_len: usize, width: TokenWidth) -> SchemaRef {
    let token = match width {
        TokenWidth::U16 => DataType::UInt16,
        TokenWidth::U32 => DataType::UInt32,
    };
    let text = |name| field(name, DataType::Utf8);
    let offset = |name| field(name, DataType::UInt32);
    let placed = structure(vec![text(DOCUMENT_ID), text(SAMPLE_ID), text(TASK), offset("start"), offset("len")]);
    Arc::new(Schema::new(vec![
        field(TOKENS, DataType::FixedSizeList(field("item", token), seq_len as i32)),
        field(SEGMENTS, list(segment())),
        field(DOCUMENTS, list(placed)),
    ]))
}

/// Returns the schema of a version's shard table: one shard a row, in order of windows. With variants, each row has that of its documents.
#[must_use]
pub fn shard_table(has_variants: bool) -> SchemaRef {
    let text = |name| field(name, DataType::Utf8);
    let count = |name| field(name, DataType::UInt64);
    let block = structure(vec![count("offset"), count("metadata_bytes"), count("body_bytes"), count("packs"), text("digest")]);
    let mut fields =
        vec![field("window", DataType::UInt32), text("digest"), split(), count("bytes"), count("packs"), field("blocks", list(block))];
    if has_variants {
        fields.push(field(VARIANT, DataType::UInt16));
    }
    Arc::new(Schema::new(fields))
}

/// Returns the schema of the blocklist: withdrawn ids that may not come back. `kind` is `sample` or `image`, `id` is 32 hexadecimal digits.
/// Rows are sorted by both.
#[must_use]
pub fn blocklist() -> SchemaRef {
    Arc::new(Schema::new(["kind", "id"].map(|name| field(name, DataType::Utf8)).to_vec()))
}

/// Returns the schema of a version's lineage: one source unit a row, in order of windows, with the keys of the units made of it. With
/// `has_chosen`, each row also lists the rows of a unit of chosen ones.
#[must_use]
pub fn lineage(has_chosen: bool) -> SchemaRef {
    let text = |name| field(name, DataType::Utf8);
    let count = |name| field(name, DataType::UInt64);
    let place = |name| field(name, DataType::UInt32);
    let mut fields = vec![
        place("window"),
        place(UNIT),
        text(SOURCE),
        text("file"),
        text("digest"),
        count("first_row"),
        count("rows"),
        text("prepare"),
        text("settle"),
        text("compose"),
    ];
    if has_chosen {
        fields.push(field(ONLY, list(DataType::UInt64)));
    }
    Arc::new(Schema::new(fields))
}
