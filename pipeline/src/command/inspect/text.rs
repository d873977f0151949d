//! Text forms of the views of `inspect`.

use std::fmt::{Display, Write};
use std::path::Path;

use cm3flow_schemas::document::Neighbour;
use cm3flow_schemas::sample::{Annotations, Refusal};
use cm3flow_stages::eval::CodeUsage;

use crate::command::output::one_line;
use crate::view::inspect::{
    CodebookView, DocumentSummary, DocumentView, Listing, PackView, Picture, SamplePlace, SampleState, SampleView, SegmentView,
};

/// Codes listed among the most used, the least used and the dead ones.
const CODES: usize = 8;
/// Documents listed among those that retrieved a sample.
const RETRIEVED_BY: usize = 10;
/// Characters of a segment's text in the table, at most.
const LETTERS: usize = 60;

fn field(out: &mut String, name: &str, value: impl Display) {
    let _ = writeln!(out, "{name:<11}{value}");
}

/// Writes a list under one name.
fn fields(out: &mut String, name: &str, values: impl IntoIterator<Item = String>) {
    for (index, value) in values.into_iter().enumerate() {
        field(out, if index == 0 { name } else { "" }, value);
    }
}

fn shortened(text: &str) -> String {
    let text = one_line(text);
    if text.chars().count() <= LETTERS { text } else { text.chars().take(LETTERS - 1).chain(['…']).collect() }
}

fn refused(Refusal { stage, reason, detail }: &Refusal) -> String {
    format!("refused by {stage}: {reason}, {}", one_line(detail))
}

fn neighbour(Neighbour { sample_id, similarity }: &Neighbour) -> String {
    format!("sample {sample_id}, similarity {similarity:.3}")
}

fn pictures(out: &mut String, images: &[Picture], folder: Option<&Path>) {
    let Some(folder) = folder else { return };
    fields(out, "images", images.iter().map(|image| format!("{}  {}", folder.join(&image.file).display(), one_line(&image.role))));
    for image in images {
        if let Some(codes) = &image.codes {
            let _ = writeln!(out, "\ncodes of {}\n{}", image.file, numbers(codes));
        }
    }
}

