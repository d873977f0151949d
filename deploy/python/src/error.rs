//! Errors of the reader as exceptions of Python.

use cm3flow_stages::StageError;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// Converts an error with its causes to an exception.
pub(crate) fn raised(error: StageError) -> PyErr {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    match error {
        StageError::Store { .. } | StageError::Read { .. } => PyOSError::new_err(text),
        StageError::Mixture { .. }
        | StageError::Slice { .. }
        | StageError::ReaderState { .. }
        | StageError::Address { .. }
        | StageError::NoVersion { .. }
        | StageError::NoPacks { .. } => PyValueError::new_err(text),
        _ => PyRuntimeError::new_err(text),
    }
}
