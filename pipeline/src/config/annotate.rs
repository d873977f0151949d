//! `[annotate]`: TorchScript modules that make condition images of the main image.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cm3flow_model::annotate::{AnnotatorConfig, InputRange, InputValues, OutputRange, OwnRange};
use cm3flow_schemas::sample::{DEPTH_IMAGE, NORMAL_IMAGE};
use cm3flow_stages::instruct::InstructConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ImageTokenizerConfig;

/// `[annotate]`: annotators by the role of the image that each makes.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct AnnotateConfig(pub BTreeMap<String, RoleConfig>);

/// `[annotate.ROLE]`. TorchScript is code and runs as given: name modules that you trust.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleConfig {
    /// Module that turns `[n, 3, side, side]` into `[n, c, s, s]` with one or three channels, or `[n, s, s]`. In no key: its bytes are.
    #[serde(skip_serializing)]
    pub module: PathBuf,
    /// Side of the square that it takes, in pixels, 8..=4096. Default: that of the image tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side_px: Option<u32>,
    /// What a level is to it: `unit` (0 to 1), `signed` (-1 to 1), or `mean` and `std` of the channels on the scale of 0 to 1. Default `unit`.
    #[serde(default = "unit")]
    pub input: InputValues,
    /// Which of the tensors that it returns is taken, from 0. Default 0.
    #[serde(default)]
    pub output: u32,
    /// Values of black and white, or `picture` for the least and the largest one of each picture. Default: `picture` for the role `depth`, -1 and 1
    /// for `normal`, else 0 and 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<OutputRange>,
    /// Whether black and white change places. Default false.
    #[serde(default)]
    pub inverted: bool,
    /// Pictures that are computed together, 1..=1024: part of the numerics class. Default 8.
    #[serde(default = "eight")]
    pub batch_size: u32,
}

const fn unit() -> InputValues {
    InputValues::Range(InputRange::Unit)
}

const fn eight() -> u32 {
    8
}

impl RoleConfig {
    /// What the module takes and returns, for pictures of `role` beside squares of `side_px` pixels.
    #[must_use]
    pub fn annotator(&self, role: &str, side_px: u32) -> AnnotatorConfig {
        let range = match role {
            DEPTH_IMAGE => OutputRange::Own(OwnRange::Picture),
            NORMAL_IMAGE => OutputRange::Fixed([-1.0, 1.0]),
            _ => OutputRange::Fixed([0.0, 1.0]),
        };
        AnnotatorConfig {
            side_px: self.side_px.unwrap_or(side_px),
            input: self.input,
            output: self.output,
            range: self.range.unwrap_or(range),
            inverted: self.inverted,
        }
    }
}

impl AnnotateConfig {
    /// Settings as keys and manifests hold them: all of them resolved, for squares of `side_px` pixels, without paths. `None` without annotators.
    #[must_use]
    pub fn canonical(&self, side_px: u32) -> Option<Value> {
        let resolved = |(role, config): (&String, &RoleConfig)| {
            let annotator = config.annotator(role, side_px);
            let config = RoleConfig { side_px: Some(annotator.side_px), range: Some(annotator.range), ..config.clone() };
            (role.clone(), serde_json::to_value(config).expect("plain fields make an object"))
        };
        (!self.0.is_empty()).then(|| Value::Object(self.0.iter().map(resolved).collect()))
    }

    /// The settings that [`Self::canonical`] wrote, with the modules of these annotators; roles of which this one names no module are left out, and so are
    /// settings that this release cannot read.
    #[must_use]
    pub fn with_settings(&self, recorded: &Value) -> Self {
        let settings = |(role, settings): (&String, &Value)| {
            let module = self.0.get(role)?.module.clone();
            let mut settings = settings.clone();
            settings.as_object_mut()?.insert("module".into(), "".into());
            let settings: RoleConfig = serde_json::from_value(settings).ok()?;
            Some((role.clone(), RoleConfig { module, ..settings }))
        };
        Self(recorded.as_object().into_iter().flatten().filter_map(settings).collect())
    }

    pub(super) fn problems(&self, image: &ImageTokenizerConfig, instruct: &InstructConfig) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.0.is_empty() && matches!(image, ImageTokenizerConfig::Given(_)) {
            let problem = "[annotate] needs pictures to look at, and with tokenize.image.kind = \"given\" none is decoded; \
                           give the codes of condition images too, or name a tokenizer that encodes";
            problems.push(problem.into());
        }
        // Templates that cannot be read are reported by themselves.
        let known = instruct.condition_roles().ok();
        for (role, config) in &self.0 {
            if let Some(known) = known.as_ref().filter(|known| !known.contains(role)) {
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                problems.push(format!(
                    "annotate.{role}: no task takes an image of this name from an annotator; known are {}",
                    known.join(", ")
                ));
            }
            let side = image.preparation().side_px;
            // A tokenizer without a side is reported by itself.
            let annotator = config.annotator(role, if side == 0 { 256 } else { side });
            problems.extend(annotator.problems().into_iter().map(|problem| format!("annotate.{role}.{problem}")));
            if !(1..=1024).contains(&config.batch_size) {
                problems.push(format!("annotate.{role}.batch_size must be in 1..=1024, got {}", config.batch_size));
            }
        }
        problems
    }
}
