//! Builds the records of a sample.

use cm3flow_schemas::DocumentId;
use cm3flow_schemas::document::{DocumentBuilder, Neighbour, Role};
use cm3flow_schemas::random::Draws;
use cm3flow_schemas::sample::{LabelledBox, Refusal};

use super::template::{Each, Part, Task, Values};
use super::{In, Instruct, NAME, Out};
use crate::error::{Result, StageError};
use crate::mask;
use crate::tokenize::Unrepresentable;

/// One item of a sample that a task makes a record of.
struct Item<'a> {
    values: Values<'a>,
    /// Role of the edit's result.
    edit_image: Option<&'a str>,
}

/// What a part becomes.
enum Content<'a> {
    Text(Role, Vec<u32>),
    /// A text that has no tokens, and why.
    Unrepresentable(Unrepresentable),
    Image(Role, &'a [u32]),
    Retrieved,
}

impl Instruct {
    /// Appends the documents of `sample`, task by task.
    pub(super) fn documents_of(&self, sample: &In, documents: &mut Vec<Out>) -> Result<()> {
        for (name, task) in self.templates.tasks() {
            let weight = self.context.config.tasks.get(name).copied().unwrap_or(0.0);
            for item in 0..item_count(task, sample) {
                for copy in 0..self.copies(sample, name, item, weight) {
                    // Copies of one item follow each other; 1,000 is above any copy count that a weight may ask for.
                    let number = (item * 1000 + copy) as u32;
                    documents.extend(self.document(sample, (name, task), item, number)?);
                }
            }
        }
        Ok(())
    }

    /// How often an item becomes a record: the whole part of `weight`, and once more with a chance of the rest.
    fn copies(&self, sample: &In, task: &str, item: usize, weight: f64) -> usize {
        let rest = weight.fract();
        let id = DocumentId::of(sample.sample_id, task, item as u32);
        weight as usize + usize::from(rest > 0.0 && Draws::new(self.context.seed, "task weight", &id.0).unit() < rest)
    }

