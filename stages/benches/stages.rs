//! Benchmarks of the hot stages, in rows a second.
//!
//! Run `cargo bench -p cm3flow-stages`. Inputs are drawn from a fixed seed and built once. The measured time is that of a stage with its
//! channels, as in a pipeline.

use std::hint::black_box;
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::document::{DocumentBuilder, Neighbour, Role, Segment};
use cm3flow_schemas::preparation::{Crop, Preparation};
use cm3flow_schemas::random::Draws;
use cm3flow_schemas::sample::{Annotations, DroppedPart, MAIN_IMAGE, Refusal, RoleCodes, RoleImage, Split};
use cm3flow_schemas::traits::{AnnotatedImage, ImageAnnotator, ImageAnnotatorSpec, NotFinite, PackSource, PairEmbedder};
use cm3flow_schemas::unit::NumericsClass;
use cm3flow_schemas::vocabulary::Vocabulary;
use cm3flow_schemas::{Digest, DocumentId, DynError, ImageId, SampleId, columns, rows};
use cm3flow_stages::annotate::{Annotate, Annotator};
use cm3flow_stages::channel::ChannelLimits;
use cm3flow_stages::dedup::{Dedup, DedupConfig};
use cm3flow_stages::derive::{Derive, DeriveConfig};
use cm3flow_stages::embed::{Embed, EmbedConfig, IdfTable, NgramColourEmbedder};
use cm3flow_stages::filter::{Filter, FilterConfig};
use cm3flow_stages::index::Bank;
use cm3flow_stages::mask::Mask;
use cm3flow_stages::owner::Owner;
use cm3flow_stages::pack::{Pack, PackConfig};
use cm3flow_stages::read::{PackOrder, PackReader, WindowFeed, WindowShards};
use cm3flow_stages::retrieve::{Retrieve, RetrieveConfig};
use cm3flow_stages::shard::{ShardConfig, write};
use cm3flow_stages::stage::{Chain, Head, Meters};
use cm3flow_stages::tokenize::{TextTokenizer, fit_text};
use cm3flow_stages::{Result, Stage};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::Serialize;
use tokio::runtime::Runtime;

const SEED: u64 = 1;
const SEQ_LEN: u32 = 4096;
const IMAGE_CODES: usize = 1024;
const WORDS: [&str; 16] =
    ["a", "dog", "runs", "over", "green", "hills", "with", "an", "old", "clock", "tower", "behind", "the", "quiet", "lake", "today"];

fn id(number: u32) -> [u8; 16] {
    let mut id = [0; 16];
    Draws::new(SEED, "id", &number.to_le_bytes()).next_u64().to_le_bytes().iter().zip(&mut id).for_each(|(from, to)| *to = *from);
    id[8..12].copy_from_slice(&number.to_le_bytes());
    id
}

fn caption(number: u32) -> String {
    let mut draws = Draws::new(SEED, "caption", &number.to_le_bytes());
    (0..16).map(|_| WORDS[draws.index(WORDS.len())]).collect::<Vec<_>>().join(" ")
}

/// Runs `chain`, and counts the rows that it sends.
fn drain(runtime: &Runtime, chain: Chain) -> usize {
    let mut rows = 0;
    let sink = |batch: RecordBatch| {
        rows += batch.num_rows();
        Ok(())
    };
    runtime.block_on(chain.run(&ChannelLimits::default(), &Meters::default(), sink)).expect("the chain runs");
    rows
}

/// Measures `stage` over `batches`.
fn bench_stage<S: Stage>(criterion: &mut Criterion, name: &str, batches: &[RecordBatch], stage: impl Fn() -> S) {
    bench_chain(criterion, name, batches, |chain| chain.then(stage()));
}

