//! Conversion of named tensors to safetensors bytes and back. Callers decide where the bytes are kept.
//!
//! Tensors of checkpoints are written as f32 and sorted by name, so equal weights give equal bytes. Weights of users come in more formats: see
//! [`WeightsFile`].

mod file;
mod foreign;
mod pickle;
mod torch;
mod values;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::{Dtype, SafeTensors, View};
use tch::{Kind, TchError, Tensor};

pub(crate) use file::WeightsFile;
use foreign::Wanted;
pub(crate) use foreign::listed;

use crate::error::ModelError;

/// Tensors by name.
pub(crate) type NamedTensors = BTreeMap<String, Tensor>;

/// Checks that the bytes of a file are weights: their list of tensors must be readable.
///
/// # Errors
/// [`ModelError::NotWeights`], [`ModelError::OldCheckpoint`], [`ModelError::Safetensors`], [`ModelError::Archive`], [`ModelError::Pickle`]
/// or [`ModelError::Checkpoint`] if they are not.
pub fn check(bytes: &[u8]) -> Result<(), ModelError> {
    WeightsFile::open(bytes).map(drop)
}

/// Checks that the bytes of a file may be a TorchScript module.
///
/// # Errors
/// [`ModelError::NotWeights`], [`ModelError::Archive`] or [`ModelError::Checkpoint`] if they are known to be something else.
pub(crate) fn check_module(bytes: &[u8]) -> Result<(), ModelError> {
    foreign::check(bytes, Wanted::Module)?;
    if bytes.starts_with(foreign::ZIP) { torch::check_module(bytes) } else { Ok(()) }
}

/// Describes the loaded tensors that are still unused: a missing one may have one of their names.
pub(crate) fn left_in(tensors: &NamedTensors) -> String {
    match tensors.len() {
        0 => "none of their tensors is left".to_owned(),
        count => format!("{count} of their tensors nothing asked for yet: {}", listed(tensors.keys().map(String::as_str))),
    }
}

/// Type that weights are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredType {
    /// 32 bits: the weights as they are.
    Float32,
    /// 16 bits with the range of `Float32`.
    Bfloat16,
    /// 16 bits with a small range and more digits.
    Float16,
}

impl StoredType {
    /// Returns PyTorch's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
            Self::Float16 => "float16",
        }
    }

    /// Returns the number of bytes of a value.
    pub(crate) const fn bytes(self) -> u64 {
        match self {
            Self::Float32 => 4,
            Self::Bfloat16 | Self::Float16 => 2,
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Self::Float32 => Kind::Float,
            Self::Bfloat16 => Kind::BFloat16,
            Self::Float16 => Kind::Half,
        }
    }
}

struct Stored {
    stored: StoredType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        match self.stored {
            StoredType::Float32 => Dtype::F32,
            StoredType::Bfloat16 => Dtype::BF16,
            StoredType::Float16 => Dtype::F16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

fn stored(tensor: &Tensor, stored: StoredType) -> Result<Stored, TchError> {
    let tensor = tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_to_kind(stored.kind())?.f_contiguous()?;
    let mut bytes = vec![0; tensor.numel() * stored.bytes() as usize];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(Stored { stored, shape: tensor.size().iter().map(|size| *size as usize).collect(), bytes })
}

/// Writes tensors as f32.
///
/// # Errors
/// [`ModelError::Torch`] if a tensor cannot be copied, [`ModelError::Safetensors`] if the header grows too large.
///
/// # Source
/// <https://huggingface.co/docs/safetensors>.
pub(crate) fn to_safetensors(tensors: &NamedTensors) -> Result<Vec<u8>, ModelError> {
    written(tensors, StoredType::Float32, None)
}

/// Writes tensors in the type `kind`, for PyTorch: transformers asks for the framework that a file is of.
///
/// # Errors
/// As [`to_safetensors`].
pub(crate) fn to_safetensors_of(tensors: &NamedTensors, kind: StoredType) -> Result<Vec<u8>, ModelError> {
    written(tensors, kind, Some([("format".to_owned(), "pt".to_owned())].into()))
}

fn written(tensors: &NamedTensors, kind: StoredType, metadata: Option<HashMap<String, String>>) -> Result<Vec<u8>, ModelError> {
    let views: Result<Vec<_>, _> = tensors.iter().map(|(name, tensor)| Ok((name, stored(tensor, kind)?))).collect();
    let views = views.map_err(ModelError::torch("copy weights"))?;
    safetensors::serialize(views, metadata).map_err(|source| ModelError::Safetensors { source })
}

/// Reads all tensors to the CPU.
///
/// # Errors
/// [`ModelError::Safetensors`] if the bytes are damaged, [`ModelError::TensorType`] for a tensor that is not f32.
pub(crate) fn from_safetensors(bytes: &[u8]) -> Result<NamedTensors, ModelError> {
    let file = SafeTensors::deserialize(bytes).map_err(|source| ModelError::Safetensors { source })?;
    let mut tensors = NamedTensors::new();
    for (name, view) in file.iter() {
        if view.dtype() != Dtype::F32 {
            return Err(ModelError::TensorType { name: name.to_owned(), found: format!("{:?}", view.dtype()), expected: "F32" });
        }
        let shape: Vec<i64> = view.shape().iter().map(|size| *size as i64).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, Kind::Float).map_err(ModelError::torch("create weights"))?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_survive_their_bytes_and_equal_tensors_give_equal_bytes() {
        let tensors: NamedTensors = ["b", "a", "c.d"]
            .iter()
            .map(|name| ((*name).to_owned(), Tensor::arange(6, (Kind::Float, tch::Device::Cpu)).reshape([2, 3]).transpose(0, 1)))
            .collect();
        let bytes = to_safetensors(&tensors).expect("small tensors");
        assert_eq!(bytes, to_safetensors(&tensors).expect("small tensors"));
        let read = from_safetensors(&bytes).expect("its own bytes");
        assert_eq!(read.keys().collect::<Vec<_>>(), tensors.keys().collect::<Vec<_>>());
        assert!(read.iter().all(|(name, tensor)| tensor.size() == [3, 2] && tensor.equal(&tensors[name])));
    }

    #[test]
    fn damaged_bytes_and_other_types_are_refused() {
        assert!(matches!(from_safetensors(b"no weights"), Err(ModelError::Safetensors { .. })));
        let view = safetensors::tensor::TensorView::new(Dtype::I64, vec![1], &[0; 8]).expect("one number");
        let bytes = safetensors::serialize([("ids", view)], None).expect("one tensor");
        let error = from_safetensors(&bytes).expect_err("not f32");
        assert_eq!(error.to_string(), "tensor ids is stored as I64, expected F32");
    }
}
