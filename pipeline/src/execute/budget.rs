//! Refusal budget: stops a run that refuses too much, since its sources or settings are wrong and nobody wants that version.

use std::sync::{Mutex, PoisonError};

use cm3flow_schemas::ledger::SampleLedger;
use cm3flow_schemas::unit::UnitRecord;
use cm3flow_schemas::window::SourceUnit;

use crate::config::RuntimeConfig;
use crate::error::{PipelineError, Result};
use crate::events::progress::Progress;
use crate::events::{Event, Reasons};

/// Reasons that the error names.
const TOP_REASONS: usize = 3;

/// Refused samples of a run, counted against the allowed fraction.
#[derive(Debug)]
pub(crate) struct RefusalBudget {
    max_fraction: f64,
    min_samples: u64,
    seen: Mutex<SampleLedger>,
}

impl RefusalBudget {
    pub(crate) fn new(config: &RuntimeConfig) -> Self {
        Self { max_fraction: config.max_refused_fraction, min_samples: config.max_refused_min_samples, seen: Mutex::default() }
    }

    /// Counts the prepared `record` of `unit`. Skips replayed rows: they were counted at their first refusal.
    ///
    /// # Errors
    /// [`PipelineError::RefusedTooMuch`] from the unit on that exceeds the fraction; also announced to `progress`.
    pub(crate) fn count(&self, unit: &SourceUnit, record: &UnitRecord, progress: &Progress) -> Result<()> {
        let Some(samples) = record.samples.as_ref().filter(|_| unit.only.is_empty()) else { return Ok(()) };
        let seen = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.add(samples);
            seen.clone()
        };
        let (input, refused, max_fraction) = (seen.input, seen.refused_total(), self.max_fraction);
        if input < self.min_samples || refused as f64 <= max_fraction * input as f64 {
            return Ok(());
        }
        let reasons = most_frequent(&seen.refused);
        progress.tell(Event::RefusedTooMuch { input, refused, max_fraction, reasons: seen.refused });
        Err(PipelineError::RefusedTooMuch { input, refused, max_fraction, reasons })
    }
}

/// Lists the most frequent reasons with their counts, as `80 filter.too_small, 3 ingest.no_image, 2 others`.
fn most_frequent(reasons: &Reasons) -> String {
    let mut sorted: Vec<(&String, &u64)> = reasons.iter().collect();
    // The sort is stable: equal counts stay in order of names.
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let mut named: Vec<String> = sorted.iter().take(TOP_REASONS).map(|(reason, count)| format!("{count} {reason}")).collect();
    let others: u64 = sorted.iter().skip(TOP_REASONS).map(|(_, count)| **count).sum();
    if others > 0 {
        named.push(format!("{others} others"));
    }
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use cm3flow_schemas::Digest;
    use cm3flow_schemas::unit::SegmentName;

    use super::*;

    fn unit(only: Vec<u64>) -> SourceUnit {
        SourceUnit { source: "s".into(), file: "f".into(), digest: Digest::of(b"f"), first_row: 0, rows: 10, only }
    }

    fn record(reasons: &[(&str, u64)]) -> UnitRecord {
        let refused: Reasons = reasons.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        let mut record = UnitRecord::new(SegmentName::Prepare, Digest::of(b"key"));
        record.samples = Some(SampleLedger { input: 10, kept: 10 - refused.values().sum::<u64>(), refused, ..SampleLedger::default() });
        record
    }

    fn budget(max_refused_fraction: f64, max_refused_min_samples: u64) -> RefusalBudget {
        RefusalBudget::new(&RuntimeConfig { max_refused_fraction, max_refused_min_samples, ..RuntimeConfig::default() })
    }

    #[test]
    fn the_fraction_may_be_reached_but_not_exceeded() {
        let budget = budget(0.5, 1);
        let progress = Progress::silent();
        budget.count(&unit(vec![]), &record(&[("a.x", 5)]), &progress).expect("half of them is allowed");
        let error = budget.count(&unit(vec![]), &record(&[("a.x", 1), ("b.y", 2), ("b.z", 2), ("c.w", 1)]), &progress);
        let Err(PipelineError::RefusedTooMuch { input: 20, refused: 11, reasons, .. }) = error else { panic!("{error:?}") };
        assert_eq!(reasons, "6 a.x, 2 b.y, 2 b.z, 1 others");
    }

    #[test]
    fn few_samples_say_nothing() {
        let budget = budget(0.1, 20);
        let progress = Progress::silent();
        budget.count(&unit(vec![]), &record(&[("a.x", 9)]), &progress).expect("10 samples are too few to judge");
        assert!(budget.count(&unit(vec![]), &record(&[]), &progress).is_err(), "9 of 20");
    }

    #[test]
    fn rows_that_are_tried_once_more_do_not_count_again() {
        let budget = budget(0.0, 1);
        budget.count(&unit(vec![3, 4]), &record(&[("a.x", 10)]), &Progress::silent()).expect("they were counted before");
    }
}
