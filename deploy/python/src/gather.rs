//! Conversion of rows of blocks to arrays: tokens are copied once, widened or not, or viewed without a copy.

use std::sync::Arc;

use cm3flow_stages::read::{PackRow, TokenIds};
use numpy::ndarray::ArrayView1;
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyList;

/// Columns of the segment table: row, start, len, modality, role.
const SEGMENT_COLUMNS: usize = 5;
/// Columns of the document table: row, start.
const DOCUMENT_COLUMNS: usize = 2;

/// Segments and documents of a batch, as tables.
pub(crate) struct Tables {
    segments: Vec<i32>,
    weights: Vec<f32>,
    documents: Vec<i32>,
}

impl Tables {
    pub(crate) fn of(rows: &[PackRow]) -> Self {
        let mut tables = Self { segments: Vec::new(), weights: Vec::new(), documents: Vec::new() };
        for (row, pack) in (0..).zip(rows) {
            let segments = pack.segments();
            tables.weights.extend_from_slice(segments.loss_weight);
            for index in 0..segments.start.len() {
                let (start, len) = (segments.start[index] as i32, segments.len[index] as i32);
                let (modality, role) = (i32::from(segments.modality[index]), i32::from(segments.role[index]));
                tables.segments.extend_from_slice(&[row, start, len, modality, role]);
            }
            tables.documents.extend(pack.document_starts().iter().flat_map(|start| [row, *start as i32]));
        }
        tables
    }

    /// Returns `[segments, 5]` i32, `[segments]` f32, `[documents, 2]` i32.
    #[allow(clippy::type_complexity)]
    pub(crate) fn into_arrays<'py>(
        self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyArray2<i32>>, Bound<'py, PyArray1<f32>>, Bound<'py, PyArray2<i32>>)> {
        let table = |values: Vec<i32>, columns: usize| {
            let rows = values.len() / columns;
            PyArray1::from_vec(py, values).reshape([rows, columns])
        };
        Ok((table(self.segments, SEGMENT_COLUMNS)?, PyArray1::from_vec(py, self.weights), table(self.documents, DOCUMENT_COLUMNS)?))
    }
}

/// Returns tokens as `[rows, seq_len]` i64. The copy runs without the interpreter's lock.
#[allow(unsafe_code)]
pub(crate) fn widened<'py>(py: Python<'py>, rows: &[PackRow]) -> PyResult<Bound<'py, PyArray2<i64>>> {
    let seq_len = rows.first().map_or(0, PackRow::seq_len);
    // SAFETY: every element is written below before anything else sees the array.
    let array = unsafe { PyArray2::<i64>::new(py, [rows.len(), seq_len], false) };
    {
        let mut view = array.try_readwrite()?;
        let out = view.as_slice_mut()?;
        py.detach(|| out.chunks_exact_mut(seq_len.max(1)).zip(rows).for_each(|(to, row)| row.widen_into(to)));
    }
    Ok(array)
}

/// Returns tokens as `[rows, seq_len]` u16, or u32 for large vocabularies: stored ids, which are smaller to send elsewhere.
pub(crate) fn stored<'py>(py: Python<'py>, rows: &[PackRow]) -> PyResult<Bound<'py, PyAny>> {
    let seq_len = rows.first().map_or(0, PackRow::seq_len);
    let (mut narrow, mut wide): (Vec<u16>, Vec<u32>) = (Vec::new(), Vec::new());
    for row in rows {
        match row.tokens() {
            TokenIds::U16(ids) => narrow.extend_from_slice(ids),
            TokenIds::U32(ids) => wide.extend_from_slice(ids),
        }
    }
    // All sources of a reader have ids of one width.
    let shape = [rows.len(), seq_len];
    if wide.is_empty() {
        return Ok(PyArray1::from_vec(py, narrow).reshape(shape)?.into_any());
    }
    Ok(PyArray1::from_vec(py, wide).reshape(shape)?.into_any())
}

/// Guard that keeps a block in memory as long as an array views it.
#[pyclass(frozen)]
struct Owner {
    _row: Arc<PackRow>,
}

/// Returns read-only views of each row in its block: `[seq_len]` u16, or u32 for large vocabularies.
pub(crate) fn views<'py>(py: Python<'py>, rows: Vec<PackRow>) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for row in rows {
        list.append(view(py, row)?)?;
    }
    Ok(list)
}

#[allow(unsafe_code)]
fn view(py: Python<'_>, row: PackRow) -> PyResult<Bound<'_, PyAny>> {
    let row = Arc::new(row);
    let owner = Bound::new(py, Owner { _row: Arc::clone(&row) })?.into_any();
    // SAFETY: the array's base is `owner`, which keeps the block with the ids alive.
    let array = unsafe {
        match row.tokens() {
            TokenIds::U16(ids) => PyArray1::borrow_from_array(&ArrayView1::from(ids), owner).into_any(),
            TokenIds::U32(ids) => PyArray1::borrow_from_array(&ArrayView1::from(ids), owner).into_any(),
        }
    };
    let flags = pyo3::types::PyDict::new(py);
    flags.set_item("write", false)?;
    array.call_method("setflags", (), Some(&flags))?;
    Ok(array)
}