fn bench_chain(criterion: &mut Criterion, name: &str, batches: &[RecordBatch], stages: impl Fn(Chain) -> Chain) {
    let runtime = Runtime::new().expect("a runtime");
    let schema: SchemaRef = batches[0].schema();
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let mut group = criterion.benchmark_group("stages");
    group.throughput(Throughput::Elements(rows as u64)).sample_size(10);
    group.bench_function(name, |bencher| {
        let head = || stages(Chain::new(Head::Batches(Arc::clone(&schema), batches.to_vec())));
        bencher.iter_batched(head, |chain| black_box(drain(&runtime, chain)), BatchSize::PerIteration);
    });
    group.finish();
}

/// Cuts `batch` into pieces of `rows` rows.
fn pieces(batch: &RecordBatch, rows: usize) -> Vec<RecordBatch> {
    (0..batch.num_rows()).step_by(rows).map(|start| batch.slice(start, rows.min(batch.num_rows() - start))).collect()
}

#[derive(Serialize)]
struct Raw {
    sample_id: SampleId,
    image_id: ImageId,
    source: &'static str,
    key: String,
    row: u64,
    images: Vec<RoleImage>,
    annotations: Annotations,
    dropped: Vec<DroppedPart>,
    refusal: Option<Refusal>,
}

/// Measures `filter` and `derive` on photo-like JPEGs of 512x384 pixels: gradients and noise.
fn filter_and_derive(criterion: &mut Criterion) {
    let picture = |number: u32| {
        let mut draws = Draws::new(SEED, "picture", &number.to_le_bytes());
        let picture = image::RgbImage::from_fn(512, 384, |x, y| {
            let noise = draws.next_u64() as u8 & 15;
            image::Rgb([(x / 2) as u8 ^ noise, (y / 2) as u8 ^ noise, ((x + y + number) / 4) as u8 ^ noise])
        });
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, image::ImageFormat::Jpeg).expect("encodes in memory");
        bytes.into_inner()
    };
    let row = |number: u32| Raw {
        sample_id: SampleId(id(number)),
        image_id: ImageId(id(number)),
        source: "bench",
        key: number.to_string(),
        row: number.into(),
        images: vec![RoleImage { role: MAIN_IMAGE.into(), bytes: picture(number) }],
        annotations: Annotations { captions: vec![caption(number)], ..Annotations::default() },
        dropped: Vec::new(),
        refusal: None,
    };
    let raw: Vec<Raw> = (0..64).map(row).collect();
    let batch = rows::write(&columns::raw_sample(), &raw).expect("raw rows");
    let batches = pieces(&batch, 16);
    let preparation = Preparation::chameleon(256, Crop::Center);
    bench_chain(criterion, "filter and derive", &batches, |chain| {
        chain.map(Filter::new(FilterConfig::default())).map(Derive::new(DeriveConfig::default(), preparation.clone(), SEED))
    });
}

/// Annotator that returns its input, so that the stage around it is measured.
struct Mirror(ImageAnnotatorSpec);

impl ImageAnnotator for Mirror {
    fn spec(&self) -> &ImageAnnotatorSpec {
        &self.0
    }

    fn annotate(&mut self, pixels: &[u8]) -> Result<Vec<Result<AnnotatedImage, NotFinite>>, DynError> {
        let picture = |pixels: &[u8]| Ok(AnnotatedImage { side_px: self.0.side_px, pixels: pixels.to_vec() });
        Ok(pixels.chunks_exact(self.0.bytes_per_image()).map(picture).collect())
    }
}

#[derive(Serialize)]
struct Derived {
    pixels: Vec<RoleImage>,
    given_codes: Vec<RoleImage>,
    refusal: Option<Refusal>,
}

