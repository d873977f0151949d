//! Natural numbers of records: how many each task would make in a window at weight 1.

use std::collections::BTreeMap;

use cm3flow_schemas::sample::{Annotations, Question};

use super::item::questions;
use super::template::{Each, Templates, Wording};

/// Counts of samples' contents, for [`Templates::natural`]: items, and samples with a value or an image.
pub type Contents = BTreeMap<String, u64>;

/// Predicate on a question.
type Has = fn(&Question) -> bool;

/// Values that only some questions have.
const BESIDE_QUESTIONS: [(&str, Has); 2] =
    [("context", |question| question.context.is_some()), ("explanation", |question| question.explanation.is_some())];

/// Adds the contents of a sample with images of these roles.
pub fn count_contents<'r>(contents: &mut Contents, annotations: &Annotations, roles: impl Iterator<Item = &'r str>) {
    let Annotations { captions, boxes, edits, masks, narratives, translations, references, items, ocr, fields, .. } = annotations;
    let mut add = |what: &str, count: usize| {
        if count > 0 {
            *contents.entry(what.to_owned()).or_default() += count as u64;
        }
    };
    add(Each::Sample.name(), 1);
    for each in [Each::Questions, Each::Choices] {
        add(each.name(), questions(each, annotations).count());
        for (what, has) in BESIDE_QUESTIONS {
            add(&format!("{} {what}", each.name()), questions(each, annotations).filter(|question| has(question)).count());
        }
    }
    add(Each::Edits.name(), edits.len());
    add(Each::Masks.name(), masks.len());
    add(Each::Narratives.name(), narratives.len());
    add(Each::Translations.name(), translations.len());
    add(Each::References.name(), references.len());
    add(Each::Items.name(), usize::from(!items.is_empty()));
    add("caption", usize::from(!captions.is_empty()));
    add("objects", usize::from(!boxes.is_empty()));
    add("ocr", usize::from(ocr.is_some()));
    fields.iter().for_each(|field| add(&format!("fields.{}", field.name), 1));
    roles.for_each(|role| add(&format!("image {role}"), 1));
}

impl Templates {
    /// Returns the number of records of each task at weight 1 for samples with `contents`. It is the number of items, limited by the rarest
    /// value or image that the least demanding wording needs.
    #[must_use]
    pub fn natural(&self, contents: &Contents) -> BTreeMap<String, u64> {
        let of = |what: &str| contents.get(what).copied().unwrap_or(0);
        let natural = |(name, task): (&String, &super::template::Task)| {
            let items = of(task.each.name());
            // Only counts beside single items, or of whole samples, compare with the number of items.
            let beside = |value: &String| match task.each {
                Each::Sample => Some(of(value)),
                Each::Questions | Each::Choices if BESIDE_QUESTIONS.iter().any(|(what, _)| what == value) => {
                    Some(of(&format!("{} {value}", task.each.name())))
                }
                _ => None,
            };
            let by_wording = self.wordings(name).iter().map(|Wording { needs, .. }| {
                let values = needs.values.iter().filter_map(beside);
                let images = needs.images.iter().filter(|_| task.each == Each::Sample).map(|image| of(&format!("image {image}")));
                values.chain(images).min().unwrap_or(items).min(items)
            });
            (name.clone(), by_wording.max().unwrap_or(0))
        };
        self.tasks().iter().map(natural).collect()
    }
}
