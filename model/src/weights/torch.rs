//! PyTorch checkpoints: the ZIP archive that `torch.save` has written since PyTorch 1.6. No code of the file is run.
//!
//! `<folder>/data.pkl` describes the saved objects; `<folder>/data/<key>` has the numbers. Every length in the file is checked against the
//! existing bytes before anything is allocated for it.
//!
//! # Source
//! `torch/serialization.py` and `caffe2/serialize/inline_container.h` of PyTorch.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use tch::{Kind, TchError, Tensor};
use zip::ZipArchive;
use zip::result::ZipError;

use crate::error::ModelError;
use crate::weights::foreign::listed;
use crate::weights::pickle;
use crate::weights::values::{Element, Id, Values};

/// Largest size of `data.pkl`, in bytes.
const MAX_PICKLE_BYTES: u64 = 64 << 20;
/// Entries of a checkpoint that may hold the weights; the first that exists counts. Without any, the checkpoint itself is the dict.
const ENTRIES: [&str; 3] = ["state_dict", "model", "ema"];

/// A checkpoint with the names of its tensors.
pub(super) struct TorchFile<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
    /// Size of the file in bytes. Entries are stored uncompressed, so none is longer.
    len: u64,
    /// Common prefix of the entries' names; empty, or ends with a slash.
    folder: String,
    values: Values,
    tensors: BTreeMap<String, Id>,
    beside: Vec<String>,
}

impl<'a> TorchFile<'a> {
    /// Reads the list of tensors.
    ///
    /// # Errors
    /// [`ModelError::Archive`], [`ModelError::Pickle`] or [`ModelError::Checkpoint`] if that is not possible.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, ModelError> {
        let mut archive = opened(bytes)?;
        let folder = folder(&archive)?;
        if archive.index_for_name(&format!("{folder}constants.pkl")).is_some() {
            return Err(refused("it is a TorchScript module; name it under kind = \"torchscript\""));
        }
        if archive.index_for_name(&format!("{folder}byteorder")).is_some()
            && entry(&mut archive, &format!("{folder}byteorder"), 16)? != b"little"
        {
            return Err(refused("its numbers are not little-endian; save it again on a machine where they are"));
        }
        let len = bytes.len() as u64;
        let pickle = entry(&mut archive, &format!("{folder}data.pkl"), MAX_PICKLE_BYTES.min(len))?;
        let (values, root) = pickle::read(&pickle).map_err(|source| ModelError::Pickle { source })?;
        let (tensors, beside) = named_tensors(&values, root)?;
        Ok(Self { archive, len, folder, values, tensors, beside })
    }

    /// Returns the entries of the checkpoint that contain tensors but are not the weights.
    pub(super) fn beside(&self) -> &[String] {
        &self.beside
    }

    /// Iterates over the names of the tensors, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Returns the tensor of that name as f32, on the CPU; `None` if there is none.
    ///
    /// # Errors
    /// [`ModelError::TensorType`], [`ModelError::TensorPlace`], [`ModelError::Archive`] or [`ModelError::Torch`].
    pub(super) fn tensor(&mut self, name: &str) -> Result<Option<Tensor>, ModelError> {
        let Some((view, storage, key)) = self.tensors.get(name).and_then(|id| self.values.tensor(*id)) else { return Ok(None) };
        let (kind, size) = match storage.element {
            Element::Float => (Kind::Float, 4),
            Element::Half => (Kind::Half, 2),
            Element::BFloat16 => (Kind::BFloat16, 2),
            Element::Unused(class) => {
                let (name, found) = (name.to_owned(), class.trim_end_matches("Storage").to_owned());
                return Err(ModelError::TensorType { name, found, expected: "Float, Half or BFloat16" });
            }
        };
        let refused = |problem: String| ModelError::TensorPlace { name: name.to_owned(), problem };
        let (offset, shape, strides) = (view.offset, view.shape.clone(), view.strides.clone());
        check_place(offset, &shape, &strides, storage.len).map_err(refused)?;
        let path = format!("{}data/{key}", self.folder);
        let bytes = entry(&mut self.archive, &path, self.len)?;
        // Both factors are bounded: the length is at least the number of elements of a tensor, and the next line limits it.
        let stated = storage.len.checked_mul(size).filter(|stated| *stated <= bytes.len() as u64);
        let Some(stated) = stated else {
            return Err(refused(format!("its storage {path} has {} bytes, too few for {} numbers", bytes.len(), storage.len)));
        };
        let numbers = &bytes[..stated as usize];
        let read = || -> Result<Tensor, TchError> {
            let flat = Tensor::f_from_data_size(numbers, &[storage.len as i64], kind)?;
            // A copy, because a kept tensor must not retain a storage that others share.
            flat.f_as_strided_copy(&shape, &strides, offset)?.f_to_kind(Kind::Float)
        };
        read().map(Some).map_err(ModelError::torch("create weights"))
    }
}

fn refused(problem: &str) -> ModelError {
    ModelError::Checkpoint { problem: problem.to_owned() }
}

/// Returns the common prefix of a checkpoint's entries.
fn folder(archive: &ZipArchive<Cursor<&[u8]>>) -> Result<String, ModelError> {
    let found = archive.file_names().filter_map(|name| name.strip_suffix("data.pkl"));
    match found.filter(|folder| folder.is_empty() || folder.ends_with('/')).min_by_key(|folder| folder.len()) {
        Some(folder) => Ok(folder.to_owned()),
        None => {
            let problem =
                format!("it is a ZIP archive without data.pkl, which holds {}; unpack it if the weights are in it", held(archive));
            Err(refused(&problem))
        }
    }
}