/// Measures `annotate` on squares of 256 pixels, with an annotator that takes 384.
fn annotate(criterion: &mut Criterion) {
    let row = |number: u32| {
        let mut draws = Draws::new(SEED, "square", &number.to_le_bytes());
        let bytes = (0..256 * 256 * 3).map(|_| draws.next_u64() as u8).collect();
        let pixels = vec![RoleImage { role: MAIN_IMAGE.into(), bytes }];
        Derived { pixels, given_codes: vec![], refusal: None }
    };
    let schema = Arc::new(arrow::datatypes::Schema::new(vec![columns::pixels(), columns::given_codes(), columns::refusal()]));
    let batch = rows::write(&schema, &(0..64).map(row).collect::<Vec<_>>()).expect("derived rows");
    let batches = pieces(&batch, 16);
    let numerics = NumericsClass {
        device: "cpu".into(),
        dtype: "none".into(),
        batch_size: 8,
        libtorch: "none".into(),
        threads: 1,
        cpu_capability: "any".into(),
    };
    let spec = ImageAnnotatorSpec { digest: Digest::of(b"mirror"), side_px: 384, numerics };
    let owner = Owner::spawn("image annotator", Box::new(Mirror(spec.clone())) as Box<dyn ImageAnnotator>).expect("a thread");
    let annotator = Annotator { role: "depth".into(), owner, spec };
    bench_stage(criterion, "annotate", &batches, || Annotate::new(vec![annotator.clone()], 256));
}

fn tokenize_text(criterion: &mut Criterion) {
    let texts: Vec<String> = (0..1000).map(caption).collect();
    let tokenizer = TextTokenizer::from_json(&fit_text(&texts, 1000).expect("fits")).expect("its own file");
    let mut group = criterion.benchmark_group("stages");
    group.throughput(Throughput::Elements(texts.len() as u64)).sample_size(10);
    group.bench_function("tokenize text", |bencher| {
        bencher.iter(|| texts.iter().map(|text| tokenizer.encode(text).expect("encodes").len()).sum::<usize>());
    });
    group.finish();
}

#[derive(Serialize)]
struct Tokenized {
    pixels: Vec<RoleImage>,
    image_codes: Vec<RoleCodes>,
    annotations: Annotations,
    refusal: Option<Refusal>,
}

/// Measures `embed` on squares of 512 pixels with as many codes, from as large a codebook, as Chameleon's tokenizer gives.
fn embed(criterion: &mut Criterion) {
    let row = |number: u32| {
        let mut draws = Draws::new(SEED, "square", &number.to_le_bytes());
        let bytes = (0..512 * 512 * 3).map(|_| draws.next_u64() as u8).collect();
        let codes = (0..IMAGE_CODES).map(|_| draws.next_u64() as u32 % 8192).collect();
        let annotations = Annotations { captions: vec![caption(number)], ..Annotations::default() };
        let (pixels, image_codes) = (RoleImage { role: MAIN_IMAGE.into(), bytes }, RoleCodes { role: MAIN_IMAGE.into(), codes });
        Tokenized { pixels: vec![pixels], image_codes: vec![image_codes], annotations, refusal: None }
    };
    let fields = vec![columns::pixels(), columns::image_codes(), columns::annotations(), columns::refusal()];
    let schema = Arc::new(arrow::datatypes::Schema::new(fields));
    let batch = rows::write(&schema, &(0..64).map(row).collect::<Vec<_>>()).expect("tokenized rows");
    let batches = pieces(&batch, 16);
    let table = IdfTable::fit(&EmbedConfig::default(), [caption(0).as_str()]);
    let embedder = NgramColourEmbedder::new(table, &[0.5; 8192 * 256], 256, 512);
    let owner = Owner::spawn("pair embedder", Box::new(embedder) as Box<dyn PairEmbedder>).expect("a thread");
    bench_chain(criterion, "embed", &batches, |chain| chain.map(Embed::new(owner.clone())));
}

#[derive(Serialize)]
struct Prepared {
    sample_id: SampleId,
    image_id: ImageId,
    source: &'static str,
    key: String,
    row: u64,
    annotations: Annotations,
    width: u32,
    height: u32,
    image_codes: Vec<RoleCodes>,
    text_embedding: Vec<f32>,
    image_embedding: Vec<f32>,
    split: Split,
}

