//! Result of reading annotations, from one place or several, with a record of the parts left out.

use cm3flow_schemas::sample::{Annotations, DroppedPart};
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Reason for captions that repeat an earlier one.
const EQUAL: &str = "captions.equal";

/// Annotations of one sample, from one place or several.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::ingest) struct Reading {
    /// Readable annotations.
    pub(in crate::ingest) annotations: Annotations,
    /// Parts that were left out.
    pub(in crate::ingest) dropped: Vec<DroppedPart>,
    /// Problem of those parts that might have been of use, for people.
    pub(in crate::ingest) problem: Option<String>,
}

impl Reading {
    /// Returns a reading with captions only.
    pub(in crate::ingest) fn of_captions(captions: Vec<String>) -> Self {
        Self { annotations: Annotations { captions, ..Annotations::default() }, ..Self::default() }
    }

    /// Adds the place of the text to the problem.
    #[must_use]
    pub(in crate::ingest) fn at(self, place: &str) -> Self {
        Self { problem: self.problem.map(|problem| format!("{place}: {problem}")), ..self }
    }

    /// Adds the annotations of another place for the same sample, behind the present ones. Of single values, the first counts.
    pub(in crate::ingest) fn join(&mut self, other: Self) {
        let (to, from) = (&mut self.annotations, other.annotations);
        to.captions.extend(from.captions);
        to.questions.extend(from.questions);
        to.boxes.extend(from.boxes);
        to.edits.extend(from.edits);
        to.seg_labels.extend(from.seg_labels);
        to.masks.extend(from.masks);
        to.narratives.extend(from.narratives);
        to.translations.extend(from.translations);
        to.references.extend(from.references);
        to.items.extend(from.items);
        to.fields.extend(from.fields);
        to.ocr = to.ocr.take().or(from.ocr);
        to.license = to.license.take().or(from.license);
        to.credit = to.credit.take().or(from.credit);
        to.source = to.source.take().or(from.source);
        for part in other.dropped {
            DroppedPart::add(&mut self.dropped, &part.reason, part.count);
        }
        self.problem = match (self.problem.take(), other.problem) {
            (Some(first), Some(second)) => Some(format!("{first}; {second}")),
            (first, second) => first.or(second),
        };
    }

    /// Ends the reading of a sample. Captions that are equal up to white space at the ends and Unicode normalization are dropped.
    ///
    /// # Errors
    /// The problem, if parts were left out and no text remains.
    pub(in crate::ingest) fn finish(mut self) -> Result<(Annotations, Vec<DroppedPart>), String> {
        if let Some(problem) = self.problem.take_if(|_| !has_texts(&self.annotations)) {
            return Err(problem);
        }
        let equal = drop_equal(&mut self.annotations.captions);
        DroppedPart::add(&mut self.dropped, EQUAL, equal);
        Ok((self.annotations, self.dropped))
    }
}

/// Keeps the first of equal captions, and returns the number of dropped ones.
fn drop_equal(captions: &mut Vec<String>) -> u64 {
    if captions.len() < 2 {
        return 0;
    }
    let before = captions.len();
    let mut seen = std::collections::HashSet::new();
    captions.retain(|caption| {
        let trimmed = caption.trim();
        seen.insert(if is_nfc(trimmed) { trimmed.to_owned() } else { trimmed.nfc().collect() })
    });
    (before - captions.len()) as u64
}

/// Checks whether there is text to make a document of.
fn has_texts(annotations: &Annotations) -> bool {
    let Annotations { captions, questions, boxes, edits, seg_labels, masks, narratives, translations, items, ocr, fields, .. } =
        annotations;
    let lists = [
        captions.len(),
        questions.len(),
        boxes.len(),
        edits.len(),
        seg_labels.len(),
        masks.len(),
        narratives.len(),
        translations.len(),
        items.len(),
        fields.len(),
    ];
    ocr.is_some() || lists.iter().any(|length| *length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captions(captions: &[&str]) -> Reading {
        Reading::of_captions(captions.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn captions_that_are_equal_stand_once_as_the_first_is_written() {
        let mut reading = captions(&[" a café", "A café", "a cafe\u{301} "]);
        reading.join(captions(&["two", "a café", "two\n"]));
        let (annotations, dropped) = reading.finish().expect("texts");
        assert_eq!(annotations.captions, [" a café", "A café", "two"]);
        assert_eq!(dropped, [DroppedPart { reason: EQUAL.into(), count: 3 }]);
        assert_eq!(captions(&["one", "two"]).finish().expect("texts").1, []);
    }

    #[test]
    fn what_lost_a_part_is_refused_if_no_text_remains() {
        let lost = Reading { problem: Some("field boxes: expected".into()), ..Reading::default() };
        assert_eq!(lost.clone().at("line 3").finish(), Err("line 3: field boxes: expected".into()));
        let mut with_text = lost.clone();
        with_text.join(captions(&["a door"]));
        assert!(with_text.finish().is_ok());
        let mut twice = lost.clone();
        twice.join(lost.at("a"));
        assert_eq!(twice.problem.as_deref(), Some("field boxes: expected; a: field boxes: expected"));
        assert!(Reading::default().finish().is_ok(), "whether a text is needed is for filter to say");
    }

    #[test]
    fn what_stands_first_counts_where_there_can_be_one() {
        let credited = |credit: &str, license: Option<&str>| {
            let annotations = Annotations {
                credit: Some(credit.into()),
                license: license.map(str::to_owned),
                ocr: Some(credit.into()),
                ..Annotations::default()
            };
            Reading { annotations, dropped: vec![DroppedPart { reason: "boxes.empty".into(), count: 2 }], ..Reading::default() }
        };
        let mut first = credited("A", None);
        first.join(credited("B", Some("CC0-1.0")));
        let Annotations { credit, license, ocr, .. } = first.annotations;
        assert_eq!((credit.as_deref(), license.as_deref(), ocr.as_deref()), (Some("A"), Some("CC0-1.0"), Some("A")));
        assert_eq!(first.dropped, [DroppedPart { reason: "boxes.empty".into(), count: 4 }]);
    }
}
