//! Weights of users: safetensors or a PyTorch checkpoint, distinguished by their first bytes.

use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors};
use tch::{Kind, Tensor};

use crate::error::ModelError;
use crate::weights::foreign::{self, Wanted, ZIP};
use crate::weights::torch::TorchFile;

/// First bytes of a legacy checkpoint: a pickle of the magic number 0x1950a86a20f9469cfc6c.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// Possible first entries of a checkpoint's tar archive, and the position of the archive's magic.
const TAR_ENTRIES: [&[u8]; 4] = [b"sys_info\0", b"pickle\0", b"tensors\0", b"storages\0"];
const TAR_MAGIC: usize = 257;

/// A file of weights, from which single tensors are read.
pub(crate) struct WeightsFile<'a>(Format<'a>);

enum Format<'a> {
    Safetensors(SafeTensors<'a>),
    Torch(Box<TorchFile<'a>>),
}

impl<'a> WeightsFile<'a> {
    /// Reads the list of tensors.
    ///
    /// # Errors
    /// [`ModelError::NotWeights`], [`ModelError::OldCheckpoint`], [`ModelError::Safetensors`], and those of PyTorch checkpoints.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, ModelError> {
        if bytes.starts_with(ZIP) {
            return Ok(Self(Format::Torch(Box::new(TorchFile::open(bytes)?))));
        }
        let is_tar = bytes.get(TAR_MAGIC..TAR_MAGIC + 5) == Some(b"ustar");
        if is_tar && TAR_ENTRIES.iter().any(|entry| bytes.starts_with(entry)) {
            return Err(ModelError::OldCheckpoint { format: "tar" });
        }
        if bytes[..bytes.len().min(32)].windows(LEGACY_MAGIC.len()).any(|window| window == LEGACY_MAGIC) {
            return Err(ModelError::OldCheckpoint { format: "pickle" });
        }
        foreign::check(bytes, Wanted::Tensors)?;
        let file = SafeTensors::deserialize(bytes).map_err(|source| match source {
            SafeTensorError::MetadataIncompleteBuffer | SafeTensorError::InvalidHeaderLength => foreign::unknown(bytes),
            _ if !foreign::is_safetensors(bytes) => foreign::unknown(bytes),
            source => ModelError::Safetensors { source },
        })?;
        Ok(Self(Format::Safetensors(file)))
    }

    /// Returns the names of all tensors, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match &self.0 {
            Format::Safetensors(file) => file.names().into_iter().map(str::to_owned).collect(),
            Format::Torch(file) => file.names().map(str::to_owned).collect(),
        };
        names.sort_unstable();
        names
    }

    /// Returns the entries of a checkpoint, beside its weights, that contain tensors; empty for most files.
    pub(crate) fn beside(&self) -> &[String] {
        match &self.0 {
            Format::Safetensors(_) => &[],
            Format::Torch(file) => file.beside(),
        }
    }

    /// Returns the tensor of that name as f32, on the CPU; `None` if there is none. f16 and bf16 are widened without loss.
    ///
    /// # Errors
    /// [`ModelError::TensorType`] for other element types; [`ModelError::TensorPlace`] or [`ModelError::Archive`] if the file is damaged;
    /// [`ModelError::Torch`] if memory is short.
    pub(crate) fn tensor(&mut self, name: &str) -> Result<Option<Tensor>, ModelError> {
        match &mut self.0 {
            Format::Torch(file) => file.tensor(name),
            Format::Safetensors(file) => {
                let Ok(view) = file.tensor(name) else { return Ok(None) };
                let kind = match view.dtype() {
                    Dtype::F32 => Kind::Float,
                    Dtype::F16 => Kind::Half,
                    Dtype::BF16 => Kind::BFloat16,
                    other => {
                        let (name, found) = (name.to_owned(), format!("{other:?}"));
                        return Err(ModelError::TensorType { name, found, expected: "F32, F16 or BF16" });
                    }
                };
                let shape: Vec<i64> = view.shape().iter().map(|size| *size as i64).collect();
                let tensor = Tensor::f_from_data_size(view.data(), &shape, kind).and_then(|tensor| tensor.f_to_kind(Kind::Float));
                tensor.map(Some).map_err(ModelError::torch("create weights"))
            }
        }
    }
}
