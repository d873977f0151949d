//! Metrics for Prometheus, from the stages' meters and the tally of events at the moment of a scrape.
//!
//! Nothing is counted for metrics alone, so only a scrape costs time. `pipeline/guide/watching.md` lists all metrics.

mod address;
mod endpoint;

use cm3flow_schemas::ledger::{DocumentLedger, SampleLedger};
use cm3flow_schemas::unit::SegmentName;
use cm3flow_stages::StageMeter;
use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

pub use address::MetricsAddress;
pub use endpoint::Endpoint;

use crate::events::progress::{Progress, Tally};

/// Formats counts as Prometheus text.
struct Exporter {
    progress: Progress,
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Exporter {
    fn new(progress: &Progress) -> Self {
        // A local recorder, not the global one: a process may hold several runs.
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, describe);
        Self { progress: progress.clone(), recorder, handle }
    }

    /// Formats all metrics as they are now.
    fn render(&self) -> String {
        metrics::with_local_recorder(&self.recorder, || {
            for meter in self.progress.meters().all() {
                export_stage(&meter);
            }
            export_tally(&self.progress.tally());
            for (action, requests) in self.progress.requests() {
                counter!("cm3flow_store_requests_total", "action" => action.clone()).absolute(requests.sent);
                counter!("cm3flow_store_retries_total", "action" => action).absolute(requests.retried);
            }
            let (prepared, expected) = self.progress.samples();
            gauge!("cm3flow_samples_prepared").set(prepared as f64);
            gauge!("cm3flow_samples_expected").set(expected as f64);
        });
        self.handle.render()
    }
}

fn describe() {
    describe_counter!("cm3flow_rows_total", "Rows that went into and out of a stage");
    describe_counter!("cm3flow_bytes_total", "Bytes of those rows as batches take them in memory");
    describe_counter!("cm3flow_stalls_total", "Waits of a stage of a second or more: starved of input, or blocked by what is behind");
    describe_gauge!("cm3flow_queued_batches", "Batches that wait in front of a stage");
    describe_gauge!("cm3flow_queued_bytes", "Bytes of those batches");
    describe_gauge!("cm3flow_stage_seconds", "Seconds that a stage was busy, starved of input, or blocked, summed over units at once");
    describe_gauge!("cm3flow_units_planned", "Units of the plan: there with the base version, or to be made");
    describe_counter!("cm3flow_units_total", "Units by what came of them: made, there, failed, retried, quarantined");
    describe_counter!("cm3flow_unit_bytes_total", "Bytes of the files of units that were made");
    describe_counter!("cm3flow_refused_total", "Samples and documents refused, by reason");
    describe_gauge!("cm3flow_windows_planned", "Windows that the run will commit");
    describe_counter!("cm3flow_windows_total", "Windows that the run committed");
    describe_counter!("cm3flow_samples_total", "Samples of committed windows, as the ledger counts them");
    describe_counter!("cm3flow_documents_total", "Documents of committed windows, as the ledger counts them");
    describe_counter!("cm3flow_store_requests_total", "Requests to stores and sources, each attempt counted");
    describe_counter!("cm3flow_store_retries_total", "Those of them that followed one that failed");
    describe_gauge!("cm3flow_samples_prepared", "Samples that went through prepare");
    describe_gauge!("cm3flow_samples_expected", "Samples that are to go through prepare");
    describe_gauge!("cm3flow_version", "Version that was published");
    describe_gauge!("cm3flow_training_step", "Last step of the training that was logged");
    describe_gauge!("cm3flow_training_loss", "Mean loss of that step in nats per token");
    describe_counter!("cm3flow_training_checkpoints_total", "Checkpoints written");
}

