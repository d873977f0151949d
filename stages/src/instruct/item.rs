//! Items of a sample that records are made of.

use cm3flow_schemas::document::ImageRef;
use cm3flow_schemas::random::Draws;
use cm3flow_schemas::sample::{Annotations, LabelledBox, Question};

use super::In;
use super::template::{Each, Needs, Values};

/// An item of a sample, with the values that its record may use.
pub(super) struct Item<'a> {
    pub(super) values: Values<'a>,
    /// Role of the item's own image, after the name that parts call it by.
    image: Option<(&'static str, &'a str)>,
}

impl Each {
    /// Returns the name in files and counts.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Questions => "questions",
            Self::Choices => "choices",
            Self::Edits => "edits",
            Self::Masks => "masks",
            Self::Narratives => "narratives",
            Self::Translations => "translations",
            Self::References => "references",
            Self::Items => "items",
        }
    }
}

/// Returns the number of items of a sample.
pub(super) fn item_count(each: Each, sample: &In) -> usize {
    let annotations = &sample.annotations;
    match each {
        Each::Sample => 1,
        Each::Questions | Each::Choices => questions(each, annotations).count(),
        Each::Edits => annotations.edits.len(),
        Each::Masks => annotations.masks.len(),
        Each::Narratives => annotations.narratives.len(),
        Each::Translations => annotations.translations.len(),
        Each::References => annotations.references.len(),
        Each::Items => usize::from(!annotations.items.is_empty()),
    }
}

/// Iterates over the questions that are items of `each`.
pub(super) fn questions(each: Each, annotations: &Annotations) -> impl Iterator<Item = &Question> {
    annotations.questions.iter().filter(move |question| question.options.is_some() == (each == Each::Choices))
}

impl<'s> Item<'s> {
    /// Returns the item `index` of `sample`, with a drawn caption.
    pub(super) fn of(each: Each, sample: &'s In, index: usize, draws: &mut Draws) -> Self {
        let annotations = &sample.annotations;
        let captions = &annotations.captions;
        let objects = (!annotations.boxes.is_empty()).then(|| annotations.boxes.iter().map(located).collect::<Vec<_>>().join(", "));
        let mut values = Values {
            caption: (!captions.is_empty()).then(|| captions[draws.index(captions.len())].as_str()),
            objects,
            ocr: annotations.ocr.as_deref(),
            fields: annotations.fields.iter().map(|field| (field.name.as_str(), field.text.as_str())).collect(),
            ..Values::default()
        };
        let mut image = None;
        match each {
            Each::Sample | Each::Items => {}
            Each::Questions | Each::Choices => {
                if let Some(question) = questions(each, annotations).nth(index) {
                    values.question = Some(&question.question);
                    values.answer = Some(question.answer.trim_end_matches('.'));
                    values.context = question.context.as_deref();
                    values.options = question.options.as_deref();
                    values.explanation = question.explanation.as_deref();
                }
            }
            Each::Edits => {
                let edit = &annotations.edits[index];
                values.instruction = Some(&edit.instruction);
                image = Some(("edit", edit.image.as_str()));
            }
            Each::Masks => {
                let mask = &annotations.masks[index];
                values.label = Some(&mask.label);
                image = Some(("mask", mask.image.as_str()));
            }
            Each::Narratives => values.narrative = Some(&annotations.narratives[index]),
            Each::Translations => {
                let translation = &annotations.translations[index];
                values.language = Some(&translation.language);
                values.caption = Some(&translation.caption);
            }
            Each::References => image = Some(("reference", annotations.references[index].as_str())),
        }
        Self { values, image }
    }

    /// Returns the image that a part calls `name`.
    pub(super) fn image(&self, name: &str, sample: &'s In) -> Option<ImageRef<'s>> {
        let role = self.image.filter(|(called, _)| *called == name).map_or(name, |(_, role)| role);
        sample.image(role)
    }

    /// Returns the first value or image that a wording needs and the sample lacks.
    pub(super) fn missing(&self, needs: &Needs, sample: &'s In) -> Option<String> {
        let value = needs.values.iter().find(|value| !self.has(value)).cloned();
        let image = || needs.images.iter().find(|image| self.image(image, sample).is_none());
        value.or_else(|| image().map(|image| format!("image {image}")))
    }

    fn has(&self, value: &str) -> bool {
        let Values {
            caption,
            objects,
            question,
            answer,
            context,
            options,
            explanation,
            instruction,
            label,
            language,
            narrative,
            ocr,
            fields,
        } = &self.values;
        match value {
            "caption" => caption.is_some(),
            "objects" => objects.is_some(),
            "question" => question.is_some(),
            "answer" => answer.is_some(),
            "context" => context.is_some(),
            "options" => options.is_some(),
            "explanation" => explanation.is_some(),
            "instruction" => instruction.is_some(),
            "label" => label.is_some(),
            "language" => language.is_some(),
            "narrative" => narrative.is_some(),
            "ocr" => ocr.is_some(),
            "fields" => true,
            other => other.strip_prefix("fields.").is_some_and(|name| fields.contains_key(name)),
        }
    }
}

/// Formats a labelled box as text, in pixels of the tokenized image.
///
/// # Source
/// CM3Leon paper, table 5: `{object} at location (x0, y0) -> (x1, y1)`.
fn located(found: &LabelledBox) -> String {
    format!("{} at location ({}, {}) -> ({}, {})", found.label, found.x0, found.y0, found.x1, found.y1)
}