    fn document(&self, sample: &In, (name, task): (&str, &Task), item: usize, number: u32) -> Result<Option<Out>> {
        let document_id = DocumentId::of(sample.sample_id, name, number);
        let mut draws = Draws::new(self.context.seed, NAME, &document_id.0);
        let wording = draws.index(task.wordings.len());
        let item = item_of(task, sample, item, &mut draws);
        let mut contents = Vec::new();
        for (index, part) in task.wordings[wording].iter().enumerate() {
            match self.content(part, (name, wording, index), sample, &item)? {
                Some(content) => contents.push(content),
                None => return Ok(None),
            }
        }
        let spans = mask::span_count(&self.context.mask, self.context.seed, document_id, self.context.vocabulary.sentinels.len);
        let (retrieved, wanted) = self.drawn_neighbours(sample, &contents, &mut draws);
        let mut out = Out {
            document_id,
            sample_id: sample.sample_id,
            task: name.to_owned(),
            split: sample.split,
            tokens: Vec::new(),
            segments: Vec::new(),
            retrieved: Vec::new(),
            retrieved_wanted: wanted,
            spans,
            refusal: None,
        };
        let unrepresentable = |content: &Content<'_>| match content {
            Content::Unrepresentable(problem) => Some(Refusal::new(NAME, "unrepresentable_text", problem.to_string())),
            _ => None,
        };
        out.refusal = contents.iter().find_map(unrepresentable);
        if out.refusal.is_none() {
            self.fit_length(&mut out, &contents, &retrieved)?;
        }
        Ok(Some(out))
    }

    /// Lowers the number of retrieved pairs until the document fits with its masks, or refuses it.
    fn fit_length(&self, out: &mut Out, contents: &[Content<'_>], retrieved: &[Retrieved<'_>]) -> Result<()> {
        let room = self.context.seq_len.saturating_sub(mask::TOKENS_PER_SPAN * usize::from(out.spans));
        for kept in (0..=retrieved.len()).rev() {
            let builder = self.build(contents, &retrieved[..kept])?;
            if builder.finished_len() <= room {
                (out.tokens, out.segments) = builder.finish();
                out.retrieved = retrieved[..kept].iter().map(|(neighbour, ..)| neighbour.clone()).collect();
                return Ok(());
            }
            if kept == 0 {
                let detail = format!("{} tokens and {} masked spans exceed {}", builder.finished_len(), out.spans, self.context.seq_len);
                out.refusal = Some(Refusal::new(NAME, "too_long", detail));
            }
        }
        Ok(())
    }

    fn build(&self, contents: &[Content<'_>], retrieved: &[Retrieved<'_>]) -> Result<DocumentBuilder<'_>> {
        let mut builder = DocumentBuilder::new(&self.context.vocabulary);
        let mut append = || {
            for content in contents {
                match content {
                    Content::Text(role, ids) => builder.text(*role, ids)?,
                    Content::Image(role, codes) => builder.image(*role, codes)?,
                    // Such a record is refused before it is built.
                    Content::Unrepresentable(_) => {}
                    Content::Retrieved => {
                        for (_, caption, codes) in retrieved {
                            builder.text(Role::Retrieved, caption)?;
                            builder.image(Role::Retrieved, codes)?;
                        }
                    }
                }
            }
            Ok(())
        };
        append().map_err(|source| StageError::Vocabulary { stage: NAME, source })?;
        Ok(builder)
    }

    fn content<'s>(
        &self,
        part: &Part,
        (task, wording, index): (&str, usize, usize),
        sample: &'s In,
        item: &Item<'s>,
    ) -> Result<Option<Content<'s>>> {
        let role = if part.given { Role::Condition } else { Role::Target };
        if let Some(image) = &part.image {
            let wanted = if image == "edit" { item.edit_image } else { Some(image.as_str()) };
            let found = wanted.and_then(|wanted| sample.image_codes.iter().find(|image| image.role == wanted));
            return Ok(found.map(|image| Content::Image(role, &image.codes)));
        }
        if part.retrieved {
            return Ok(Some(Content::Retrieved));
        }
        let Some(text) = self.templates.render(task, wording, index, &item.values)? else { return Ok(None) };
        Ok(Some(match self.context.tokenizer.encode(&text) {
            Ok(ids) => Content::Text(role, ids),
            Err(problem) => Content::Unrepresentable(problem),
        }))
    }

    /// Neighbours with one caption each, drawn, and how many were wanted; none for tasks without a place for them.
    fn drawn_neighbours<'s>(&'s self, sample: &In, contents: &[Content<'_>], draws: &mut Draws) -> (Vec<Retrieved<'s>>, u16) {
        let (mut drawn, mut wanted) = (Vec::new(), 0);
        if !contents.iter().any(|content| matches!(content, Content::Retrieved)) {
            return (drawn, wanted);
        }
        for neighbour in &sample.neighbours {
            let Some(row) = self.bank.row_of(neighbour.sample_id) else { continue };
            let captions = self.bank.caption_count(row);
            let caption = if captions == 0 { "" } else { self.bank.caption(row, draws.index(captions)) };
            wanted += 1;
            // The record of that sample itself is refused with the reason.
            if let Ok(caption) = self.context.tokenizer.encode(caption) {
                drawn.push((neighbour.clone(), caption, self.bank.codes(row)));
            }
        }
        (drawn, wanted)
    }
}

/// A neighbour, the tokens of its caption, the codes of its image.
type Retrieved<'s> = (Neighbour, Vec<u32>, &'s [u32]);

fn item_count(task: &Task, sample: &In) -> usize {
    match task.each {
        Each::Sample => 1,
        Each::Questions => sample.annotations.questions.len(),
        Each::Edits => sample.annotations.edits.len(),
    }
}

fn item_of<'s>(task: &Task, sample: &'s In, index: usize, draws: &mut Draws) -> Item<'s> {
    let annotations = &sample.annotations;
    let captions = &annotations.captions;
    let caption = (!captions.is_empty()).then(|| captions[draws.index(captions.len())].as_str());
    let objects = (!annotations.boxes.is_empty()).then(|| annotations.boxes.iter().map(located).collect::<Vec<_>>().join(", "));
    let mut item = Item { values: Values { caption, objects, ..Values::default() }, edit_image: None };
    match task.each {
        Each::Sample => {}
        Each::Questions => {
            let question = &annotations.questions[index];
            item.values.question = Some(&question.question);
            item.values.answer = Some(question.answer.trim_end_matches('.'));
        }
        Each::Edits => {
            let edit = &annotations.edits[index];
            item.values.instruction = Some(&edit.instruction);
            item.edit_image = Some(&edit.image);
        }
    }
    item
}

/// A labelled box as text, in pixels of the tokenized image.
///
/// # Source
/// CM3Leon paper, table 5: `{object} at location (x0, y0) -> (x1, y1)`.
fn located(found: &LabelledBox) -> String {
    format!("{} at location ({}, {}) -> ({}, {})", found.label, found.x0, found.y0, found.x1, found.y1)
}
