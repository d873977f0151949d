//! Templates of the tasks, as data.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::{Environment, UndefinedBehavior};
use serde::{Deserialize, Serialize};

use crate::error::{Result, StageError};

/// Items of a sample that a task makes records of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Each {
    /// The sample as a whole.
    Sample,
    /// Every question without answers to choose from.
    Questions,
    /// Every question with answers to choose from.
    Choices,
    /// Every edit.
    Edits,
    /// Every mask of a single object.
    Masks,
    /// Every long description.
    Narratives,
    /// Every caption in a named language.
    Translations,
    /// Every reference image.
    References,
    /// Its interleaved texts and images: one record for each run of them that fits.
    Items,
}

/// Whether a record is masked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Spans are masked, so that whatever stands in front is learnt from what stands behind.
    #[default]
    Infill,
    /// Left as it is.
    Autoregressive,
}

/// Which of text and image comes first, in a record of texts and one image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// As the wording has it.
    #[default]
    Wording,
    /// Texts first.
    Text,
    /// The image first.
    Image,
    /// One or the other, drawn for each record.
    Either,
}

/// Which tokens are learnt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// All.
    #[default]
    All,
    /// Those of parts that are not given.
    Target,
}

/// A part of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// A minijinja template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Role of an image; `edit`, `mask` and `reference` are those of the item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Whether pairs that were retrieved stand here.
    #[serde(default, skip_serializing_if = "is_false")]
    pub retrieved: bool,
    /// Whether the sample's interleaved texts and images stand here.
    #[serde(default, skip_serializing_if = "is_false")]
    pub items: bool,
    /// Whether the task gives it, as opposed to asking for it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub given: bool,
    /// Whether a text may lose its end if the record is too long otherwise.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cut: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// A task: its records and their wordings, and how they are made unless the configuration says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// What it makes records of.
    pub each: Each,
    /// Whether its records are masked.
    #[serde(default)]
    pub form: Form,
    /// What comes first.
    #[serde(default)]
    pub order: Order,
    /// What is learnt.
    #[serde(default)]
    pub loss: Loss,
    /// One of them is drawn for each record.
    pub wordings: Vec<Vec<Part>>,
}

/// Values that a text part may name.
#[derive(Debug, Default, Serialize)]
pub(super) struct Values<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caption: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objects: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instruction: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub narrative: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ocr: Option<&'a str>,
    pub fields: BTreeMap<&'a str, &'a str>,
}

/// The values that a record of `each` may name; those of `fields` come from the source.
fn values_of(each: Each) -> &'static [&'static str] {
    match each {
        Each::Questions => &["caption", "objects", "ocr", "fields", "question", "answer", "context", "explanation"],
        Each::Choices => &["caption", "objects", "ocr", "fields", "question", "answer", "context", "options", "explanation"],
        Each::Edits => &["caption", "objects", "ocr", "fields", "instruction"],
        Each::Masks => &["caption", "objects", "ocr", "fields", "label"],
        Each::Narratives => &["caption", "objects", "ocr", "fields", "narrative"],
        Each::Translations => &["caption", "objects", "ocr", "fields", "language"],
        Each::Sample | Each::References | Each::Items => &["caption", "objects", "ocr", "fields"],
    }
}

/// What a wording needs of a sample.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Values by the names of templates, such as `caption` or `fields.haiku`.
    pub values: BTreeSet<String>,
    /// Images as parts name them.
    pub images: BTreeSet<String>,
}

/// All tasks by name, with their texts compiled.
#[derive(Debug)]
pub struct Templates {
    tasks: BTreeMap<String, Task>,
    needs: BTreeMap<String, Vec<Needs>>,
    environment: Environment<'static>,
}

/// The tasks that ship with cm3flow, as text in the format of [`Templates::parse`].
pub(super) const DEFAULT_TASKS: &str = include_str!("templates.toml");

/// Parses tasks by name.
pub(super) fn parse_tasks(text: &str) -> Result<BTreeMap<String, Task>> {
    toml::from_str(text).map_err(|error| StageError::Template { problem: error.to_string() })
}

impl Templates {
    /// Parses templates in the format of `templates.toml`.
    ///
    /// # Errors
    /// [`StageError::Template`] naming the task.
    pub fn parse(text: &str) -> Result<Self> {
        Self::try_new(parse_tasks(text)?)
    }

    /// Compiles `tasks`.
    ///
    /// # Errors
    /// [`StageError::Template`] naming the task whose parts are none, whose text cannot be compiled, or names what no sample has.
    pub fn try_new(tasks: BTreeMap<String, Task>) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let mut needs = BTreeMap::new();
        for (name, task) in &tasks {
            let refused = |problem: String| StageError::Template { problem: format!("{name}: {problem}") };
            needs.insert(name.clone(), compile(name, task, &mut environment).map_err(refused)?);
        }
        Ok(Self { tasks, needs, environment })
    }

    /// Names of the tasks, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tasks.keys().map(String::as_str)
    }

    pub(super) const fn tasks(&self) -> &BTreeMap<String, Task> {
        &self.tasks
    }

    /// What each wording of `task` needs.
    pub(super) fn needs(&self, task: &str) -> &[Needs] {
        self.needs.get(task).map_or(&[], Vec::as_slice)
    }

    /// Fills in a text part, whose values are all there.
    pub(super) fn render(&self, task: &str, wording: usize, part: usize, values: &Values<'_>) -> Result<String> {
        let refused = |error: minijinja::Error| StageError::Template { problem: format!("{task}: {error}") };
        let template = self.environment.get_template(&template_id(task, wording, part)).map_err(refused)?;
        template.render(minijinja::value::Serde(values)).map_err(refused)
    }
}

/// Compiles the texts of a task and says what its wordings need, or what is wrong with it.
fn compile(name: &str, task: &Task, environment: &mut Environment<'static>) -> Result<Vec<Needs>, String> {
    if task.wordings.is_empty() {
        return Err("no wording".into());
    }
    let mut all = Vec::new();
    for (wording, parts) in task.wordings.iter().enumerate() {
        let images = parts.iter().filter(|part| part.image.is_some()).count();
        if task.order != Order::Wording && images != 1 {
            return Err(format!("wording {wording} has {images} images; only with one of them can the order be another"));
        }
        let mut needs = Needs::default();
        for (index, part) in parts.iter().enumerate() {
            let kinds = [part.text.is_some(), part.image.is_some(), part.retrieved, part.items];
            if kinds.iter().filter(|kind| **kind).count() != 1 {
                return Err(format!("part {index} must be one of text, image, retrieved, items"));
            }
            if part.items != (task.each == Each::Items) {
                return Err(format!("part {index}: items stand in tasks of each = \"items\", and nothing else does"));
            }
            needs.images.extend(part.image.clone());
            if let Some(text) = &part.text {
                let id = template_id(name, wording, index);
                environment.add_template_owned(id.clone(), text.clone()).map_err(|error| error.to_string())?;
                let template = environment.get_template(&id).map_err(|error| error.to_string())?;
                needs.values.extend(template.undeclared_variables(true));
            }
        }
        let known = values_of(task.each);
        if let Some(unknown) = needs.values.iter().find(|value| !known.contains(&value.split('.').next().unwrap_or_default())) {
            return Err(format!("{{{{ {unknown} }}}} is nothing that a record of it has; known are {}", known.join(", ")));
        }
        all.push(needs);
    }
    Ok(all)
}

fn template_id(task: &str, wording: usize, part: usize) -> String {
    format!("{task}/{wording}/{part}")
}
