//! AdamW with gradient clipping by the global norm. tch's optimizers do not expose their moments; these can be saved.
//!
//! Parameters are visited in the order of their names and updated in place. On the CPU equal gradients give equal bits.

use tch::{Kind, TchError, Tensor};

use crate::error::ModelError;
use crate::weights::{NamedTensors, left_in};

/// Settings of the update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AdamWSettings {
    /// Decay rate of the mean of gradients.
    pub(crate) beta1: f64,
    /// Decay rate of the mean of squared gradients.
    pub(crate) beta2: f64,
    /// Term added to the root of the mean square.
    pub(crate) epsilon: f64,
    /// Decay of weights, times the learning rate.
    pub(crate) weight_decay: f64,
    /// Largest norm of all gradients together; longer ones are scaled down.
    pub(crate) clip_norm: f64,
}

/// A parameter with its moments.
struct Slot {
    name: String,
    parameter: Tensor,
    mean: Tensor,
    square: Tensor,
    decays: bool,
}

/// Optimizer with its state.
///
/// # Source
/// Loshchilov and Hutter 2019, algorithm 2, <https://arxiv.org/abs/1711.05101>, in the form of `torch.optim.AdamW`.
pub(crate) struct AdamW {
    settings: AdamWSettings,
    slots: Vec<Slot>,
    steps: u64,
}

impl AdamW {
    /// Optimizes `parameters`. `decays` decides by name and tensor which of them decay. Enables their gradients.
    ///
    /// # Errors
    /// [`TchError`] if memory is short.
    pub(crate) fn try_new(settings: AdamWSettings, parameters: &NamedTensors, decays: fn(&str, &Tensor) -> bool) -> Result<Self, TchError> {
        let slots = parameters.iter().map(|(name, parameter)| {
            let parameter = parameter.f_set_requires_grad(true)?;
            let (mean, square) = (parameter.f_detach()?.f_zeros_like()?, parameter.f_detach()?.f_zeros_like()?);
            Ok(Slot { name: name.clone(), decays: decays(name, &parameter), parameter, mean, square })
        });
        Ok(Self { settings, slots: slots.collect::<Result<_, TchError>>()?, steps: 0 })
    }

    /// Returns the number of finished steps.
    pub(crate) const fn steps(&self) -> u64 {
        self.steps
    }

    /// Computes the gradients of `loss` for all parameters, in the order of their names.
    pub(crate) fn gradients(&self, loss: &Tensor) -> Result<Vec<Tensor>, TchError> {
        let parameters: Vec<&Tensor> = self.slots.iter().map(|slot| &slot.parameter).collect();
        Tensor::f_run_backward(&[loss], &parameters, false, false)
    }

    /// Returns the index of the gradient of parameter `name`.
    pub(crate) fn index_of(&self, name: &str) -> Option<usize> {
        self.slots.iter().position(|slot| slot.name == name)
    }

    /// Returns the norm of all `gradients` together.
    pub(crate) fn norm(gradients: &[Tensor]) -> Result<f64, TchError> {
        let norms: Vec<Tensor> = gradients.iter().map(Tensor::f_norm).collect::<Result<_, _>>()?;
        Tensor::f_stack(&norms, 0)?.f_to_kind(Kind::Double)?.f_norm()?.f_double_value(&[])
    }

    /// Updates all parameters by their `gradients`, whose norm is `norm`.
    pub(crate) fn step(&mut self, gradients: &mut [Tensor], norm: f64, learning_rate: f64) -> Result<(), TchError> {
        let AdamWSettings { beta1, beta2, epsilon, weight_decay, clip_norm } = self.settings;
        self.steps += 1;
        let exponent = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let (unbias_mean, unbias_root) = (1.0 - beta1.powi(exponent), (1.0 - beta2.powi(exponent)).sqrt());
        let scale = (clip_norm / (norm + 1e-6)).min(1.0);
        let _no_grad = tch::no_grad_guard();
        for (slot, gradient) in self.slots.iter_mut().zip(gradients) {
            if scale < 1.0 {
                let _ = gradient.f_mul_scalar_(scale)?;
            }
            if slot.decays {
                let _ = slot.parameter.f_mul_scalar_(1.0 - learning_rate * weight_decay)?;
            }
            let _ = slot.mean.f_lerp_(gradient, 1.0 - beta1)?;
            let _ = slot.square.f_mul_scalar_(beta2)?.f_add_(&gradient.f_square()?.f_mul_scalar_(1.0 - beta2)?)?;
            let mut root = slot.square.f_sqrt()?.f_div_scalar_(unbias_root)?.f_add_scalar_(epsilon)?;
            // The quotient is written over the root, which is no longer needed.
            let _ = root.f_reciprocal_()?.f_mul_(&slot.mean)?.f_mul_scalar_(-learning_rate / unbias_mean)?;
            let _ = slot.parameter.f_add_(&root)?;
        }
        Ok(())
    }

    /// Returns the moments by name: `<parameter>.mean` and `<parameter>.square`.
    pub(crate) fn moments(&self) -> NamedTensors {
        let both = |slot: &Slot| {
            [(format!("{}.mean", slot.name), slot.mean.shallow_clone()), (format!("{}.square", slot.name), slot.square.shallow_clone())]
        };
        self.slots.iter().flat_map(both).collect()
    }

