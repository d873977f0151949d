//! Which tasks make documents, how, and how often.

use std::collections::{BTreeMap, BTreeSet};

use cm3flow_schemas::sample::{EDGE_IMAGE, MAIN_IMAGE, OUTLINE_IMAGE, SCRIBBLE_IMAGE, SEGMENTATION_IMAGE};
use serde::{Deserialize, Serialize};

use super::template::{DEFAULT_TASKS, Form, Loss, Order, Task, Templates, parse_tasks};
use crate::error::Result;

/// Least and most that a share may thin out or multiply a task's records.
///
/// # Source
/// CM3Leon paper, appendix E.1: down- and up-sampling clipped at 0.3 and 3 of the natural frequency.
const SAMPLING: std::ops::RangeInclusive<f64> = 0.3..=3.0;

/// `[instruct]`: the mixture of tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InstructConfig {
    /// Tasks by name, each a weight or a table of settings. Default: every task there is, with weight 1.
    pub tasks: BTreeMap<String, TaskConfig>,
    /// Tasks of one's own, in the format of `stages/src/instruct/templates.toml`; one with the name of a task that is there replaces it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub templates: BTreeMap<String, Task>,
    /// What becomes of a record that is too long without retrieved pairs. Default `cut`.
    pub long_text: LongText,
    /// Weight of the tokens of retrieved pairs as prediction targets, 0..=1. Default 1.
    pub retrieved_loss: f32,
}

/// What becomes of a record that is too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LongText {
    /// Texts that may be cut lose their end, the longest first; what is still too long is refused.
    #[default]
    Cut,
    /// It is refused.
    Refuse,
}

/// Settings of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "TaskEntry", into = "TaskEntry")]
pub struct TaskConfig {
    /// Records made of each item, 0 or more, at most 100; a fraction is drawn. Default 1.
    pub weight: f64,
    /// Share of the task among all records of a window, above 0 and at most 1: the weight is multiplied by it over the task's natural share, but by
    /// 0.3 at least and 3 at most. None by default.
    pub share: Option<f64>,
    /// Most records of one sample, 1 or more. No limit by default.
    pub most_per_sample: Option<u32>,
    /// Whether its records are masked. Default: the task's.
    pub form: Option<Form>,
    /// What comes first. Default: the task's.
    pub order: Option<Order>,
    /// What is learnt. Default: the task's.
    pub loss: Option<Loss>,
}

impl Default for TaskConfig {
    fn default() -> Self {
        Self::of_weight(1.0)
    }
}

impl TaskConfig {
    /// As the task is, with this weight.
    #[must_use]
    pub const fn of_weight(weight: f64) -> Self {
        Self { weight, share: None, most_per_sample: None, form: None, order: None, loss: None }
    }
}

impl Task {
    /// The task as the configuration has it.
    pub(super) fn configured(mut self, config: &TaskConfig) -> Self {
        self.form = config.form.unwrap_or(self.form);
        self.order = config.order.unwrap_or(self.order);
        self.loss = config.loss.unwrap_or(self.loss);
        self
    }
}

/// How a task stands in a file: `pair = 1.0`, or `pair = { weight = 1.0, order = "either" }`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum TaskEntry {
    Weight(f64),
    Settings(TaskSettings),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskSettings {
    #[serde(default = "one")]
    weight: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    share: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    most_per_sample: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    form: Option<Form>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order: Option<Order>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    /// Settings of a task; `None` for one that makes no records.
    #[must_use]
    pub fn task(&self, name: &str) -> Option<TaskConfig> {
        let task = if self.tasks.is_empty() { Some(TaskConfig::default()) } else { self.tasks.get(name).cloned() };
        task.filter(|task| task.weight > 0.0)
    }

    /// The templates of the tasks that make records, as they are configured.
    ///
    /// # Errors
    /// As [`Templates::try_new`].
    pub fn templates(&self) -> Result<Templates> {
        let configured = |(name, task): (String, Task)| {
            let config = self.task(&name)?;
            Some((name, task.configured(&config)))
        };
        Templates::try_new(self.known_tasks()?.into_iter().filter_map(configured).collect())
    }

    /// Roles of images that tasks name, but for those of the sample itself, of its items, and those that `derive` makes.
    ///
    /// # Errors
    /// As [`Self::image_roles`].
    pub fn condition_roles(&self) -> Result<BTreeSet<String>> {
        const OTHERS: [&str; 5] = [MAIN_IMAGE, EDGE_IMAGE, SCRIBBLE_IMAGE, SEGMENTATION_IMAGE, OUTLINE_IMAGE];
        Ok(self.image_roles()?.into_iter().filter(|role| !OTHERS.contains(&role.as_str())).collect())
    }

    /// Roles of images that tasks name, whether they are switched on or not, but for those of the sample's items.
    ///
    /// # Errors
    /// [`crate::StageError::Template`] for templates that cannot be read.
    pub fn image_roles(&self) -> Result<BTreeSet<String>> {
        const ITEMS: [&str; 3] = ["edit", "mask", "reference"];
        let parts = self.known_tasks()?.into_values().flat_map(|task| task.wordings).flatten();
        Ok(parts.filter_map(|part| part.image).filter(|role| !ITEMS.contains(&role.as_str())).collect())
    }

    fn known_tasks(&self) -> Result<BTreeMap<String, Task>> {
        let mut tasks = parse_tasks(DEFAULT_TASKS)?;
        tasks.extend(self.templates.clone());
        Ok(tasks)
    }

    /// By what the weight of each task with a share is multiplied, for records that come in the numbers `natural` by themselves.
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

    /// Problems of the fields, each with the field's path.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        match self.known_tasks() {
            Ok(known) => {
                let names: Vec<&str> = known.keys().map(String::as_str).collect();
                let unknown = self.tasks.keys().filter(|task| !known.contains_key(*task));
                problems.extend(unknown.map(|task| format!("instruct.tasks.{task} is no task; known are {}", names.join(", "))));
                // One by one, those too that make no records, so that each says what is wrong with it.
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
            if !(0.0..=100.0).contains(&task.weight) {
                problems.push(format!("instruct.tasks.{name} must be in 0..=100, got {}", task.weight));
            }
            if let Some(share) = task.share.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
                problems.push(format!("instruct.tasks.{name}.share must be above 0 and at most 1, got {share}"));
            }
            if task.most_per_sample == Some(0) {
                problems.push(format!("instruct.tasks.{name}.most_per_sample must be 1 or more, got 0"));
            }
        }
        if !self.tasks.is_empty() && self.tasks.values().all(|task| task.weight == 0.0) {
            problems.push("instruct.tasks must give at least one task a weight above 0".into());
        }
        if !(0.0..=1.0).contains(&self.retrieved_loss) {
            problems.push(format!("instruct.retrieved_loss must be in 0..=1, got {}", self.retrieved_loss));
        }
        problems
    }
}
