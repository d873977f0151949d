//! Rows of lists: one JSON object a line. If the source is grouped by image, consecutive rows that name one image make one sample.

use std::collections::BTreeMap;

use cm3flow_schemas::sample::{Annotations, DroppedPart, MAIN_IMAGE};
use object_store::path::Path;

use super::annotations::{BAD_ANNOTATIONS, Reading, Row, image_names, problem_of_list, without_image};
use super::files::{FileSample, Picture};
use super::lines::{Line, Lines, MAX_LINE_BYTES};
use super::names::resolved;
use crate::codes;
use crate::error::{Result, StageError};

/// Largest number of rows in one sample; after these another sample begins, which is a duplicate.
const MAX_ROWS: usize = 1000;

/// Settings for reading rows of a list.
#[derive(Debug, Clone)]
pub(super) struct RowReading {
    /// Folder that image paths are relative to.
    pub folder: Path,
    /// `true` for files on this machine's disks, as [`super::Location::is_disk`].
    pub is_disk: bool,
    /// `true` if consecutive rows that name one image are one sample.
    pub by_image: bool,
}

/// A sample, and the range of its lines.
#[derive(Debug)]
pub(super) struct ListSample {
    pub sample: FileSample,
    /// Number of the first line.
    pub line: u64,
    /// Offset of the sample's first byte.
    pub start: u64,
    /// Offset behind the sample's last line.
    pub end: u64,
}

/// Reader of the samples of a list, in order.
pub(super) struct ListSamples {
    lines: Lines,
    reading: RowReading,
    /// Row behind the last sample, already read.
    ahead: Option<ListRow>,
    /// Names of source and file, until the first line has been checked.
    unchecked: Option<(String, String)>,
}

/// A line as far as it could be read.
#[derive(Debug)]
struct ListRow {
    number: u64,
    start: u64,
    end: u64,
    row: Row,
    /// Description of a row that names no image.
    no_image: Option<String>,
    /// Problem of a line that is no row.
    problem: Option<String>,
}

impl ListSamples {
    /// Reads samples from `lines`, a part of a list.
    pub(super) const fn new(lines: Lines, reading: RowReading) -> Self {
        Self { lines, reading, ahead: None, unchecked: None }
    }

    /// Reads samples from a whole list, the file `file` of the source `source`. The first call of `next` fails if the file is no list.
    pub(super) fn of_list(lines: Lines, reading: RowReading, source: &str, file: &str) -> Self {
        Self { unchecked: Some((source.to_owned(), file.to_owned())), ..Self::new(lines, reading) }
    }

    /// Returns the next sample; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<ListSample>> {
        let Some(mut first) = self.row().await? else { return Ok(None) };
        let mut rows = 1;
        while self.reading.by_image
            && rows < MAX_ROWS
            && let Some(row) = self.row().await?
        {
            if !first.has_image_of(&row) {
                self.ahead = Some(row);
                break;
            }
            first.join(row);
            rows += 1;
        }
        let (line, start, end) = (first.number, first.start, first.end);
        Ok(Some(ListSample { sample: first.into_sample(&self.reading), line, start, end }))
    }

    async fn row(&mut self) -> Result<Option<ListRow>> {
        if let Some(row) = self.ahead.take() {
            return Ok(Some(row));
        }
        let Some(line) = self.lines.next().await? else { return Ok(None) };
        if let Some((source, file)) = self.unchecked.take()
            && let Some(problem) = problem_of_list(&file, line.text.as_deref().unwrap_or_default())
        {
            return Err(StageError::Source { name: source, problem });
        }
        Ok(Some(ListRow::of(line)))
    }
}

impl ListRow {
    fn of(line: Line) -> Self {
        let Line { number, start, end, text } = line;
        let place = format!("line {}", number + 1);
        let read = match &text {
            Some(text) => Row::from_json(text),
            None => Err(format!("it is longer than {MAX_LINE_BYTES} bytes")),
        };
        let (mut row, problem) = match read {
            Ok(row) => (row, None),
            Err(problem) => (Row::default(), Some(format!("{place}: {problem}"))),
        };
        row.reading = row.reading.at(&place);
        let has_image = row.image.is_some() || row.codes.is_some() || row.reading.annotations.items.iter().any(|item| item.image.is_some());
        let no_image = text.filter(|_| !has_image && problem.is_none()).map(|text| format!("{place}: {}", without_image(&text)));
        Self { number, start, end, row, no_image, problem }
    }

