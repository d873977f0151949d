//! Records of a sample, built part by part.

use cm3flow_schemas::DocumentId;
use cm3flow_schemas::document::{DocumentBuilder, ImageRef, Modality, Neighbour, Role, Segment, TextPiece};
use cm3flow_schemas::random::Draws;
use cm3flow_schemas::sample::Refusal;

use super::config::{LongText, TaskConfig};
use super::item::{Item, item_count};
use super::template::{Each, Form, Loss, Order, Part, RenderedPiece, Task};
use super::{In, Instruct, InstructContext, NAME, Out};
use crate::error::{Result, StageError, Unrepresentable};
use crate::mask::{self, Objective};

/// Content of a part.
#[derive(Clone)]
enum Content<'a> {
    Text {
        /// Pieces without a break between them.
        pieces: Vec<Piece>,
        /// `true` if the text may lose its end.
        cut: bool,
    },
    /// A text without tokens, and the reason.
    Unrepresentable(Unrepresentable),
    Image(Role, ImageRef<'a>),
    Retrieved,
}

/// A piece of a text, in ids of the text tokenizer.
#[derive(Clone)]
struct Piece {
    role: Role,
    ids: Vec<u32>,
}

/// A task with its name.
#[derive(Clone, Copy)]
struct Of<'t> {
    name: &'t str,
    task: &'t Task,
}

impl Instruct {
    /// Appends the documents of `sample`, task by task.
    pub(super) fn documents_of(&self, sample: &In, documents: &mut Vec<Out>) -> Result<()> {
        for (name, task) in self.context.templates.tasks() {
            let Some(config) = self.context.config.task(name) else { continue };
            let of = Of { name, task };
            let items = item_count(task.each, sample);
            if items == 0 {
                self.tally.lack(name, task.each.name());
            }
            for (item, copy) in self.wanted(sample, of, &config, items) {
                // Copies of one item have consecutive numbers; 1,000 exceeds any number of copies.
                let number = |item: usize| (item * 1000 + copy) as u32;
                if task.each == Each::Items {
                    self.interleaved(sample, of, number, documents)?;
                } else {
                    documents.extend(self.document(sample, of, item, number(item))?);
                }
            }
        }
        Ok(())
    }

    fn id(&self, sample: &In, of: Of<'_>, number: u32) -> DocumentId {
        DocumentId::of_variant(sample.sample_id, of.name, number, self.variant)
    }

    /// Returns items and copy numbers of the records. Each item gives the whole part of the weight, and one more with a chance of the
    /// fraction. If there are more than `most_per_sample`, those with the smallest draws stay, in their order.
    fn wanted(&self, sample: &In, of: Of<'_>, config: &TaskConfig, items: usize) -> Vec<(usize, usize)> {
        let weight = config.weight * self.multipliers.get(of.name).copied().unwrap_or(1.0);
        let drawn = |what, item: usize| {
            let id = self.id(sample, of, item as u32);
            Draws::new(self.context.seed, what, &id.0).unit()
        };
        let copies = |item| weight as usize + usize::from(weight.fract() > 0.0 && drawn("task weight", item) < weight.fract());
        let mut wanted: Vec<(usize, usize)> = (0..items).flat_map(|item| (0..copies(item)).map(move |copy| (item, copy))).collect();
        if let Some(most) = config.most_per_sample.map(|most| most as usize).filter(|most| wanted.len() > *most) {
            wanted.sort_by(|one, other| drawn("most per sample", one.0).total_cmp(&drawn("most per sample", other.0)).then(one.cmp(other)));
            wanted.truncate(most);
            wanted.sort_unstable();
        }
        wanted
    }

    fn document(&self, sample: &In, of: Of<'_>, item: usize, number: u32) -> Result<Option<Out>> {
        let document_id = self.id(sample, of, number);
        let mut draws = Draws::new(self.context.seed, NAME, &document_id.0);
        let item = Item::of(of.task.each, sample, item, &mut draws);
        let wordings = self.context.templates.wordings(of.name);
        let missing = |wording: &usize| item.missing(&wordings[*wording].needs, sample);
        let begun: Vec<usize> = (0..of.task.wordings.len()).filter(|wording| missing(wording).is_none()).collect();
        if begun.is_empty() {
            let lacking = missing(&0).unwrap_or_default();
            self.tally.lack(of.name, &lacking);
            return Ok(None);
        }
        let wording = begun[draws.index(begun.len())];
        let mut contents = Vec::new();
        for (index, part) in of.task.wordings[wording].iter().enumerate() {
            contents.push(match &part.text {
                Some(_) => self.texts(&self.context.templates.render(&wordings[wording], index, &item.values)?, part.cut),
                None => image_or_place(part, sample, &item),
            });
        }
        order(of.task.order, &mut contents, &mut draws);
        let (retrieved, wanted) = self.drawn_neighbours(sample, &contents, &mut draws);
        let mut out = begin(sample, of, document_id);
        out.retrieved_wanted = wanted;
        let is_cut = self.fit_length(&mut out, of.task.form, &mut contents, &retrieved)?;
        if is_cut {
            self.tally.shorten();
        }
        self.weigh(&mut out, of.task.loss);
        Ok(Some(out))
    }

