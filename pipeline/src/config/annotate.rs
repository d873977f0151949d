//! `[annotate]`: TorchScript modules that make condition images of the main image.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cm3flow_model::annotate::{AnnotatorConfig, InputRange, InputValues, OutputRange, OwnRange};
use cm3flow_schemas::limits::{problem, within};
use cm3flow_schemas::sample::{DEPTH_IMAGE, NORMAL_IMAGE};
use cm3flow_stages::instruct::InstructConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ImageTokenizerConfig;

/// `[annotate]`: annotators by the role of the image that each makes.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("x-key" = "ROLE"))]
pub struct AnnotateConfig(pub BTreeMap<String, RoleConfig>);

/// `[annotate.ROLE]`: a TorchScript module that makes the image of a role from the main image: `hed`, `depth`, `normal`, `pose`, or what a
/// template of your own takes. An image that a sample brings for the role wins. TorchScript is code and runs as given: name only what you trust.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleConfig {
    /// File of the module. It turns `[n, 3, side, side]` into `[n, c, s, s]` with one or three channels, or `[n, s, s]`.
    #[serde(skip_serializing)]
    #[schemars(extend("format" = "path"))]
    pub module: PathBuf,
    /// Side of the input square, in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = within(AnnotatorConfig::SIDE_PX), extend("x-default" = "that of the image tokenizer"))]
    pub side_px: Option<u32>,
    /// Scale of the module's input values.
    #[serde(default = "unit")]
    pub input: InputValues,
    /// Index of the output tensor to use, from 0.
    #[serde(default)]
    #[schemars(transform = within(AnnotatorConfig::OUTPUT))]
    pub output: u32,
    /// Output values that stand for black and for white.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "`\"picture\"` for the role `depth`, `[-1, 1]` for `normal`, else `[0, 1]`"))]
    pub range: Option<OutputRange>,
    /// `true` to swap black and white.
    #[serde(default)]
    pub inverted: bool,
    /// Number of pictures computed together: part of the numerics class.
    #[serde(default = "eight")]
    #[schemars(transform = within(AnnotatorConfig::BATCH_SIZE))]
    pub batch_size: u32,
}

const fn unit() -> InputValues {
    InputValues::Range(InputRange::Unit)
}

const fn eight() -> u32 {
    8
}

impl RoleConfig {
    /// Returns the settings of the module, for pictures of `role` beside squares of `side_px` pixels.
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
            problems.extend(problem(&format!("annotate.{role}.batch_size"), config.batch_size, &AnnotatorConfig::BATCH_SIZE));
        }
        problems
    }
}