    /// Checks whether `next` names the same image.
    fn has_image_of(&self, next: &Self) -> bool {
        self.row.image.is_some() && self.row.image == next.row.image
    }

    /// Adds the content of a further row about the same image.
    fn join(&mut self, next: Self) {
        self.end = next.end;
        let Row { images, mut reading, .. } = next.row;
        let this = &mut self.row;
        for (role, name) in images {
            if *this.images.entry(role).or_insert_with(|| name.clone()) != name {
                DroppedPart::add(&mut reading.dropped, "annotations.images", 1);
            }
        }
        leave_out_repeats(&this.reading.annotations, &mut reading);
        this.reading.join(reading);
    }

    fn into_sample(self, reading: &RowReading) -> FileSample {
        let Self { number, row: Row { mut image, images, codes, reading: mut read }, no_image, problem, .. } = self;
        let picture = |name: String| Picture { path: resolved(&reading.folder, &name, reading.is_disk), name };
        let mut further: Vec<(String, Picture)> = images.into_iter().map(|(role, name)| (role, picture(name))).collect();
        let first_item = read.annotations.items.iter().find_map(|item| item.image.clone());
        image = image.or(first_item);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (kind, name) in image_names(&mut read.annotations) {
            if kind == "item" && Some(&*name) == image.as_ref() {
                MAIN_IMAGE.clone_into(name);
                continue;
            }
            let count = counts.entry(kind).or_default();
            let role = format!("{kind}{count}");
            *count += 1;
            further.push((role.clone(), picture(std::mem::replace(name, role))));
        }
        let key = image.clone().unwrap_or_else(|| format!("line-{}", number + 1));
        let named = |problem: String| format!("line {}: {problem}", number + 1);
        let codes = codes.filter(|_| image.is_none()).map(|codes| codes.map(|codes| codes::to_file(&codes)).map_err(named));
        let mut sample = FileSample { key, image: image.map(picture), codes, further, reading: read, no_image, refusal: None };
        if let Some(problem) = problem {
            sample.refuse(BAD_ANNOTATIONS, problem);
        }
        sample
    }
}

/// Removes from `more` the content that `annotations` already have, and counts single values that differ.
fn leave_out_repeats(annotations: &Annotations, more: &mut Reading) {
    fn keep_new<T: PartialEq>(known: &[T], more: &mut Vec<T>) {
        more.retain(|item| !known.contains(item));
    }
    let Reading { annotations: more, dropped, .. } = more;
    // The end of the sample's reading drops equal captions and counts them. Rows repeat captions for each question, so such repeats do not
    // count.
    keep_new(&annotations.captions, &mut more.captions);
    keep_new(&annotations.questions, &mut more.questions);
    keep_new(&annotations.boxes, &mut more.boxes);
    keep_new(&annotations.edits, &mut more.edits);
    keep_new(&annotations.masks, &mut more.masks);
    keep_new(&annotations.narratives, &mut more.narratives);
    keep_new(&annotations.translations, &mut more.translations);
    keep_new(&annotations.references, &mut more.references);
    keep_new(&annotations.items, &mut more.items);
    keep_new(&annotations.seg_labels, &mut more.seg_labels);
    keep_new(&annotations.fields, &mut more.fields);
    let is_level = |level| annotations.seg_labels.iter().any(|known| known.level == level);
    let labels = more.seg_labels.len();
    more.seg_labels.retain(|label| !is_level(label.level));
    DroppedPart::add(dropped, "annotations.seg_labels", (labels - more.seg_labels.len()) as u64);
    let fields = more.fields.len();
    more.fields.retain(|field| !annotations.fields.iter().any(|known| known.name == field.name));
    DroppedPart::add(dropped, "annotations.fields", (fields - more.fields.len()) as u64);
    let is_other = annotations.ocr.is_some() && more.ocr.is_some() && annotations.ocr != more.ocr;
    DroppedPart::add(dropped, "annotations.ocr", u64::from(is_other));
}
