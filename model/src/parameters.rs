//! Parameters of networks: drawn from a seed, or loaded. Networks request each by name and shape.
//!
//! Drawn values depend only on the seed and the parameter's name. Threads, the order of construction and other models in the process do not
//! change them.

use std::fmt::Display;

use cm3flow_schemas::random::Draws;
use tch::{Device, Tensor};

use crate::error::ModelError;
use crate::weights::{NamedTensors, left_in};

/// Distribution of a drawn parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// Uniform in `-bound..bound`.
    Uniform {
        /// Largest magnitude.
        bound: f64,
    },
    /// Normal with mean 0, redrawn beyond three standard deviations.
    TruncatedNormal {
        /// Standard deviation before truncation.
        deviation: f64,
    },
}

enum Origin {
    Drawn {
        seed: u64,
    },
    Loaded {
        tensors: NamedTensors,
        /// Function from our name of a parameter to that in the file.
        name_in_file: Box<dyn Fn(&str) -> String>,
    },
}

/// Source of parameters, which records those requested.
pub(crate) struct Parameters {
    origin: Origin,
    device: Device,
    handed_out: NamedTensors,
}

impl Parameters {
    /// Draws parameters from `seed`.
    pub(crate) fn drawn(seed: u64, device: Device) -> Self {
        Self { origin: Origin::Drawn { seed }, device, handed_out: NamedTensors::new() }
    }

    /// Takes parameters from `tensors`.
    pub(crate) fn loaded(tensors: NamedTensors, device: Device) -> Self {
        Self::renamed(tensors, str::to_owned, device)
    }

    /// Takes parameters from `tensors`, under the names that `name_in_file` returns for ours. Errors use the names in the file.
    pub(crate) fn renamed(tensors: NamedTensors, name_in_file: impl Fn(&str) -> String + 'static, device: Device) -> Self {
        let origin = Origin::Loaded { tensors, name_in_file: Box::new(name_in_file) };
        Self { origin, device, handed_out: NamedTensors::new() }
    }

    /// Returns the scope without prefix.
    pub(crate) fn root(&mut self) -> Scope<'_> {
        Scope { parameters: self, prefix: String::new() }
    }

    /// Returns all requested parameters, by name. They share storage with the network's.
    ///
    /// # Errors
    /// [`ModelError::TensorExtra`] if loaded tensors were not requested.
    pub(crate) fn finish(self) -> Result<NamedTensors, ModelError> {
        match self.origin {
            Origin::Loaded { tensors, .. } if !tensors.is_empty() => {
                let name = tensors.keys().next().cloned().unwrap_or_default();
                Err(ModelError::TensorExtra { name, others: tensors.len() - 1 })
            }
            _ => Ok(self.handed_out),
        }
    }

    fn take(&mut self, name: String, shape: &[i64], init: Init) -> Result<Tensor, ModelError> {
        let tensor = match &mut self.origin {
            Origin::Drawn { seed } => drawn(*seed, &name, shape, init)?,
            Origin::Loaded { tensors, name_in_file } => {
                let name = name_in_file(&name);
                match tensors.remove(&name) {
                    None => {
                        return Err(ModelError::TensorMissing { name, shape: shape.to_vec(), left: left_in(tensors) });
                    }
                    Some(tensor) if tensor.size() != shape => {
                        return Err(ModelError::TensorShape { name, expected: shape.to_vec(), found: tensor.size() });
                    }
                    Some(tensor) => tensor,
                }
            }
        };
        let tensor = tensor.f_to_device(self.device).map_err(ModelError::torch("move weights"))?;
        self.handed_out.insert(name, tensor.shallow_clone());
        Ok(tensor)
    }
}

/// A node in the tree of names, as in PyTorch's modules.
pub(crate) struct Scope<'a> {
    parameters: &'a mut Parameters,
    prefix: String,
}

impl Scope<'_> {
    /// Returns the scope below.
    pub(crate) fn sub(&mut self, name: impl Display) -> Scope<'_> {
        Scope { prefix: format!("{}{name}.", self.prefix), parameters: self.parameters }
    }

    /// Returns the parameter `name` of this scope, in f32.
    ///
    /// # Errors
    /// [`ModelError::TensorMissing`] or [`ModelError::TensorShape`] for loaded weights, [`ModelError::Torch`] if memory is short.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[i64], init: Init) -> Result<Tensor, ModelError> {
        self.parameters.take(format!("{}{name}", self.prefix), shape, init)
    }
}