    /// Appends records of interleaved texts and images. Each takes as many items as fit; items are not split, and an image stays with its
    /// caption.
    fn interleaved(&self, sample: &In, of: Of<'_>, number: impl Fn(usize) -> u32, documents: &mut Vec<Out>) -> Result<()> {
        let mut items = Vec::new();
        for item in &sample.annotations.items {
            let mut contents = Vec::new();
            if let Some(image) = &item.image {
                match sample.image(image) {
                    Some(found) => contents.push(Content::Image(Role::Target, found)),
                    None => self.tally.lack(of.name, "image of an item"),
                }
            }
            contents.extend(item.text.iter().map(|text| self.texts(&[RenderedPiece { text: text.clone(), is_hole: true }], true)));
            items.push(contents);
        }
        items.retain(|contents| !contents.is_empty());
        let mut rest = items.as_slice();
        let mut piece = 0;
        while !rest.is_empty() {
            let mut out = begin(sample, of, self.id(sample, of, number(piece)));
            let most_spans = if of.task.form == Form::Infill { self.objective().most_spans(out.document_id) } else { 0 };
            let room = self.room(most_spans);
            let mut taken = 1;
            while taken < rest.len() && self.build(&self.joined(&rest[..=taken]), &[])?.finished_len() <= room {
                taken += 1;
            }
            let is_cut = self.fit_length(&mut out, of.task.form, &mut self.joined(&rest[..taken]), &[])?;
            if is_cut {
                self.tally.shorten();
            }
            self.weigh(&mut out, of.task.loss);
            documents.push(out);
            rest = &rest[taken..];
            piece += 1;
        }
        Ok(())
    }

