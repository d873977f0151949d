//! TorchScript modules of users: loading them, and reading their output.
//!
//! **TorchScript is code.** It is no Python pickle, but it runs as given, with all that libtorch can do: load only modules that you trust.

use tch::{CModule, Device, IValue, Kind, TchError, Tensor};

use crate::error::ModelError;
use crate::weights;

/// Checks that the bytes of a file may be a TorchScript module, before libtorch fails with a message about archives.
///
/// # Errors
/// [`ModelError::NotWeights`], [`ModelError::Archive`] or [`ModelError::Checkpoint`] if they are known to be something else.
pub fn check(bytes: &[u8]) -> Result<(), ModelError> {
    weights::check_module(bytes)
}

/// Loads a module from the bytes of its file, in evaluation mode.
pub(crate) fn load(mut bytes: &[u8], device: Device) -> Result<CModule, TchError> {
    let mut module = CModule::load_data_on_device(&mut bytes, device)?;
    module.f_set_eval()?;
    Ok(module)
}

/// Returns the type of the first float parameter; f32 if there is none, as in frozen modules.
pub(crate) fn kind_of(module: &CModule) -> Result<Kind, TchError> {
    let kinds = module.named_parameters()?.into_iter().map(|(_, parameter)| parameter.kind());
    Ok(kinds.into_iter().find(|kind| matches!(kind, Kind::Float | Kind::Half | Kind::BFloat16)).unwrap_or(Kind::Float))
}

pub(crate) const fn is_whole(kind: Kind) -> bool {
    matches!(kind, Kind::Int64 | Kind::Int | Kind::Int16 | Kind::Uint8 | Kind::Int8)
}

/// Collects all tensors of a module's output, in order.
pub(crate) fn tensors_of(output: IValue, tensors: &mut Vec<Tensor>) {
    match output {
        IValue::Tensor(tensor) => tensors.push(tensor),
        IValue::TensorList(list) => tensors.extend(list),
        IValue::Tuple(items) | IValue::GenericList(items) => items.into_iter().for_each(|item| tensors_of(item, tensors)),
        IValue::GenericDict(entries) => entries.into_iter().for_each(|(_, value)| tensors_of(value, tensors)),
        _ => {}
    }
}