/// Makes prepared samples with embeddings of `embedder`; every tenth image occurs twice.
fn prepared(count: u32, embedder: &mut NgramColourEmbedder) -> RecordBatch {
    let mut fields: Vec<_> = columns::prepared_sample().fields().iter().cloned().collect();
    fields.push(columns::split());
    let schema = Arc::new(arrow::datatypes::Schema::new(fields));
    let row = |number: u32| {
        let text = embedder.embed_texts(&[&caption(number)]).expect("embeds");
        let image_id = ImageId(id(if number % 10 == 9 { number - 1 } else { number }));
        Prepared {
            sample_id: SampleId(id(number)),
            image_id,
            source: "bench",
            key: number.to_string(),
            row: number.into(),
            annotations: Annotations { captions: vec![caption(number)], ..Annotations::default() },
            width: 512,
            height: 384,
            image_codes: vec![RoleCodes { role: MAIN_IMAGE.into(), codes: vec![number % 8; 16] }],
            image_embedding: text.iter().rev().copied().collect(),
            text_embedding: text,
            split: Split::of(SEED, image_id, 0.05),
        }
    };
    rows::write(&schema, &(0..count).map(row).collect::<Vec<_>>()).expect("prepared rows")
}

fn embedder() -> NgramColourEmbedder {
    let texts: Vec<String> = (0..1000).map(caption).collect();
    let table = IdfTable::fit(&EmbedConfig::default(), texts.iter().map(String::as_str));
    NgramColourEmbedder::new(table, &[0.5; 8 * 48], 48, 16)
}

fn dedup(criterion: &mut Criterion) {
    let window = prepared(20_000, &mut embedder());
    let none = window.slice(0, 0);
    bench_stage(criterion, "dedup", &pieces(&window, 64), || Dedup::new(DedupConfig::default(), none.clone()));
}

#[derive(Serialize)]
struct Banked {
    sample_id: SampleId,
    image_id: ImageId,
    captions: Vec<String>,
    codes: Vec<u32>,
    embedding: Vec<f32>,
}

/// Measures `retrieve` with a thousand queries to a bank of ten thousand samples.
fn retrieve(criterion: &mut Criterion) {
    let mut embedder = embedder();
    let banked = |number: u32| {
        let text = embedder.embed_texts(&[&caption(number)]).expect("embeds");
        let image: Vec<f32> = text.iter().rev().copied().collect();
        let embedding = cm3flow_stages::index::pair_embedding(&text, &image);
        Banked {
            sample_id: SampleId(id(number)),
            image_id: ImageId(id(number)),
            captions: vec![caption(number)],
            codes: vec![1; 16],
            embedding,
        }
    };
    let bank = rows::write(&columns::bank_sample(), &(100_000..110_000).map(banked).collect::<Vec<_>>()).expect("bank rows");
    let bank = Arc::new(Bank::try_new(&[bank]).expect("a bank"));
    let queries = prepared(1000, &mut embedder);
    let owner = Owner::spawn("pair embedder", Box::new(embedder) as Box<dyn PairEmbedder>).expect("a thread");
    bench_chain(criterion, "retrieve from 10,000", &pieces(&queries, 64), |chain| {
        chain.map(Retrieve::new(RetrieveConfig::default(), Arc::clone(&bank), owner.clone(), SEED))
    });
}

#[derive(Serialize)]
struct DocumentRow {
    document_id: DocumentId,
    sample_id: SampleId,
    task: &'static str,
    split: Split,
    tokens: Vec<u32>,
    segments: Vec<Segment>,
    retrieved: Vec<Neighbour>,
    retrieved_wanted: u16,
    spans: u16,
    refusal: Option<Refusal>,
}

