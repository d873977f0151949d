//! Templates of the tasks, as data.

use std::collections::BTreeMap;

use minijinja::{Environment, UndefinedBehavior};
use serde::{Deserialize, Serialize};

use crate::error::{Result, StageError};

/// Items of a sample that a task makes records of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Each {
    Sample,
    Questions,
    Edits,
}

/// A part of a record.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    pub text: Option<String>,
    pub image: Option<String>,
    #[serde(default)]
    pub retrieved: bool,
    #[serde(default)]
    pub given: bool,
}

/// A task: its records and their wordings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Task {
    pub each: Each,
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
    pub instruction: Option<&'a str>,
}

/// All tasks by name, with their texts compiled.
#[derive(Debug)]
pub struct Templates {
    tasks: BTreeMap<String, Task>,
    environment: Environment<'static>,
}

/// The templates that ship with cm3flow.
///
/// # Panics
/// Never: a test parses the same text.
#[must_use]
pub fn default_templates() -> Templates {
    Templates::parse(include_str!("templates.toml")).expect("the templates in this crate parse")
}

impl Templates {
    /// Parses templates in the format of `templates.toml`.
    ///
    /// # Errors
    /// [`StageError::Template`] naming the task.
    pub fn parse(text: &str) -> Result<Self> {
        let refused = |problem: String| StageError::Template { problem };
        let tasks: BTreeMap<String, Task> = toml::from_str(text).map_err(|error| refused(error.to_string()))?;
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        for (name, task) in &tasks {
            if task.wordings.is_empty() {
                return Err(refused(format!("{name}: no wording")));
            }
            for (wording, parts) in task.wordings.iter().enumerate() {
                for (part, content) in parts.iter().enumerate() {
                    let kinds = usize::from(content.text.is_some()) + usize::from(content.image.is_some()) + usize::from(content.retrieved);
                    if kinds != 1 {
                        return Err(refused(format!("{name}: part {part} must be one of text, image, retrieved")));
                    }
                    if let Some(text) = &content.text {
                        let id = template_id(name, wording, part);
                        environment.add_template_owned(id, text.clone()).map_err(|error| refused(format!("{name}: {error}")))?;
                    }
                }
            }
        }
        Ok(Self { tasks, environment })
    }

    /// Names of the tasks, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tasks.keys().map(String::as_str)
    }

    pub(super) fn tasks(&self) -> &BTreeMap<String, Task> {
        &self.tasks
    }

    /// Fills in a text part; `None` if the sample lacks a value that it names.
    pub(super) fn render(&self, task: &str, wording: usize, part: usize, values: &Values<'_>) -> Result<Option<String>> {
        let refused = |error: minijinja::Error| StageError::Template { problem: format!("{task}: {error}") };
        let template = self.environment.get_template(&template_id(task, wording, part)).map_err(refused)?;
        match template.render(minijinja::value::Serde(values)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == minijinja::ErrorKind::UndefinedError => Ok(None),
            Err(error) => Err(refused(error)),
        }
    }
}

fn template_id(task: &str, wording: usize, part: usize) -> String {
    format!("{task}/{wording}/{part}")
}
