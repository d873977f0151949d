//! Withdrawals repeated on a window that was made again.

use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::WindowRecord;

use super::find::FoundRow;
use super::overlay::Layer;
use super::{changes, documents, find, row_columns};
use crate::catalog::blocklist::Blocklist;
use crate::catalog::units::WindowTables;
use crate::error::Result;
use crate::store::Store;

/// Removes from `window`, as its units make it, the samples withdrawn up to the version of `manifest`, and writes the changed shards. The
/// shards do not depend on the order of withdrawals. `store` holds the window's units and shards.
///
/// # Errors
/// [`crate::PipelineError::Damaged`] if tables and packs contradict each other; those of the store.
pub(crate) async fn redo(store: &Store, manifest: &VersionManifest, window: WindowRecord) -> Result<WindowRecord> {
    if window.blocklist == manifest.blocklist {
        return Ok(window);
    }
    let before = Blocklist::read(store, &manifest.dataset, window.blocklist).await?;
    let after = Blocklist::read(store, &manifest.dataset, manifest.blocklist).await?;
    let tables = WindowTables::new(store, std::slice::from_ref(&window));
    let mut rows = find::rows_of_samples(&tables, window.units.len(), &after.samples, &row_columns(manifest)).await?;
    rows.retain(|FoundRow { row, .. }| !before.contains(row.sample_id, row.image_id));
    let states = find::states(&tables, 1, &rows).await?;
    // Samples of other windows count too, since this window retrieved some of them.
    let new = after.samples.difference(&before.samples).copied().collect();
    let documents = documents::withdrawn(&tables, 1, &new, &before.samples).await?;
    let changes = changes(documents, &rows, &states);
    let overlay = Layer::new(store, manifest, false).lay(std::iter::once(window.clone()).zip(changes)).await?;
    Ok(overlay.windows.into_iter().next().unwrap_or(window))
}
