//! Which tasks make documents, and how often.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::template::default_templates;

/// `[instruct]`: the mixture of tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InstructConfig {
    /// Records made of each item by task, 0 or more, at most 100; a fraction is drawn. Default: 1 for every task.
    pub tasks: BTreeMap<String, f64>,
}

impl Default for InstructConfig {
    fn default() -> Self {
        Self { tasks: default_templates().names().map(|name| (name.to_owned(), 1.0)).collect() }
    }
}

impl InstructConfig {
    /// Problems of the fields, each with the field's path.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let templates = default_templates();
        let known: Vec<&str> = templates.names().collect();
        let mut problems = Vec::new();
        for (task, weight) in &self.tasks {
            if !known.contains(&task.as_str()) {
                problems.push(format!("instruct.tasks.{task} is no task; known are {}", known.join(", ")));
            }
            if !(0.0..=100.0).contains(weight) {
                problems.push(format!("instruct.tasks.{task} must be in 0..=100, got {weight}"));
            }
        }
        if self.tasks.values().all(|weight| *weight == 0.0) {
            problems.push("instruct.tasks must give at least one task a weight above 0".into());
        }
        problems
    }
}