fn export_stage(meter: &StageMeter) {
    let stage = meter.stage;
    for (direction, rows, bytes) in [("in", meter.rows_in(), meter.bytes_in()), ("out", meter.rows_out(), meter.bytes_out())] {
        counter!("cm3flow_rows_total", "stage" => stage, "direction" => direction).absolute(rows);
        counter!("cm3flow_bytes_total", "stage" => stage, "direction" => direction).absolute(bytes);
    }
    gauge!("cm3flow_queued_batches", "stage" => stage).set(meter.queued() as f64);
    gauge!("cm3flow_queued_bytes", "stage" => stage).set(meter.queued_bytes() as f64);
    for (state, time) in [("busy", meter.busy()), ("starved", meter.starved()), ("blocked", meter.blocked())] {
        gauge!("cm3flow_stage_seconds", "stage" => stage, "state" => state).set(time.as_secs_f64());
    }
    let (starved, blocked) = meter.stalls();
    for (state, stalls) in [("starved", starved), ("blocked", blocked)] {
        counter!("cm3flow_stalls_total", "stage" => stage, "state" => state).absolute(stalls);
    }
}

fn export_tally(tally: &Tally) {
    for (segment, units) in &tally.planned {
        for (state, count) in [("there", units.there), ("to_make", units.to_make)] {
            gauge!("cm3flow_units_planned", "segment" => segment.name(), "state" => state).set(count as f64);
        }
    }
    for ((segment, state), count) in &tally.units {
        counter!("cm3flow_units_total", "segment" => segment.name(), "state" => state.name()).absolute(*count);
    }
    for (segment, bytes) in &tally.unit_bytes {
        counter!("cm3flow_unit_bytes_total", "segment" => segment.name()).absolute(*bytes);
    }
    for (segment, reasons) in &tally.refused {
        let of = if *segment == SegmentName::Prepare { "samples" } else { "documents" };
        for (reason, count) in reasons {
            counter!("cm3flow_refused_total", "of" => of, "reason" => reason.clone()).absolute(*count);
        }
    }
    gauge!("cm3flow_windows_planned").set(tally.windows_planned as f64);
    counter!("cm3flow_windows_total").absolute(tally.windows);
    let SampleLedger { input, kept, duplicate, withdrawn, quarantined, .. } = &tally.samples;
    let refused = tally.samples.refused_total();
    let samples = [("in", *input), ("kept", *kept), ("refused", refused), ("duplicate", *duplicate), ("withdrawn", *withdrawn)];
    for (outcome, count) in samples.into_iter().chain([("quarantined", *quarantined)]) {
        counter!("cm3flow_samples_total", "outcome" => outcome).absolute(count);
    }
    let DocumentLedger { built, packed, refused, withdrawn, .. } = &tally.documents;
    for (outcome, count) in [("built", *built), ("packed", *packed), ("refused", refused.values().sum()), ("withdrawn", *withdrawn)] {
        counter!("cm3flow_documents_total", "outcome" => outcome).absolute(count);
    }
    if let Some(version) = tally.version {
        gauge!("cm3flow_version").set(f64::from(version));
    }
    if let Some((step, loss)) = tally.training {
        gauge!("cm3flow_training_step").set(step as f64);
        if let Some(loss) = loss {
            gauge!("cm3flow_training_loss").set(loss);
        }
        counter!("cm3flow_training_checkpoints_total").absolute(tally.checkpoints);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Event;

    #[test]
    fn what_is_rendered_is_what_was_told() {
        let progress = Progress::silent();
        let exporter = Exporter::new(&progress);
        progress.expect_samples(7);
        progress.tell(Event::TrainingStep { step: 3, steps: 9, loss: Some(1.5), gradient_norm: 1.0 });
        let text = exporter.render();
        for wanted in [
            "# TYPE cm3flow_windows_total counter",
            "cm3flow_samples_expected 7",
            "cm3flow_training_step 3",
            "cm3flow_training_loss 1.5",
            r#"cm3flow_samples_total{outcome="kept"} 0"#,
        ] {
            assert!(text.lines().any(|line| line == wanted), "{wanted} is missing in\n{text}");
        }
        progress.tell(Event::TrainingStep { step: 4, steps: 9, loss: None, gradient_norm: 1.0 });
        assert!(exporter.render().contains("cm3flow_training_step 4"), "numbers are those of the scrape");
    }
}
