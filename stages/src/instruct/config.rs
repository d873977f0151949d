//! Configuration of `instruct`: the mixture of tasks, and settings of each.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeFrom, RangeInclusive};

use cm3flow_schemas::limits::{problem, within};
use cm3flow_schemas::sample::{EDGE_IMAGE, MAIN_IMAGE, OUTLINE_IMAGE, SCRIBBLE_IMAGE, SEGMENTATION_IMAGE};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::template::{DEFAULT_TASKS, Form, Loss, Order, Task, Templates, parse_tasks};
use crate::error::Result;

/// Limits of the factor by which a share changes a task's number of records.
///
/// # Source
/// CM3Leon paper, appendix E.1: down- and up-sampling clipped at 0.3 and 3 of the natural frequency.
const SAMPLING: std::ops::RangeInclusive<f64> = 0.3..=3.0;

const WEIGHT: RangeInclusive<f64> = 0.0..=100.0;
const SHARE: (Bound<f64>, Bound<f64>) = (Bound::Excluded(0.0), Bound::Included(1.0));
const MOST_PER_SAMPLE: RangeFrom<u32> = 1..;
const RETRIEVED_LOSS: RangeInclusive<f32> = 0.0..=1.0;

/// `[instruct]`: tasks, by which samples become documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InstructConfig {
    /// Tasks to make documents by, each with a weight or a table of settings: tasks that ship, and those of `[instruct.templates]`. A task makes
    /// records of the samples that have all that its template names.
    #[schemars(extend("x-default" = "every known task, with weight 1"))]
    pub tasks: BTreeMap<String, TaskConfig>,
    /// Further tasks, by name. One with the name of a known task replaces it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub templates: BTreeMap<String, Task>,
    /// Treatment of a record that is too long without retrieved pairs.
    pub long_text: LongText,
    /// Loss weight of the tokens of retrieved pairs; 0.1 in RA-CM3.
    #[schemars(transform = within(RETRIEVED_LOSS))]
    pub retrieved_loss: f32,
}

/// Treatment of a record that is too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LongText {
    /// Texts that may be cut lose their end, the longest first. A record that is still too long is refused.
    #[default]
    Cut,
    /// The record is refused.
    Refuse,
}

/// Settings of a task, as they are written in a table of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "TaskEntry", into = "TaskEntry")]
pub struct TaskConfig {
    /// Number of records made of each item.
    pub weight: f64,
    /// Share among all records of a window.
    pub share: Option<f64>,
    /// Largest number of records of one sample.
    pub most_per_sample: Option<u32>,
    /// Masking of the task's records; `None` for that of the task.
    pub form: Option<Form>,
    /// Order of text and image; `None` for that of the task.
    pub order: Option<Order>,
    /// Tokens with loss; `None` for those of the task.
    pub loss: Option<Loss>,
}

impl Default for TaskConfig {
    fn default() -> Self {
        Self::of_weight(1.0)
    }
}

impl TaskConfig {
    /// Returns the task's own settings with this weight.
    #[must_use]
    pub const fn of_weight(weight: f64) -> Self {
        Self { weight, share: None, most_per_sample: None, form: None, order: None, loss: None }
    }
}

impl Task {
    /// Returns the task with the settings of the configuration.
    pub(super) fn configured(mut self, config: &TaskConfig) -> Self {
        self.form = config.form.unwrap_or(self.form);
        self.order = config.order.unwrap_or(self.order);
        self.loss = config.loss.unwrap_or(self.loss);
        self
    }
}

/// Entry of a task in a file: `pair = 1.0`, or `pair = { weight = 1.0, order = "either" }`.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum TaskEntry {
    /// The task's weight, as in `pair = 1.0`.
    #[schemars(transform = within(WEIGHT))]
    Weight(f64),
    /// Settings of the task, as in `pair = { weight = 1.0, order = "either" }`.
    Settings(TaskSettings),
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TaskSettings {
    /// Number of records made of each item; a fraction is drawn.
    #[serde(default = "one")]
    #[schemars(transform = within(WEIGHT))]
    weight: f64,
    /// Share of the task among all records of a window. The weight is multiplied by this share over the task's natural share; the factor is clamped
    /// to 0.3 at least and 3 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = within(SHARE), extend("x-default" = "the natural share"))]
    share: Option<f64>,
    /// Largest number of records of one sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = within(MOST_PER_SAMPLE), extend("x-default" = "no limit"))]
    most_per_sample: Option<u32>,
    /// Masking of the task's records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "that of the task"))]
    form: Option<Form>,
    /// Order of texts and image, in a record with one image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "that of the task"))]
    order: Option<Order>,
    /// Tokens with loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "those of the task"))]
    loss: Option<Loss>,
}

const fn one() -> f64 {
    1.0
}

impl From<TaskEntry> for TaskConfig {
    fn from(entry: TaskEntry) -> Self {
        match entry {
            TaskEntry::Weight(weight) => Self::of_weight(weight),
            TaskEntry::Settings(TaskSettings { weight, share, most_per_sample, form, order, loss }) => {
                Self { weight, share, most_per_sample, form, order, loss }
            }
        }
    }
}

