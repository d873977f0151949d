//! Shard reader of cm3flow for Python, the module `cm3flow._reader`. `python/cm3flow` wraps it into a PyTorch dataset.

mod error;
mod gather;
mod options;
mod reader;

use pyo3::prelude::*;

#[pymodule]
fn _reader(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<reader::Reader>()?;
    module.add_function(wrap_pyfunction!(reader::pass_batches, module)?)?;
    module.add_function(wrap_pyfunction!(reader::describe, module)?)
}
