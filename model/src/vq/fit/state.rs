//! Checkpoints of a fit: everything that the next step depends on.

use cm3flow_schemas::traits::CheckpointFiles;
use serde::{Deserialize, Serialize};
use tch::Device;

use crate::checkpoint::{MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, file};
use crate::error::ModelError;
use crate::parameters::Parameters;
use crate::vq::fit::FitJob;
use crate::vq::fit::codebook::{CodeAges, RunningCodebook};
use crate::vq::fit::discriminator::Discriminator;
use crate::vq::fit::fitting::Fitting;
use crate::vq::network::VqNetwork;
use crate::weights::{NamedTensors, from_safetensors, to_safetensors};

/// Name of the file with the codebook's running means.
const CODEBOOK_FILE: &str = "codebook.safetensors";
/// Name of the file with the discriminator's weights.
const CRITIC_FILE: &str = "discriminator.safetensors";
/// Name of the file with the discriminator's moments.
const CRITIC_OPTIMIZER_FILE: &str = "discriminator-optimizer.safetensors";

/// State of a fit, except its tensors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FitState {
    /// Number of finished steps.
    step: u64,
    /// Number of updates of the discriminator.
    critic_steps: u64,
    /// Step of each code's last use; empty before the codebook starts.
    last_used: Vec<u64>,
    /// Step of each code's last use or restart.
    alive_at: Vec<u64>,
}

impl<'a> Fitting<'a> {
    /// Returns everything that [`Self::resumed`] needs.
    pub(super) fn checkpoint(&self) -> Result<CheckpointFiles, ModelError> {
        let mut files = CheckpointFiles::new();
        let mut keep = |name: &str, bytes| files.insert(name.to_owned(), bytes);
        keep(MODEL_FILE, to_safetensors(&self.network.parameters)?);
        keep(OPTIMIZER_FILE, to_safetensors(&self.optimizer.moments())?);
        let mut state = FitState { step: self.done, critic_steps: 0, last_used: Vec::new(), alive_at: Vec::new() };
        if let Some(codebook) = &self.codebook {
            keep(CODEBOOK_FILE, to_safetensors(&codebook.tensors())?);
            CodeAges { last_used: state.last_used, alive_at: state.alive_at } = codebook.ages();
        }
        if let Some((critic, optimizer)) = &self.critic {
            keep(CRITIC_FILE, to_safetensors(&critic.parameters)?);
            keep(CRITIC_OPTIMIZER_FILE, to_safetensors(&optimizer.moments())?);
            state.critic_steps = optimizer.steps();
        }
        keep(STATE_FILE, serde_json::to_vec_pretty(&state).map_err(|source| ModelError::CheckpointState { source })?);
        Ok(files)
    }

    /// Restores the fit that wrote `files`, which must have had the same job.
    pub(super) fn resumed(job: &'a FitJob<'a>, device: Device, files: &CheckpointFiles) -> Result<Self, ModelError> {
        let state: FitState = serde_json::from_slice(file(files, STATE_FILE)?).map_err(|source| ModelError::CheckpointState { source })?;
        let network = VqNetwork::from_tensors(job.config, from_safetensors(file(files, MODEL_FILE)?)?, device)?;
        let critic = if job.fit.discriminator_weight > 0.0 {
            Some(Discriminator::try_new(Parameters::loaded(from_safetensors(file(files, CRITIC_FILE)?)?, device))?)
        } else {
            None
        };
        let mut fitting = Self::of(job, device, network, critic)?;
        fitting.optimizer.restore(from_safetensors(file(files, OPTIMIZER_FILE)?)?, state.step)?;
        if let Some((_, optimizer)) = &mut fitting.critic {
            optimizer.restore(from_safetensors(file(files, CRITIC_OPTIMIZER_FILE)?)?, state.critic_steps)?;
        }
        if !state.last_used.is_empty() {
            let tensors: NamedTensors = from_safetensors(file(files, CODEBOOK_FILE)?)?;
            let ages = CodeAges { last_used: state.last_used, alive_at: state.alive_at };
            fitting.codebook = Some(RunningCodebook::restored(job, tensors, ages, state.step, device)?);
        }
        fitting.done = state.step;
        Ok(fitting)
    }
}