impl From<TaskConfig> for TaskEntry {
    fn from(config: TaskConfig) -> Self {
        let TaskConfig { weight, share, most_per_sample, form, order, loss } = config;
        if TaskConfig::of_weight(weight) == config {
            return Self::Weight(weight);
        }
        Self::Settings(TaskSettings { weight, share, most_per_sample, form, order, loss })
    }
}

impl Default for InstructConfig {
    fn default() -> Self {
        Self { tasks: BTreeMap::new(), templates: BTreeMap::new(), long_text: LongText::Cut, retrieved_loss: 1.0 }
    }
}

impl InstructConfig {
    /// Returns the settings of a task; `None` for one that makes no records.
    #[must_use]
    pub fn task(&self, name: &str) -> Option<TaskConfig> {
        let task = if self.tasks.is_empty() { Some(TaskConfig::default()) } else { self.tasks.get(name).cloned() };
        task.filter(|task| task.weight > 0.0)
    }

    /// Returns the templates of the tasks that make records, with their settings.
    ///
    /// # Errors
    /// Those of [`Templates::try_new`].
    pub fn templates(&self) -> Result<Templates> {
        let configured = |(name, task): (String, Task)| {
            let config = self.task(&name)?;
            Some((name, task.configured(&config)))
        };
        Templates::try_new(self.known_tasks()?.into_iter().filter_map(configured).collect())
    }

    /// Returns the roles of images that tasks name, except those of the main image, of items, and of images that `derive` makes.
    ///
    /// # Errors
    /// Those of [`Self::image_roles`].
    pub fn condition_roles(&self) -> Result<BTreeSet<String>> {
        const OTHERS: [&str; 5] = [MAIN_IMAGE, EDGE_IMAGE, SCRIBBLE_IMAGE, SEGMENTATION_IMAGE, OUTLINE_IMAGE];
        Ok(self.image_roles()?.into_iter().filter(|role| !OTHERS.contains(&role.as_str())).collect())
    }

    /// Returns the roles of images that tasks name, enabled or not, except those of items.
    ///
    /// # Errors
    /// [`crate::StageError::Template`] for templates that do not parse.
    pub fn image_roles(&self) -> Result<BTreeSet<String>> {
        const ITEMS: [&str; 3] = ["edit", "mask", "reference"];
        let parts = self.known_tasks()?.into_values().flat_map(|task| task.wordings).flatten();
        Ok(parts.filter_map(|part| part.image).filter(|role| !ITEMS.contains(&role.as_str())).collect())
    }

    /// Returns the same settings with every task that makes records spelled out among the templates: they do not depend on the tasks that ship.
    ///
    /// # Errors
    /// [`crate::StageError::Template`] for templates that do not parse.
    pub fn spelled_out(&self) -> Result<Self> {
        let tasks = self.known_tasks()?.into_iter().filter(|(name, _)| self.task(name).is_some());
        Ok(Self { templates: tasks.collect(), ..self.clone() })
    }

    fn known_tasks(&self) -> Result<BTreeMap<String, Task>> {
        let mut tasks = parse_tasks(DEFAULT_TASKS)?;
        tasks.extend(self.templates.clone());
        Ok(tasks)
    }

    /// Returns the factors for the weights of tasks with a share, given the natural numbers of records `natural`.
    #[must_use]
    pub fn multipliers(&self, natural: &BTreeMap<String, u64>) -> BTreeMap<String, f64> {
        let all: f64 = natural.values().map(|count| *count as f64).sum();
        let multiplier = |(name, count): (&String, &u64)| {
            let share = self.task(name)?.share?;
            let natural_share = *count as f64 / all;
            (natural_share > 0.0).then(|| (name.clone(), (share / natural_share).clamp(*SAMPLING.start(), *SAMPLING.end())))
        };
        natural.iter().filter_map(multiplier).collect()
    }

    /// Returns the problems of the fields, each with the field's path.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        match self.known_tasks() {
            Ok(known) => {
                let names: Vec<&str> = known.keys().map(String::as_str).collect();
                let unknown = self.tasks.keys().filter(|task| !known.contains_key(*task));
                problems.extend(unknown.map(|task| format!("instruct.tasks.{task} is no task; known are {}", names.join(", "))));
                // Tasks are compiled one by one, those without records too, so that each reports its own problem.
                for (name, task) in known {
                    let task = match self.task(&name) {
                        Some(config) => task.configured(&config),
                        None => task,
                    };
                    problems.extend(Templates::try_new([(name, task)].into()).err().map(|error| format!("instruct.{error}")));
                }
            }
            Err(error) => problems.push(format!("instruct.{error}")),
        }
        for (name, task) in &self.tasks {
            let path = |field: &str| format!("instruct.tasks.{name}.{field}");
            problems.extend(problem(&path("weight"), task.weight, &WEIGHT));
            problems.extend(task.share.and_then(|share| problem(&path("share"), share, &SHARE)));
            problems.extend(task.most_per_sample.and_then(|most| problem(&path("most_per_sample"), most, &MOST_PER_SAMPLE)));
        }
        if !self.tasks.is_empty() && self.tasks.values().all(|task| task.weight == 0.0) {
            problems.push("instruct.tasks must give at least one task a weight above 0".into());
        }
        problems.extend(problem("instruct.retrieved_loss", self.retrieved_loss, &RETRIEVED_LOSS));
        problems
    }
}
