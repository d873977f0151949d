//! Templates of the tasks, as plain data.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::{Environment, UndefinedBehavior};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::holes::{Piece, pieces};
use crate::error::{Result, StageError};

/// Items of a sample that a task makes records of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Each {
    /// The sample as a whole.
    Sample,
    /// Every question without options. Its template may name `question`, `answer`, `context` and `explanation`.
    Questions,
    /// Every question with options. Its template may name `options` too.
    Choices,
    /// Every edit. Its template may name `instruction`, and `image = "edit"` for the result.
    Edits,
    /// Every mask of a single object. Its template may name `label`, and `image = "mask"`.
    Masks,
    /// Every long description. Its template may name `narrative`.
    Narratives,
    /// Every caption with a language. Its template may name `language`; `caption` is the one in that language.
    Translations,
    /// Every reference image. Its template may name `image = "reference"`.
    References,
    /// The interleaved texts and images: one record for each run of them that fits.
    Items,
}

/// Masking of a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Spans are masked, so that a part is also learnt from the parts behind it.
    #[default]
    Infill,
    /// No masking.
    Autoregressive,
}

/// Order of texts and image, in a record with one image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Order of the wording.
    #[default]
    Wording,
    /// Texts first.
    Text,
    /// The image first.
    Image,
    /// A draw for each record.
    Either,
}

/// Tokens with loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// All tokens.
    #[default]
    All,
    /// Tokens of what the task asks for: holes, and images that are not given.
    Target,
}

/// A part of a record: exactly one of `text`, `image`, `retrieved` and `items`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Text as a minijinja template. `[[ … ]]` marks a hole: what the task asks for. Without one, a text that is not given is a hole as a whole. It
    /// may name `caption`, `objects` (which lists the boxes), `ocr`, `fields.NAME` of the source's `fields`, and
    /// what an item of `each` has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Role of an image: `main`, `edge`, `scribble`, `seg`, `outline`, or a name that the source or an annotator gives; `edit`, `mask` and
    /// `reference` are those of the item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// `true` for the place of retrieved pairs.
    #[serde(default, skip_serializing_if = "is_false")]
    #[schemars(!skip_serializing_if)]
    pub retrieved: bool,
    /// `true` for the place of the sample's interleaved texts and images, in a task of `each = "items"`.
    #[serde(default, skip_serializing_if = "is_false")]
    #[schemars(!skip_serializing_if)]
    pub items: bool,
    /// `true` for an input of the task, `false` for its output; a text with holes is both.
    #[serde(default, skip_serializing_if = "is_false")]
    #[schemars(!skip_serializing_if)]
    pub given: bool,
    /// `true` for texts that may lose their end, up to a half, if the record is too long otherwise.
    #[serde(default, skip_serializing_if = "is_false")]
    #[schemars(!skip_serializing_if)]
    pub cut: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// `[instruct.templates.NAME]`: a further task: its records, their wordings, and default settings. Where `[instruct.tasks]` is given, it must name the task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Items that records are made of.
    pub each: Each,
    /// Masking of the task's records.
    #[serde(default)]
    pub form: Form,
    /// Order of texts and image, in a record with one image.
    #[serde(default)]
    pub order: Order,
    /// Tokens with loss.
    #[serde(default)]
    pub loss: Loss,
    /// Wordings, each a list of parts with a break between any two. For each record one is drawn, of those whose values and images the sample
    /// has.
    pub wordings: Vec<Vec<Part>>,
}

/// Values that a text part may use.
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

/// Returns the names of values that a record of `each` may use; the source names those of `fields`.
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

/// A compiled wording.
#[derive(Debug, Default)]
pub(super) struct Wording {
    /// Needs of its parts.
    pub needs: Needs,
    /// Pieces of its texts, by the index of the part.
    texts: BTreeMap<usize, Vec<CompiledPiece>>,
}

/// A piece of a text.
#[derive(Debug)]
struct CompiledPiece {
    /// Name of its template in the environment.
    template: String,
    is_hole: bool,
}

/// A piece of a text with its values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RenderedPiece {
    pub text: String,
    pub is_hole: bool,
}

/// Values and images that a wording needs.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Values by their names in templates, such as `caption` or `fields.haiku`.
    pub values: BTreeSet<String>,
    /// Images by their names in parts.
    pub images: BTreeSet<String>,
}

/// All tasks by name, with compiled texts.
#[derive(Debug)]
pub struct Templates {
    tasks: BTreeMap<String, Task>,
    wordings: BTreeMap<String, Vec<Wording>>,
    environment: Environment<'static>,
}

/// Tasks that ship with cm3flow, in the format of [`Templates::parse`].
pub(super) const DEFAULT_TASKS: &str = include_str!("templates.toml");

