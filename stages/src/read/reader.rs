//! Reader of one source, for the integrated trainer.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use cm3flow_schemas::DynError;
use cm3flow_schemas::pack::PackBatch;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::traits::{PackSource, ReaderState};
use object_store::ObjectStore;
use tokio::runtime::Handle;

use super::mix::Schedule;
use super::mixed::{MixReader, SourceInput};
use super::pool::{Origin, PoolLimits};
use super::source::WindowFeed;
use crate::error::Result;

/// Name of the only source.
const SOURCE: &str = "packs";

/// Packs that a [`PackReader`] reads, and their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackOrder {
    /// Their split.
    pub split: Split,
    /// Decides the order of every epoch.
    pub seed: u64,
    /// Tokens of each.
    pub seq_len: usize,
}

/// Reader of the packs of one split, epoch after epoch.
pub struct PackReader {
    mix: MixReader,
    seq_len: usize,
    runtime: Handle,
}

impl PackReader {
    /// Reads the windows of `feed` from `store`; packs have `schema`. Its methods block, so they must be called
    /// outside of `runtime`, which does the I/O.
    ///
    /// # Panics
    /// Never: a schedule of one source is valid.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, feed: Box<dyn WindowFeed>, schema: SchemaRef, order: PackOrder, runtime: Handle) -> Self {
        let PackOrder { split, seed, seq_len } = order;
        let input = SourceInput { feed, origin: Origin::Store(store), schema, split, limits: PoolLimits::default() };
        let schedule = Schedule::single(SOURCE, seed).expect("one source with a short name");
        Self { mix: MixReader::new(vec![input], schedule, &runtime), seq_len, runtime }
    }

    async fn read(&mut self, rows: usize) -> Result<PackBatch> {
        let mut batch = PackBatch {
            seq_len: self.seq_len,
            tokens: Vec::with_capacity(rows * self.seq_len),
            segments: Vec::new(),
            document_starts: Vec::new(),
        };
        for _ in 0..rows {
            self.mix.pack().await?.append_to(&mut batch);
        }
        Ok(batch)
    }
}

impl PackSource for PackReader {
    fn next_batch(&mut self, rows: usize) -> Result<PackBatch, DynError> {
        let (runtime, before) = (self.runtime.clone(), self.mix.position());
        let batch = runtime.block_on(self.read(rows));
        if batch.is_err() {
            // A failed batch must not lose the packs that were read for it.
            self.mix.seek(before);
        }
        Ok(batch?)
    }

    fn state(&self) -> ReaderState {
        ReaderState { position: self.mix.position() }
    }

    fn restore(&mut self, state: ReaderState) {
        self.mix.seek(state.position);
    }
}