    /// Returns the contents of `items` in a row. Consecutive texts become lines of one text, since a break marks a change of modality.
    fn joined<'s>(&self, items: &[Vec<Content<'s>>]) -> Vec<Content<'s>> {
        let mut joined: Vec<Content<'s>> = Vec::new();
        for content in items.iter().flatten() {
            match (joined.last_mut(), content, &self.newline) {
                (Some(Content::Text { pieces, .. }), Content::Text { pieces: line, .. }, Some(newline)) => {
                    // The text of an item is one piece.
                    for (text, line) in pieces.iter_mut().zip(line) {
                        text.ids.extend(newline.iter().chain(&line.ids));
                    }
                }
                _ => joined.push(content.clone()),
            }
        }
        joined
    }

    fn objective(&self) -> Objective<'_> {
        let InstructContext { mask, vocabulary, seed, .. } = &*self.context;
        Objective { config: mask, vocabulary, seed: *seed }
    }

    /// Returns the number of tokens that a record with `spans` spans may have before masking.
    fn room(&self, spans: u16) -> usize {
        self.context.seq_len.saturating_sub(mask::TOKENS_PER_SPAN * usize::from(spans))
    }

    /// Drops retrieved pairs until the document fits with its masks. If that is not enough, it cuts texts or refuses the document. Returns
    /// `true` if a text was cut.
    fn fit_length(&self, out: &mut Out, form: Form, contents: &mut [Content<'_>], retrieved: &[Retrieved<'_>]) -> Result<bool> {
        let unrepresentable = |content: &Content<'_>| match content {
            Content::Unrepresentable(problem) => Some(Refusal::new(NAME, "unrepresentable_text", problem.to_string())),
            _ => None,
        };
        out.refusal = contents.iter().find_map(unrepresentable);
        if out.refusal.is_some() {
            return Ok(false);
        }
        let (mut tokens, mut segments) = self.build(contents, retrieved)?.finish();
        if form == Form::Infill {
            out.spans = self.objective().span_count(out.document_id, &tokens, &segments);
        }
        let room = self.room(out.spans);
        let mut kept = retrieved.len();
        while tokens.len() > room && kept > 0 {
            kept -= 1;
            (tokens, segments) = self.build(contents, &retrieved[..kept])?.finish();
        }
        let length = tokens.len();
        if length <= room {
            (out.tokens, out.segments) = (tokens, segments);
            out.retrieved = retrieved[..kept].iter().map(|(neighbour, ..)| neighbour.clone()).collect();
            return Ok(false);
        }
        if self.context.config.long_text == LongText::Cut && self.cut(contents, length - room)? {
            (out.tokens, out.segments) = self.build(contents, &[])?.finish();
            return Ok(true);
        }
        let detail = format!("{length} tokens and {} masked spans exceed {}", out.spans, self.context.seq_len);
        out.refusal = Some(Refusal::new(NAME, "too_long", detail));
        Ok(false)
    }

    /// Cuts at least `excess` tokens from the ends of the texts that allow it, the longest first; each keeps its first half. Returns `true`
    /// if that is enough.
    fn cut(&self, contents: &mut [Content<'_>], mut excess: usize) -> Result<bool> {
        let mut texts: Vec<&mut Vec<u32>> = contents
            .iter_mut()
            .filter_map(|content| match content {
                Content::Text { pieces, cut: true } => Some(pieces),
                _ => None,
            })
            .flat_map(|pieces| {
                // What stands around a hole is its question.
                let has_hole = pieces.iter().any(|piece| piece.role == Role::Target);
                pieces.iter_mut().filter(move |piece| !has_hole || piece.role == Role::Target).map(|piece| &mut piece.ids)
            })
            .collect();
        texts.sort_by_key(|ids| std::cmp::Reverse(ids.len()));
        for ids in texts {
            let mut kept = ids.len() - excess.min(ids.len() / 2);
            // A character of several tokens is removed as a whole.
            while kept > 0 && kept < ids.len() && self.context.tokenizer.decode(&ids[..kept])?.ends_with('\u{fffd}') {
                kept -= 1;
            }
            excess = excess.saturating_sub(ids.len() - kept);
            ids.truncate(kept);
        }
        Ok(excess == 0)
    }

    fn build(&self, contents: &[Content<'_>], retrieved: &[Retrieved<'_>]) -> Result<DocumentBuilder<'_>> {
        let mut builder = DocumentBuilder::new(&self.context.vocabulary);
        let mut append = || {
            for content in contents {
                match content {
                    Content::Text { pieces, .. } => {
                        let pieces: Vec<TextPiece<'_>> =
                            pieces.iter().map(|piece| TextPiece { role: piece.role, ids: &piece.ids }).collect();
                        builder.text_in_pieces(&pieces)?;
                    }
                    Content::Image(role, image) => builder.image(*role, *image)?,
                    // Such a record has been refused before.
                    Content::Unrepresentable(_) => {}
                    Content::Retrieved => {
                        for (_, caption, image) in retrieved {
                            builder.text(Role::Retrieved, caption)?;
                            builder.image(Role::Retrieved, *image)?;
                        }
                    }
                }
            }
            Ok(())
        };
        append().map_err(|source| StageError::Vocabulary { stage: NAME, source })?;
        Ok(builder)
    }

    /// Sets the loss weights of the segments. A break or bracket has the weight of the part that it closes; one that closes none, of the part
    /// that it opens.
    fn weigh(&self, out: &mut Out, loss: Loss) {
        for segment in &mut out.segments {
            segment.loss_weight = match segment.role {
                Role::Condition | Role::Retrieved if loss == Loss::Target => 0.0,
                Role::Retrieved => self.context.config.retrieved_loss,
                _ => 1.0,
            };
        }
        let is_content = |segment: &&Segment| segment.modality != Modality::Control;
        for index in 0..out.segments.len() {
            if out.segments[index].role == Role::Break {
                let (before, behind) = out.segments.split_at(index);
                let part = before.iter().rfind(is_content).or_else(|| behind.iter().find(is_content));
                out.segments[index].loss_weight = part.map_or(1.0, |part| part.loss_weight);
            }
        }
    }

    /// Returns the content of a text part.
    fn texts<'s>(&self, rendered: &[RenderedPiece], cut: bool) -> Content<'s> {
        let piece = |piece: &RenderedPiece| {
            let role = if piece.is_hole { Role::Target } else { Role::Condition };
            self.context.tokenizer.encode(&piece.text).map(|ids| Piece { role, ids })
        };
        match rendered.iter().map(piece).collect() {
            Ok(pieces) => Content::Text { pieces, cut },
            Err(problem) => Content::Unrepresentable(problem),
        }
    }

    /// Draws neighbours with one caption each, and returns them with the number of wanted ones. Tasks without a place for them draw none.
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
                drawn.push((neighbour.clone(), caption, self.bank.image(row)));
            }
        }
        (drawn, wanted)
    }
}

/// Returns an empty record.
fn begin(sample: &In, of: Of<'_>, document_id: DocumentId) -> Out {
    Out {
        document_id,
        sample_id: sample.sample_id,
        task: of.name.to_owned(),
        split: sample.split,
        tokens: Vec::new(),
        segments: Vec::new(),
        retrieved: Vec::new(),
        retrieved_wanted: 0,
        spans: 0,
        refusal: None,
    }
}

/// Returns the content of a part without text, for a sample and an item that have everything its wording needs.
fn image_or_place<'s>(part: &Part, sample: &'s In, item: &Item<'s>) -> Content<'s> {
    let role = if part.given { Role::Condition } else { Role::Target };
    let image = part.image.as_ref().map(|image| item.image(image, sample).unwrap_or_default());
    image.map_or(Content::Retrieved, |image| Content::Image(role, image))
}

/// A neighbour, the tokens of its caption, and its image.
type Retrieved<'s> = (Neighbour, Vec<u32>, ImageRef<'s>);

/// Sorts texts and image into the configured order. Retrieved pairs stay in front.
fn order(order: Order, contents: &mut [Content<'_>], draws: &mut Draws) {
    let image_first = match order {
        Order::Wording => return,
        Order::Text => false,
        Order::Image => true,
        Order::Either => draws.index(2) == 1,
    };
    contents.sort_by_key(|content| match content {
        Content::Retrieved => 0,
        Content::Image(..) => {
            if image_first {
                1
            } else {
                2
            }
        }
        _ => {
            if image_first {
                2
            } else {
                1
            }
        }
    });
}
