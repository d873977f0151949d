//! Finds or makes a unit, and tells which.

use std::time::{Duration, Instant};

use cm3flow_schemas::Digest;
use cm3flow_schemas::unit::{SegmentName, UnitRecord};
use tracing::Instrument;

use super::Executor;
use crate::error::{PipelineError, Result};
use crate::events::Event;

impl Executor {
    /// The committed unit, or what `making` makes of it.
    pub(super) async fn find_or_make(
        &self,
        (segment, key): (SegmentName, Digest),
        making: impl Future<Output = Result<UnitRecord>>,
    ) -> Result<UnitRecord> {
        match self.units.find(segment, key).await? {
            Some(record) => Ok(self.found(record)),
            None => self.make((segment, key), making).await,
        }
    }

    /// Tells that a unit was there.
    pub(super) fn found(&self, record: UnitRecord) -> UnitRecord {
        self.progress.tell(Event::unit_done(&record, true, Duration::ZERO));
        record
    }

    /// Makes a unit.
    pub(super) async fn make(
        &self,
        (segment, key): (SegmentName, Digest),
        making: impl Future<Output = Result<UnitRecord>>,
    ) -> Result<UnitRecord> {
        let begun = Instant::now();
        match making.instrument(tracing::error_span!("unit", segment = segment.name(), %key)).await {
            Ok(record) => {
                self.progress.tell(Event::unit_done(&record, false, begun.elapsed()));
                Ok(record)
            }
            Err(error) => {
                if !matches!(error, PipelineError::Interrupted) {
                    self.progress.tell(Event::UnitFailed { segment, key, problem: error.with_causes() });
                }
                Err(error)
            }
        }
    }
}