/// Makes documents of up to three images of 1,024 codes.
fn documents(count: u32) -> RecordBatch {
    let vocabulary = Vocabulary::cm3leon();
    let row = |number: u32| {
        let mut draws = Draws::new(SEED, "document", &number.to_le_bytes());
        let mut builder = DocumentBuilder::new(&vocabulary);
        for _ in 0..=draws.index(3) {
            let text: Vec<u32> = (0..8 + draws.index(40)).map(|_| draws.index(50_000) as u32).collect();
            let codes: Vec<u32> = (0..IMAGE_CODES).map(|_| draws.index(8192) as u32).collect();
            builder.text(Role::Target, &text).expect("in range");
            builder.image(Role::Target, &codes).expect("in range");
        }
        let (tokens, segments) = builder.finish();
        let spans = draws.poisson(1.0) as u16;
        let (document_id, sample_id) = (DocumentId(id(number)), SampleId(id(number)));
        DocumentRow {
            document_id,
            sample_id,
            task: "pair",
            split: Split::Train,
            tokens,
            segments,
            retrieved: vec![],
            retrieved_wanted: 0,
            spans,
            refusal: None,
        }
    };
    rows::write(&columns::document(), &(0..count).map(row).collect::<Vec<_>>()).expect("document rows")
}

fn mask_and_pack(criterion: &mut Criterion) {
    let batches = pieces(&documents(2000), 64);
    bench_chain(criterion, "mask", &batches, |chain| {
        chain.map(Mask::new(&cm3flow_stages::mask::MaskConfig::default(), Vocabulary::cm3leon(), SEED))
    });
    bench_stage(criterion, "pack", &batches, || Pack::new(&PackConfig { seq_len: SEQ_LEN }, Vocabulary::cm3leon(), SEED));
}

struct OneWindow(WindowShards);

impl WindowFeed for OneWindow {
    fn window(&mut self, index: usize) -> BoxFuture<'_, Result<Option<WindowShards>>> {
        std::future::ready(Ok((index == 0).then(|| self.0.clone()))).boxed()
    }
}

/// Measures `read` on packs of 4,096 tokens in memory, with digests checked.
fn read(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let chain = Chain::new(Head::Batches(columns::document(), pieces(&documents(2000), 64))).then(Pack::new(
        &PackConfig { seq_len: SEQ_LEN },
        Vocabulary::cm3leon(),
        SEED,
    ));
    let mut packs = Vec::new();
    let collect = |batch| {
        packs.push(batch);
        Ok(())
    };
    runtime.block_on(chain.run(&ChannelLimits::default(), &Meters::default(), collect)).expect("packs");
    let schema = packs[0].schema();
    let shards = write(&ShardConfig::default(), Split::Train, &schema, &packs, u64::from(SEQ_LEN) * 2).expect("shards");
    let store = Arc::new(InMemory::new());
    for shard in &shards {
        let path = Path::from(format!("shards/{}.arrow", shard.entry.digest));
        runtime.block_on(store.put(&path, shard.bytes.clone().into())).expect("in memory");
    }
    let entries: WindowShards = shards.into_iter().map(|shard| shard.entry).collect();
    let total: u64 = entries.iter().map(|entry| entry.packs).sum();
    let mut group = criterion.benchmark_group("stages");
    group.throughput(Throughput::Elements(total)).sample_size(10);
    group.bench_function("read", |bencher| {
        let reader = || {
            let store: Arc<dyn ObjectStore> = Arc::clone(&store) as _;
            let feed = Box::new(OneWindow(entries.clone()));
            let order = PackOrder { split: Split::Train, seed: SEED, seq_len: SEQ_LEN as usize };
            PackReader::new(store, feed, Arc::clone(&schema), order, runtime.handle().clone())
        };
        let epoch = |mut reader: PackReader| (0..total).map(|_| reader.next_batch(1).expect("reads").tokens.len()).sum::<usize>();
        bencher.iter_batched(reader, epoch, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, filter_and_derive, annotate, tokenize_text, embed, dedup, retrieve, mask_and_pack, read);
criterion_main!(benches);