fn numbers(ids: &[u32]) -> String {
    ids.chunks(16).map(|row| row.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("\n")
}

fn tokens(out: &mut String, ids: Option<&Vec<u32>>) {
    if let Some(ids) = ids {
        let _ = writeln!(out, "\ntoken ids\n{}", numbers(ids));
    }
}

pub(super) fn listing(view: &Listing) -> String {
    let mut out = format!("version {}\n\nsamples: cm3flow inspect CONFIG sample ID\n", view.version);
    for sample in &view.samples {
        let _ = writeln!(out, "  {}  {}  {}", sample.sample_id, one_line(&sample.key), shortened(&sample.caption));
    }
    out.push_str("\ndocuments, one of each task: cm3flow inspect CONFIG document ID\n");
    for document in &view.documents {
        let _ = writeln!(out, "  {}  {}  of sample {}", document.document_id, document.task, document.sample_id);
    }
    out.push_str("\npacks: cm3flow inspect CONFIG pack SPLIT/INDEX\n");
    for packs in &view.packs {
        match (&packs.first, &packs.last) {
            (Some(first), Some(last)) => drop(writeln!(out, "  {first} to {last}")),
            _ => drop(writeln!(out, "  none of {}", packs.split.name())),
        }
    }
    if !view.refused.is_empty() {
        out.push_str("\nrefused samples, all with cm3flow refused list CONFIG\n");
        for row in &view.refused {
            let _ = writeln!(out, "  {}  {}  {}.{}", row.sample_id, one_line(&row.key), row.stage, row.reason);
        }
    }
    out + "\nuse of the codebook: cm3flow inspect CONFIG codebook\n"
}

pub(super) fn sample(view: &SampleView, folder: Option<&Path>) -> String {
    let mut out = String::new();
    field(&mut out, "sample", view.sample_id);
    if let Some(image_id) = view.image_id {
        field(&mut out, "image", image_id);
    }
    field(&mut out, "version", view.version);
    if let Some(split) = view.split {
        field(&mut out, "split", split.name());
    }
    for place in &view.places {
        let SamplePlace { source, file, row, key, window, unit, state } = place;
        let (source, file, key) = (one_line(source), one_line(file), one_line(key));
        field(&mut out, "from", format!("{source}  {file}, row {row}, key {key}; window {window}, unit {unit}"));
        let state = match state {
            SampleState::Kept => "kept".to_owned(),
            SampleState::Duplicate { duplicate_of } if *duplicate_of == view.sample_id => {
                "left out: the same sample is there twice".to_owned()
            }
            SampleState::Duplicate { duplicate_of } => format!("left out: duplicate of {duplicate_of}"),
            SampleState::Refused(refusal) => refused(refusal),
            SampleState::Withdrawn { withdrawn_in } => format!("withdrawn in version {withdrawn_in}"),
        };
        field(&mut out, "", state);
    }
    if let (Some(width), Some(height)) = (view.width, view.height) {
        field(&mut out, "size", format!("{width} x {height} px"));
    }
    if let Some(annotations) = &view.annotations {
        annotated(&mut out, annotations);
    }
    for document in &view.documents {
        summary(&mut out, document);
    }
    let named = view.retrieved_by.iter().take(RETRIEVED_BY).map(|id| format!("document {id}"));
    let rest = view.retrieved_by.len().saturating_sub(RETRIEVED_BY);
    fields(
        &mut out,
        "retrieved by",
        named.chain((rest > 0).then(|| format!("and {rest} more: --json lists all"))).map(|line| format!(" {line}")),
    );
    pictures(&mut out, &view.images, folder);
    out
}

fn annotated(out: &mut String, annotations: &Annotations) {
    let Annotations { captions, questions, boxes, edits, license, credit, source, .. } = annotations;
    fields(out, "captions", captions.iter().map(|caption| one_line(caption)));
    fields(out, "questions", questions.iter().map(|asked| one_line(&format!("{} {}", asked.question, asked.answer))));
    let corners = |labelled: &cm3flow_schemas::sample::LabelledBox| {
        format!("{}: {}, {} to {}, {}", one_line(&labelled.label), labelled.x0, labelled.y0, labelled.x1, labelled.y1)
    };
    fields(out, "boxes", boxes.iter().map(corners));
    fields(out, "edits", edits.iter().map(|edit| one_line(&format!("{} ({})", edit.instruction, edit.image))));
    fields(out, "masks", annotations.masks.iter().map(|mask| one_line(&format!("{} ({})", mask.label, mask.image))));
    fields(out, "segments", annotations.seg_labels.iter().map(|found| one_line(&format!("{} {}", found.level, found.label))));
    fields(out, "narratives", annotations.narratives.iter().map(|narrative| one_line(narrative)));
    let translated = |found: &cm3flow_schemas::sample::Translation| one_line(&format!("{}: {}", found.language, found.caption));
    fields(out, "translations", annotations.translations.iter().map(translated));
    fields(out, "references", annotations.references.iter().map(|role| one_line(role)));
    let item = |item: &cm3flow_schemas::sample::Item| match (&item.text, &item.image) {
        (Some(text), _) => one_line(text),
        (None, image) => one_line(&format!("image {}", image.as_deref().unwrap_or("?"))),
    };
    fields(out, "items", annotations.items.iter().map(item));
    fields(out, "writing", annotations.ocr.iter().map(|ocr| one_line(ocr)));
    fields(out, "fields", annotations.fields.iter().map(|field| one_line(&format!("{}: {}", field.name, field.text))));
    for (name, value) in [("licence", license), ("credit", credit), ("address", source)] {
        fields(out, name, value.iter().map(|value| one_line(value)));
    }
}

fn summary(out: &mut String, document: &DocumentSummary) {
    let DocumentSummary { document_id, task, tokens, spans, retrieved, place, refusal } = document;
    let place = place.as_ref().map(|place| format!(", in pack {}", place.pack)).unwrap_or_default();
    match refusal {
        Some(refusal) => field(out, "document", format!("{document_id}  {task}, {}", refused(refusal))),
        None => field(out, "document", format!("{document_id}  {task}, {tokens} tokens, {spans} masked{place}")),
    }
    fields(out, "  retrieved", retrieved.iter().map(neighbour).map(|line| format!(" {line}")));
}

pub(super) fn document(view: &DocumentView, folder: Option<&Path>) -> String {
    let mut out = String::new();
    field(&mut out, "document", view.document_id);
    field(&mut out, "version", view.version);
    let split = view.split.map(|split| format!(", {}", split.name())).unwrap_or_default();
    field(&mut out, "task", format!("{}{split}", view.task));
    field(&mut out, "sample", view.sample_id);
    if let (Some(source), Some(key)) = (&view.source, &view.key) {
        field(&mut out, "from", format!("{}  {}; window {}, unit {}", one_line(source), one_line(key), view.window, view.unit));
    }
    if let Some(refusal) = &view.refusal {
        field(&mut out, "state", refused(refusal));
        return out;
    }
    if let Some(place) = &view.place {
        field(&mut out, "pack", format!("{}, tokens {} to {}", place.pack, place.start, place.start + place.len - 1));
    }
    field(&mut out, "tokens", format!("{}, {} masked spans", view.tokens, view.spans));
    fields(&mut out, "retrieved", view.retrieved.iter().map(neighbour));
    if view.retrieved.len() < usize::from(view.retrieved_wanted) {
        field(&mut out, "", format!("{} were drawn, and fewer kept so that the document fits", view.retrieved_wanted));
    }
    pictures(&mut out, &view.images, folder);
    let _ = writeln!(out, "\nmasked, as it is trained on\n{}", one_line(&view.masked));
    let _ = writeln!(out, "\nwithout masks\n{}\n", one_line(&view.unmasked));
    segments(&mut out, &view.segments);
    tokens(&mut out, view.token_ids.as_ref());
    out
}

pub(super) fn pack(view: &PackView, folder: Option<&Path>) -> String {
    let mut out = String::new();
    field(&mut out, "pack", &view.pack);
    field(&mut out, "version", view.version);
    field(&mut out, "window", view.window);
    field(&mut out, "shard", format!("{}, block {}, row {}", view.shard, view.block, view.row));
    field(&mut out, "tokens", format!("{} of {}", view.used, view.seq_len));
    pictures(&mut out, &view.images, folder);
    for (index, document) in view.documents.iter().enumerate() {
        let placed = &document.placed;
        let (first, last) = (placed.start, placed.start + placed.len - 1);
        let _ = writeln!(out, "\n{index}: {}, tokens {first} to {last}", placed.task);
        field(&mut out, "document", placed.document_id);
        field(&mut out, "sample", placed.sample_id);
        field(&mut out, "masked", one_line(&document.masked));
        field(&mut out, "without", one_line(&document.unmasked));
    }
    out.push('\n');
    segments(&mut out, &view.segments);
    tokens(&mut out, view.token_ids.as_ref());
    out
}

fn segments(out: &mut String, segments: &[SegmentView]) {
    let _ = writeln!(out, "{:>6} {:>6}  {:<8} {:<10} {:<14} {:<5} text", "start", "len", "modality", "role", "task", "loss");
    for segment in segments {
        let SegmentView { start, len, modality, role, task, loss_weight, has_loss, text } = segment;
        let loss = if *has_loss { loss_weight.to_string() } else { "no".to_owned() };
        let _ = writeln!(out, "{start:>6} {len:>6}  {modality:<8} {role:<10} {task:<14} {loss:<5} {}", shortened(text));
    }
}

pub(super) fn codebook(view: &CodebookView) -> String {
    let mut out =
        format!("version    {}\ncounted    image tokens of the packs, each image once for each document that holds it\n", view.version);
    for (name, usage) in std::iter::once(("both splits", &view.all)).chain(view.splits.iter().map(|(name, usage)| (*name, usage))) {
        used(&mut out, name, usage);
    }
    out
}

fn used(out: &mut String, name: &str, usage: &CodeUsage) {
    let _ = writeln!(out, "\n{name}");
    field(out, "tokens", usage.tokens);
    field(out, "codes", format!("{} of {} used, {:.1} %", usage.used, usage.codes, usage.share * 100.0));
    field(out, "perplexity", format!("{:.1}", usage.perplexity));
    let ranked = usage.ranked();
    let counted = |codes: &mut dyn Iterator<Item = &(usize, u64)>| {
        codes.take(CODES).map(|(code, count)| format!("{code} ({count})")).collect::<Vec<_>>().join(", ")
    };
    if !ranked.is_empty() {
        field(out, "most used", counted(&mut ranked.iter()));
        field(out, "least used", counted(&mut ranked.iter().rev()));
    }
    let dead: Vec<String> = usage.dead_codes.iter().take(CODES).map(ToString::to_string).collect();
    let more = if usage.dead_codes.len() > CODES { ", …" } else { "" };
    let which = if dead.is_empty() { String::new() } else { format!(": {}{more}", dead.join(", ")) };
    field(out, "dead", format!("{}{which}", usage.dead_codes.len()));
}