/// Parses tasks by name.
pub(super) fn parse_tasks(text: &str) -> Result<BTreeMap<String, Task>> {
    toml::from_str(text).map_err(|error| StageError::Template { problem: error.to_string() })
}

impl Templates {
    /// Parses templates in the format of `templates.toml`.
    ///
    /// # Errors
    /// [`StageError::Template`] with the task's name.
    pub fn parse(text: &str) -> Result<Self> {
        Self::try_new(parse_tasks(text)?)
    }

    /// Compiles `tasks`.
    ///
    /// # Errors
    /// [`StageError::Template`] with the task's name, if its parts are invalid or its text does not compile or uses unknown values.
    pub fn try_new(tasks: BTreeMap<String, Task>) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let mut wordings = BTreeMap::new();
        for (name, task) in &tasks {
            let refused = |problem: String| StageError::Template { problem: format!("{name}: {problem}") };
            wordings.insert(name.clone(), compile(name, task, &mut environment).map_err(refused)?);
        }
        Ok(Self { tasks, wordings, environment })
    }

    /// Iterates over the names of the tasks, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tasks.keys().map(String::as_str)
    }

    pub(super) const fn tasks(&self) -> &BTreeMap<String, Task> {
        &self.tasks
    }

    /// Returns the wordings of `task`.
    pub(super) fn wordings(&self, task: &str) -> &[Wording] {
        self.wordings.get(task).map_or(&[], Vec::as_slice)
    }

    /// Renders the text part `part` of a wording with values that satisfy its needs.
    pub(super) fn render(&self, wording: &Wording, part: usize, values: &Values<'_>) -> Result<Vec<RenderedPiece>> {
        let refused = |error: minijinja::Error| StageError::Template { problem: format!("{}: {error}", error.name().unwrap_or_default()) };
        let render = |piece: &CompiledPiece| {
            let text = self.environment.get_template(&piece.template)?.render(minijinja::value::Serde(values))?;
            Ok(RenderedPiece { text, is_hole: piece.is_hole })
        };
        wording.texts.get(&part).map_or(&[][..], Vec::as_slice).iter().map(render).collect::<Result<_, _>>().map_err(refused)
    }
}

/// Compiles the texts of a task. Returns its wordings or the problem.
fn compile(name: &str, task: &Task, environment: &mut Environment<'static>) -> Result<Vec<Wording>, String> {
    if task.wordings.is_empty() {
        return Err("no wording".into());
    }
    let mut all = Vec::new();
    for (number, parts) in task.wordings.iter().enumerate() {
        let images = parts.iter().filter(|part| part.image.is_some()).count();
        if task.order != Order::Wording && images != 1 {
            return Err(format!("wording {number} has {images} images; only with one of them can the order be another"));
        }
        let mut wording = Wording::default();
        for (index, part) in parts.iter().enumerate() {
            check_part(part, index, task.each)?;
            wording.needs.images.extend(part.image.clone());
            let Some(text) = &part.text else { continue };
            let pieces = pieces(text, !part.given).map_err(|problem| format!("part {index}: {problem}"))?;
            if part.given && pieces.iter().any(|piece| piece.is_hole) {
                return Err(format!("part {index} has a hole, so it is not given: leave out given = true"));
            }
            let is_cut = pieces.len() > 1;
            for (piece, Piece { mut source, is_hole }) in pieces.into_iter().enumerate() {
                let template = format!("{name}/{number}/{index}/{piece}");
                let problem = |error: minijinja::Error| {
                    let hint = if is_cut { "; a hole must hold whole {% %} blocks" } else { "" };
                    format!("{error}{hint}")
                };
                // The engine drops a line end behind a template.
                if source.ends_with('\n') {
                    source.push('\n');
                }
                environment.add_template_owned(template.clone(), source).map_err(problem)?;
                let names = environment.get_template(&template).map_err(problem)?.undeclared_variables(true);
                wording.needs.values.extend(names);
                wording.texts.entry(index).or_default().push(CompiledPiece { template, is_hole });
            }
        }
        let known = values_of(task.each);
        if let Some(unknown) = wording.needs.values.iter().find(|value| !known.contains(&value.split('.').next().unwrap_or_default())) {
            return Err(format!("{{{{ {unknown} }}}} is nothing that a record of it has; known are {}", known.join(", ")));
        }
        all.push(wording);
    }
    Ok(all)
}

/// Checks the kind of a part. The error is the problem.
fn check_part(part: &Part, index: usize, each: Each) -> Result<(), String> {
    let kinds = [part.text.is_some(), part.image.is_some(), part.retrieved, part.items];
    if kinds.iter().filter(|kind| **kind).count() != 1 {
        return Err(format!("part {index} must be one of text, image, retrieved, items"));
    }
    if part.items != (each == Each::Items) {
        return Err(format!("part {index}: items stand in tasks of each = \"items\", and nothing else does"));
    }
    Ok(())
}
