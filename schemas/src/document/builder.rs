//! Builder of documents: boundaries, parts with a break between any two or images between brackets, ids of the vocabulary.

use crate::document::{ImageRef, Modality, Role, Segment, image_ids};
use crate::error::VocabularyError;
use crate::vocabulary::Vocabulary;

/// A piece of a text part.
#[derive(Debug, Clone, Copy)]
pub struct TextPiece<'i> {
    /// Its role: what stands around a hole is a condition, the hole a target.
    pub role: Role,
    /// Ids of the text tokenizer.
    pub ids: &'i [u32],
}

/// Builder that appends parts to a document; [`Self::finish`] closes it.
#[derive(Debug, Clone)]
pub struct DocumentBuilder<'v> {
    vocabulary: &'v Vocabulary,
    tokens: Vec<u32>,
    segments: Vec<Segment>,
}

impl<'v> DocumentBuilder<'v> {
    /// Opens a document with the boundary token.
    #[must_use]
    pub fn new(vocabulary: &'v Vocabulary) -> Self {
        let mut builder = Self { vocabulary, tokens: Vec::new(), segments: Vec::new() };
        builder.control(vocabulary.boundary, Role::Boundary);
        builder
    }

    /// Returns the number of tokens that the document would have if it were finished now.
    #[must_use]
    pub fn finished_len(&self) -> usize {
        self.tokens.len() + 1
    }

    /// Appends a text part, given as ids of the text tokenizer. An empty text adds nothing.
    ///
    /// # Errors
    /// [`VocabularyError::OutOfRange`] for an id outside the text range.
    pub fn text(&mut self, role: Role, ids: &[u32]) -> Result<(), VocabularyError> {
        let ids = self.vocabulary.text_ids(ids)?;
        self.part(Modality::Text, role, &ids);
        Ok(())
    }

    /// Appends a text part of several pieces without a break between them. Pieces without ids add nothing; neighbours of one role become one segment.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn text_in_pieces(&mut self, pieces: &[TextPiece<'_>]) -> Result<(), VocabularyError> {
        let mut is_open = false;
        for piece in pieces.iter().filter(|piece| !piece.ids.is_empty()) {
            let ids = self.vocabulary.text_ids(piece.ids)?;
            match self.segments.last_mut() {
                Some(last) if is_open && last.role == piece.role => {
                    last.len += ids.len() as u32;
                    self.tokens.extend(ids);
                }
                _ if is_open => self.push(Modality::Text, piece.role, &ids),
                _ => self.part(Modality::Text, piece.role, &ids),
            }
            is_open = true;
        }
        Ok(())
    }

    /// Appends a whole image, given as codes. An image without codes adds nothing.
    ///
    /// # Errors
    /// As [`image_ids`].
    pub fn image<'i>(&mut self, role: Role, image: impl Into<ImageRef<'i>>) -> Result<(), VocabularyError> {
        let image = image.into();
        if !image.codes.is_empty() {
            let ids = image_ids(self.vocabulary, image)?;
            self.part(Modality::Image, role, &ids);
        }
        Ok(())
    }

    /// Closes the document, and returns its tokens and segments.
    #[must_use]
    pub fn finish(mut self) -> (Vec<u32>, Vec<Segment>) {
        self.control(self.vocabulary.boundary, Role::Boundary);
        (self.tokens, self.segments)
    }

    fn part(&mut self, modality: Modality, role: Role, ids: &[u32]) {
        if ids.is_empty() {
            return;
        }
        match (self.vocabulary.image_brackets, modality) {
            (Some(brackets), Modality::Image) => {
                self.control(brackets.open, Role::Break);
                self.push(modality, role, ids);
                self.control(brackets.close, Role::Break);
            }
            // The closing bracket of an image already separates it from the text.
            (Some(_), _) if self.segments.last().is_some_and(|last| last.modality == Modality::Control) => self.push(modality, role, ids),
            _ => {
                if self.segments.len() > 1 {
                    self.control(self.vocabulary.break_, Role::Break);
                }
                self.push(modality, role, ids);
            }
        }
    }

    fn control(&mut self, id: u32, role: Role) {
        self.push(Modality::Control, role, &[id]);
    }

    fn push(&mut self, modality: Modality, role: Role, ids: &[u32]) {
        let segment = Segment { start: self.tokens.len() as u32, len: ids.len() as u32, modality, role, loss_weight: 1.0 };
        self.segments.push(segment);
        self.tokens.extend(ids);
    }
}