fn opened(bytes: &[u8]) -> Result<ZipArchive<Cursor<&[u8]>>, ModelError> {
    let entry = || "the list of entries at the end (was the file fetched as a whole?)".to_owned();
    ZipArchive::new(Cursor::new(bytes)).map_err(|source| ModelError::Archive { entry: entry(), source })
}

/// Lists the first entries of an archive, and the number of others.
fn held(archive: &ZipArchive<Cursor<&[u8]>>) -> String {
    let mut names: Vec<&str> = archive.file_names().collect();
    names.sort_unstable();
    if names.is_empty() { "nothing".to_owned() } else { listed(names.into_iter()) }
}

/// Checks that the bytes are an archive of TorchScript.
///
/// # Errors
/// [`ModelError::Archive`] or [`ModelError::Checkpoint`] if they are not.
pub(super) fn check_module(bytes: &[u8]) -> Result<(), ModelError> {
    let archive = opened(bytes)?;
    if archive.file_names().any(|name| name == "constants.pkl" || name.ends_with("/constants.pkl")) {
        return Ok(());
    }
    match folder(&archive) {
        Ok(_) => Err(refused("it holds tensors and no TorchScript module; save the module by torch.jit.script(module).save(path)")),
        Err(error) => Err(error),
    }
}

/// Reads an entry of at most `limit` bytes.
fn entry(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str, limit: u64) -> Result<Vec<u8>, ModelError> {
    let failed = |source: ZipError| ModelError::Archive { entry: name.to_owned(), source };
    let entry = archive.by_name(name).map_err(failed)?;
    let size = entry.size();
    if size > limit {
        return Err(ModelError::Checkpoint {
            problem: format!("its entry {name} claims {size} bytes, at most {limit} are there or allowed"),
        });
    }
    let mut bytes = Vec::with_capacity(size as usize);
    entry.take(limit).read_to_end(&mut bytes).map_err(|source| failed(ZipError::Io(source)))?;
    Ok(bytes)
}

/// Returns the tensors of the dict with the weights, and the names of other entries that are dicts of tensors.
fn named_tensors(values: &Values, root: Id) -> Result<(BTreeMap<String, Id>, Vec<String>), ModelError> {
    let no_dict = || refused("it holds no dict of tensors; save the state_dict() of the model, not the model itself");
    let tensors_of = |id: Id| Some(values.dict(id)?.filter(|(_, id)| values.tensor(*id).is_some()));
    let entries: BTreeMap<&str, Id> = values.dict(root).ok_or_else(no_dict)?.collect();
    let weights = ENTRIES.iter().filter_map(|name| entries.get(name)).find(|id| values.dict(**id).is_some()).copied().unwrap_or(root);
    let tensors: BTreeMap<String, Id> = tensors_of(weights).ok_or_else(no_dict)?.map(|(name, id)| (name.to_owned(), id)).collect();
    let count_in = |id: Id| tensors_of(id).map_or(0, Iterator::count);
    let others = entries.iter().filter(|(_, id)| **id != weights);
    if tensors.is_empty() {
        let names: Vec<String> = match weights == root {
            true => others.map(|(name, id)| with_count(name, count_in(*id))).collect(),
            false => values.dict(weights).into_iter().flatten().map(|(name, id)| with_count(name, count_in(id))).collect(),
        };
        return Err(refused(&without_tensors(&names)));
    }
    let beside = others.filter(|(_, id)| count_in(**id) > 0).map(|(name, id)| with_count(name, count_in(*id)));
    Ok((tensors, beside.collect()))
}

fn with_count(name: &str, tensors: usize) -> String {
    if tensors == 0 { name.to_owned() } else { format!("{name} (a dict of {tensors} tensors)") }
}

fn without_tensors(names: &[String]) -> String {
    if names.is_empty() {
        return "its dict is empty".to_owned();
    }
    let names = listed(names.iter().map(String::as_str));
    format!(
        "its dict has entries, but no tensors: {names}; save the entry with the weights by itself: \
         torch.save(torch.load(path, map_location=\"cpu\")[entry], new)"
    )
}

/// Checks that a view lies within a storage of `len` numbers, and has no more elements than that.
fn check_place(offset: i64, shape: &[i64], strides: &[i64], len: u64) -> Result<(), String> {
    let place = || format!("offset {offset}, shape {shape:?} and strides {strides:?} leave its storage of {len} numbers");
    let unsigned = |number: i64| u64::try_from(number).ok();
    let end = || -> Option<u64> {
        let (mut count, mut last) = (1_u64, unsigned(offset)?);
        for (size, stride) in shape.iter().zip(strides) {
            let (size, stride) = (unsigned(*size)?, unsigned(*stride)?);
            count = count.checked_mul(size)?;
            last = last.checked_add(size.saturating_sub(1).checked_mul(stride)?)?;
        }
        match count {
            0 => Some(0),
            count => Some((last.checked_add(1)?).max(count)),
        }
    };
    let fits = shape.len() == strides.len() && end().is_some_and(|end| end <= len) && i64::try_from(len).is_ok();
    if fits { Ok(()) } else { Err(place()) }
}

#[cfg(test)]
mod tests;