fn drawn(seed: u64, name: &str, shape: &[i64], init: Init) -> Result<Tensor, ModelError> {
    let count = shape.iter().product::<i64>() as usize;
    let mut draws = Draws::new(seed, "initial weights", name.as_bytes());
    let values = match init {
        Init::Zeros => vec![0.0; count],
        Init::Ones => vec![1.0; count],
        Init::Uniform { bound } => (0..count).map(|_| ((draws.unit() * 2.0 - 1.0) * bound) as f32).collect(),
        Init::TruncatedNormal { deviation } => truncated_normal(&mut draws, count, deviation),
    };
    Tensor::f_from_slice(&values).and_then(|tensor| tensor.f_reshape(shape)).map_err(ModelError::torch("create weights"))
}

/// Draws normal values in pairs, and drops those beyond three deviations.
///
/// # Source
/// Box and Muller 1958, <https://doi.org/10.1214/aoms/1177706645>.
fn truncated_normal(draws: &mut Draws, count: usize, deviation: f64) -> Vec<f32> {
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        // Each uniform takes half of the 64 bits. The first one is moved off zero, whose logarithm is infinite.
        let bits = draws.next_u64();
        let (low, high) = ((bits as u32) as f64, (bits >> 32) as f64);
        let radius = (-2.0 * ((low + 1.0) / 4_294_967_296.0).ln()).sqrt();
        let (sine, cosine) = (high / 4_294_967_296.0 * std::f64::consts::TAU).sin_cos();
        values.extend([radius * cosine, radius * sine].into_iter().filter(|z| z.abs() <= 3.0).map(|z| (z * deviation) as f32));
    }
    values.truncate(count);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_values_depend_on_seed_and_name_alone() {
        let normal = Init::TruncatedNormal { deviation: 1.0 };
        let draw = |seed, names: &[&str]| {
            let mut parameters = Parameters::drawn(seed, Device::Cpu);
            names.iter().map(|name| parameters.root().sub("layer").tensor(name, &[3, 5], normal).expect("small")).collect::<Vec<_>>()
        };
        let (one, two) = (draw(1, &["a", "b"]), draw(1, &["b", "a"]));
        assert!(one[0].equal(&two[1]) && one[1].equal(&two[0]) && !one[0].equal(&one[1]));
        assert!(!one[0].equal(&draw(2, &["a"])[0]));
    }

    #[test]
    fn truncated_normal_has_its_deviation_and_its_limits() {
        let values = truncated_normal(&mut Draws::new(1, "t", b""), 200_000, 0.5);
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / 200_000.0;
        let deviation = (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 200_000.0).sqrt();
        // A normal truncated at three deviations keeps 0.9866 of its deviation.
        assert!(mean.abs() < 0.005 && (deviation - 0.5 * 0.9866).abs() < 0.003, "{mean} {deviation}");
        assert!(values.iter().all(|v| v.abs() <= 1.5));
    }

    #[test]
    fn missing_extra_and_misshapen_tensors_are_named() {
        let tensors = || -> NamedTensors {
            let zeros = |shape: &[i64]| Tensor::zeros(shape, (tch::Kind::Float, Device::Cpu));
            [("a.weight".to_owned(), zeros(&[2])), ("b.weight".to_owned(), zeros(&[2, 2]))].into()
        };
        let mut parameters = Parameters::loaded(tensors(), Device::Cpu);
        let missing = parameters.root().sub("c").tensor("weight", &[2], Init::Zeros).expect_err("no c");
        assert_eq!(
            missing.to_string(),
            "weights lack tensor c.weight of shape [2]; 2 of their tensors nothing asked for yet: a.weight, b.weight"
        );
        let misshapen = parameters.root().sub("b").tensor("weight", &[4], Init::Zeros).expect_err("b is a matrix");
        assert_eq!(misshapen.to_string(), "tensor b.weight has shape [2, 2], expected [4]");
        let mut parameters = Parameters::loaded(tensors(), Device::Cpu);
        let _ = parameters.root().sub("b").tensor("weight", &[2, 2], Init::Zeros).expect("it is there");
        let extra = parameters.finish().expect_err("a was left");
        assert_eq!(extra.to_string(), "weights hold tensor a.weight, which the configuration has no place for (0 more such)");
    }
}