    /// Restores saved moments, as they were after `steps` steps.
    ///
    /// # Errors
    /// [`ModelError::TensorMissing`], [`ModelError::TensorShape`] or [`ModelError::TensorExtra`] if they belong to another network.
    pub(crate) fn restore(&mut self, mut moments: NamedTensors, steps: u64) -> Result<(), ModelError> {
        let _no_grad = tch::no_grad_guard();
        for slot in &mut self.slots {
            for (suffix, target) in [("mean", &mut slot.mean), ("square", &mut slot.square)] {
                let name = format!("{}.{suffix}", slot.name);
                let shape = target.size();
                match moments.remove(&name) {
                    None => return Err(ModelError::TensorMissing { name, shape, left: left_in(&moments) }),
                    Some(found) if found.size() != shape => {
                        return Err(ModelError::TensorShape { name, expected: shape, found: found.size() });
                    }
                    Some(found) => target.f_copy_(&found).map_err(ModelError::torch("restore the optimizer"))?,
                }
            }
        }
        self.steps = steps;
        match moments.keys().next() {
            Some(name) => Err(ModelError::TensorExtra { name: name.clone(), others: moments.len() - 1 }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    const SETTINGS: AdamWSettings = AdamWSettings { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, clip_norm: 1.0 };

    fn one(value: f64) -> NamedTensors {
        [("w".to_owned(), Tensor::full([1], value, (Kind::Float, Device::Cpu)))].into()
    }

    #[test]
    fn two_steps_equal_hand_computed_values() {
        let mut optimizer = AdamW::try_new(SETTINGS, &one(2.0), |_, _| true).expect("one number");
        // Step 1, gradient 0.5, rate 0.1: w = 2 * 0.99 = 1.98; the unbiased mean over the root is the sign, so w = 1.88.
        optimizer.step(&mut [Tensor::from_slice(&[0.5_f32])], 0.5, 0.1).expect("one number");
        assert!((optimizer.slots[0].parameter.double_value(&[0]) - 1.88).abs() < 1e-6);
        // Step 2, gradient -0.25: mean = 0.9 * 0.05 - 0.025 = 0.02, unbiased by 0.19; square = 0.95 * 0.0125 + 0.003125 = 0.015,
        // unbiased by 0.0975; w = 1.88 * 0.99 - 0.1 * 0.1052632 / 0.3922323.
        optimizer.step(&mut [Tensor::from_slice(&[-0.25_f32])], 0.25, 0.1).expect("one number");
        let expected = 1.88 * 0.99 - 0.1 * (0.02 / 0.19) / (0.015_f64 / 0.0975).sqrt();
        assert!((optimizer.slots[0].parameter.double_value(&[0]) - expected).abs() < 1e-6);
    }

    #[test]
    fn long_gradients_are_scaled_to_the_clip_norm_and_some_weights_do_not_decay() {
        let mut optimizer = AdamW::try_new(SETTINGS, &one(2.0), |name, _| name != "w").expect("one number");
        let mut gradients = [Tensor::from_slice(&[3.0_f32])];
        let norm = AdamW::norm(&gradients).expect("one number");
        assert_eq!(norm, 3.0);
        optimizer.step(&mut gradients, norm, 0.1).expect("one number");
        assert!((optimizer.slots[0].mean.double_value(&[0]) - 0.1).abs() < 1e-6);
        assert!((optimizer.slots[0].parameter.double_value(&[0]) - 1.9).abs() < 1e-6);
    }

    #[test]
    fn restored_moments_continue_as_if_never_stopped() {
        let gradients = [0.5_f32, -0.25, 0.75, 0.1];
        let run = |optimizer: &mut AdamW, gradients: &[f32]| {
            for gradient in gradients {
                optimizer.step(&mut [Tensor::from_slice(&[*gradient])], 0.1, 0.1).expect("one number");
            }
        };
        let mut whole = AdamW::try_new(SETTINGS, &one(2.0), |_, _| true).expect("one number");
        run(&mut whole, &gradients);
        let mut first = AdamW::try_new(SETTINGS, &one(2.0), |_, _| true).expect("one number");
        run(&mut first, &gradients[..2]);
        let weights: NamedTensors = [("w".to_owned(), first.slots[0].parameter.detach().copy())].into();
        let mut second = AdamW::try_new(SETTINGS, &weights, |_, _| true).expect("one number");
        second.restore(first.moments(), 2).expect("its own moments");
        run(&mut second, &gradients[2..]);
        assert!(second.slots[0].parameter.equal(&whole.slots[0].parameter));
    }

    #[test]
    fn foreign_moments_are_named() {
        let mut optimizer = AdamW::try_new(SETTINGS, &one(2.0), |_, _| true).expect("one number");
        let error = optimizer.restore(NamedTensors::new(), 1).expect_err("nothing there");
        assert_eq!(error.to_string(), "weights lack tensor w.mean of shape [1]; none of their tensors is left");
    }
}
