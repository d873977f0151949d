//! Stages, the one abstraction of the pipeline, and chains of them.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::SchemaError;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tracing::{Instrument, Span};

use crate::channel::{BatchSender, BatchStream, ChannelLimits, channel};
use crate::error::{Result, StageError};
use crate::meter::StageMeter;

/// One step of the pipeline: turns a stream of record batches into another.
///
/// Contract, run for every implementation by `conformance::check_stage`:
/// 1. every batch sent has exactly the schema of [`Stage::output_schema`];
/// 2. when `input` ends, `run` sends what it still buffers and returns `Ok(())`;
/// 3. the rows sent do not depend on where `input` was cut into batches;
/// 4. a row with a `refusal` passes untouched, and a row that cannot be processed gets one.
pub trait Stage: Send + 'static {
    /// Verb in snake_case: metric label, span name and error context.
    fn name(&self) -> &'static str;

    /// Returns the schema sent for `input`.
    ///
    /// # Errors
    /// The first missing or mistyped column.
    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError>;

    /// Runs until `input` ends. A closed `out` surfaces as [`StageError::DownstreamClosed`].
    fn run(self: Box<Self>, input: BatchStream, out: BatchSender) -> BoxFuture<'static, Result<()>>;
}

/// A stage without input, from which rows come.
pub trait Source: Send + 'static {
    /// Verb in snake_case, as [`Stage::name`].
    fn name(&self) -> &'static str;

    /// Returns the schema of every batch sent.
    fn output_schema(&self) -> SchemaRef;

    /// Sends all rows. A closed `out` surfaces as [`StageError::DownstreamClosed`].
    fn run(self: Box<Self>, out: BatchSender) -> BoxFuture<'static, Result<()>>;
}

/// The code of a stage, as the keys of units name it.
pub trait Revised {
    /// Name of the stage, as [`Stage::name`] returns it.
    const NAME: &'static str;
    /// Revision of its code: raised when the same input gives another output.
    const REVISION: u32;
}

/// A step that works on each batch by itself; [`Map`] makes it a [`Stage`].
pub trait Transform: Revised + Send + 'static {
    /// Returns the schema sent for `input`, as [`Stage::output_schema`].
    ///
    /// # Errors
    /// The first missing or mistyped column.
    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError>;

    /// Transforms one batch. Runs on a blocking thread.
    ///
    /// # Errors
    /// Only failures that stop the whole stage; a bad row gets a refusal.
    fn transform(&mut self, batch: RecordBatch) -> Result<RecordBatch>;
}

/// A [`Transform`] as a [`Stage`]. Keeps the order of batches.
#[derive(Debug)]
pub struct Map<T>(pub T);

impl<T: Revised> Revised for Map<T> {
    const NAME: &'static str = T::NAME;
    const REVISION: u32 = T::REVISION;
}

impl<T: Transform> Stage for Map<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError> {
        self.0.output_schema(input)
    }

    fn run(self: Box<Self>, input: BatchStream, out: BatchSender) -> BoxFuture<'static, Result<()>> {
        async move {
            let mut transform = self.0;
            while let Some(batch) = input.next().await {
                let span = Span::current();
                let worked = tokio::task::spawn_blocking(move || {
                    let batch = span.in_scope(|| transform.transform(batch));
                    (transform, batch)
                });
                let (returned, batch) = worked.await.map_err(|source| StageError::Task { stage: T::NAME, source })?;
                transform = returned;
                out.send(batch?).await?;
            }
            Ok(())
        }
        .boxed()
    }
}

/// Input of a chain.
pub enum Head {
    /// A source that makes the rows.
    Source(Box<dyn Source>),
    /// Batches in memory, all of the given schema.
    Batches(SchemaRef, Vec<RecordBatch>),
}

/// Stages that run concurrently, each in a task of its own, connected by bounded channels.
pub struct Chain {
    head: Head,
    stages: Vec<Box<dyn Stage>>,
}

impl Chain {
    /// Returns a chain that starts with `head`.
    #[must_use]
    pub fn new(head: Head) -> Self {
        Self { head, stages: Vec::new() }
    }

    /// Appends a stage.
    #[must_use]
    pub fn then(mut self, stage: impl Stage) -> Self {
        self.stages.push(Box::new(stage));
        self
    }

    /// Appends a transform.
    #[must_use]
    pub fn map(self, transform: impl Transform) -> Self {
        self.then(Map(transform))
    }

    /// Names of its stages, in order.
    pub fn stages(&self) -> impl Iterator<Item = &'static str> {
        self.stages.iter().map(|stage| stage.name())
    }

    /// Returns the schema that the last stage sends.
    ///
    /// # Errors
    /// [`StageError::Schema`] with the stage that lacks a column.
    pub fn output_schema(&self) -> Result<SchemaRef> {
        let mut schema = match &self.head {
            Head::Source(source) => source.output_schema(),
            Head::Batches(schema, _) => Arc::clone(schema),
        };
        for stage in &self.stages {
            schema = stage.output_schema(&schema).map_err(|source| StageError::Schema { stage: stage.name(), source })?;
        }
        Ok(schema)
    }

    /// Runs the chain, and passes each batch of the last stage to `sink`, in order. Schemas are checked before anything runs.
    ///
    /// # Errors
    /// The error of the failed stage, or of `sink`.
    pub async fn run(self, limits: &ChannelLimits, meters: &Meters, mut sink: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        self.output_schema()?;
        let names: Vec<&'static str> = self.stages().collect();
        let end = Arc::new(StageMeter::new("sink"));
        let meter_behind = |index: usize| names.get(index).map_or_else(|| Arc::clone(&end), |name| meters.of(name));
        let mut tasks = JoinSet::new();

        let (head_name, head_meter) = match &self.head {
            Head::Source(source) => (source.name(), meters.of(source.name())),
            Head::Batches(..) => ("input", Arc::new(StageMeter::new("input"))),
        };
        let (out, mut stream) = channel(limits, &head_meter, &meter_behind(0));
        let running = match self.head {
            Head::Source(source) => source.run(out),
            Head::Batches(_, batches) => send_all(batches, out).boxed(),
        };
        tasks.spawn(metered(head_meter, head_name, running).instrument(stage_span(head_name)));
        for (index, stage) in self.stages.into_iter().enumerate() {
            let meter = meters.of(stage.name());
            let (out, next) = channel(limits, &meter, &meter_behind(index + 1));
            let name = stage.name();
            tasks.spawn(metered(meter, name, stage.run(stream, out)).instrument(stage_span(name)));
            stream = next;
        }

        let mut sunk = Ok(());
        while let Some(batch) = stream.next().await {
            sunk = sink(batch);
            if sunk.is_err() {
                break;
            }
        }
        drop(stream);
        join(tasks).await?;
        sunk
    }
}

/// The span has the highest level, so that log lines of any level name their stage.
fn stage_span(stage: &'static str) -> Span {
    tracing::error_span!("stage", stage)
}

async fn send_all(batches: Vec<RecordBatch>, out: BatchSender) -> Result<()> {
    for batch in batches {
        out.send(batch).await?;
    }
    Ok(())
}

async fn metered(meter: Arc<StageMeter>, name: &'static str, running: BoxFuture<'static, Result<()>>) -> (&'static str, Result<()>) {
    let start = Instant::now();
    let result = running.await;
    meter.add_running(start.elapsed());
    (name, result)
}

/// Waits for all tasks. Returns the first error that is not a mere consequence of another one.
async fn join(mut tasks: JoinSet<(&'static str, Result<()>)>) -> Result<()> {
    let mut first = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let result = match ended {
            Ok((_, result)) => result,
            Err(source) => Err(StageError::Task { stage: "chain", source }),
        };
        let is_consequence = matches!(result, Err(StageError::DownstreamClosed));
        if result.is_err() && (first.is_ok() || matches!(first, Err(StageError::DownstreamClosed))) && !(is_consequence && first.is_err()) {
            first = result;
        }
    }
    match first {
        // Only a sink that stopped early leaves nothing but closed channels; it reports its own error.
        Err(StageError::DownstreamClosed) => Ok(()),
        other => other,
    }
}

/// Meters of a run, by stage. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Meters(Arc<std::sync::Mutex<Vec<Arc<StageMeter>>>>);

impl Meters {
    /// Returns the meter of `stage`, which is made on first use.
    #[must_use]
    pub fn of(&self, stage: &'static str) -> Arc<StageMeter> {
        let mut meters = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(meter) = meters.iter().find(|meter| meter.stage == stage) {
            return Arc::clone(meter);
        }
        let meter = Arc::new(StageMeter::new(stage));
        meters.push(Arc::clone(&meter));
        meter
    }

    /// The meter of the stage that another process calls `name`.
    #[must_use]
    pub fn named(&self, name: &str) -> Arc<StageMeter> {
        match self.all().into_iter().find(|meter| meter.stage == name) {
            Some(meter) => meter,
            // Stages are few, and meters stay as long as the process.
            None => self.of(name.to_owned().leak()),
        }
    }

    /// Returns all meters, in the order of first use.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<StageMeter>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use arrow::array::{AsArray, UInt64Array};
    use arrow::datatypes::{DataType, Field, Schema, UInt64Type};

    use super::*;
    use crate::budget::ByteBudget;

    /// Transform that adds `step` to every number; it fails or panics at a number.
    #[derive(Clone, Copy, Default)]
    struct Add {
        step: u64,
        fails_at: Option<u64>,
        panics_at: Option<u64>,
    }

    impl Revised for Add {
        const NAME: &'static str = "add";
        const REVISION: u32 = 1;
    }

    impl Transform for Add {
        fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError> {
            cm3flow_schemas::rows::position(input, "n")?;
            Ok(Arc::clone(input))
        }

        fn transform(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
            let column = batch.column(0).as_primitive::<UInt64Type>();
            assert!(!column.values().iter().any(|n| Some(*n) == self.panics_at), "a panic for the test");
            if column.values().iter().any(|n| Some(*n) == self.fails_at) {
                return Err(StageError::NoPacks { split: "test" });
            }
            Ok(numbers("n", column.values().iter().map(|n| n + self.step)))
        }
    }

    fn schema(name: &str) -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new(name, DataType::UInt64, false)]))
    }

    fn numbers(name: &str, values: impl IntoIterator<Item = u64>) -> RecordBatch {
        RecordBatch::try_new(schema(name), vec![Arc::new(UInt64Array::from_iter_values(values))]).expect("one column")
    }

    fn hundred() -> Chain {
        Chain::new(Head::Batches(schema("n"), (0..100).map(|n| numbers("n", [n])).collect()))
    }

    async fn run(chain: Chain, sink: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        // With hardly any room, every stage waits for the next.
        let limits = ChannelLimits { max_batches: 1, budget: ByteBudget::new(1) };
        tokio::time::timeout(Duration::from_secs(20), chain.run(&limits, &Meters::default(), sink)).await.expect("the chain hangs")
    }

    #[tokio::test]
    async fn rows_pass_all_stages_in_order_and_are_counted() {
        let meters = Meters::default();
        let mut seen: Vec<u64> = Vec::new();
        let chain = hundred().map(Add { step: 1000, ..Add::default() }).map(Add { step: 1, ..Add::default() });
        let sink = |batch: RecordBatch| {
            seen.extend(batch.column(0).as_primitive::<UInt64Type>().values());
            Ok(())
        };
        chain.run(&ChannelLimits::default(), &meters, sink).await.expect("nothing fails");
        assert_eq!(seen, (1001..1101).collect::<Vec<_>>());
        let all = meters.all();
        assert_eq!(all.iter().map(|meter| (meter.stage, meter.rows_in(), meter.rows_out())).collect::<Vec<_>>(), [("add", 200, 200)]);
    }

    #[tokio::test]
    async fn the_error_of_a_stage_comes_out_and_not_what_follows_from_it() {
        for position in 0..3 {
            let mut chain = hundred();
            for stage in 0..3 {
                chain = chain.map(Add { fails_at: (stage == position).then_some(50), ..Add::default() });
            }
            let ended = run(chain, |_| Ok(())).await;
            assert!(matches!(ended, Err(StageError::NoPacks { split: "test" })), "{ended:?}");
        }
    }

    #[tokio::test]
    async fn the_error_of_the_sink_comes_out_and_stops_the_stages() {
        let rows = AtomicUsize::new(0);
        let sink = |_| if rows.fetch_add(1, Ordering::Relaxed) == 9 { Err(StageError::RunStopped { windows: 1 }) } else { Ok(()) };
        let ended = run(hundred().map(Add::default()), sink).await;
        assert!(matches!(ended, Err(StageError::RunStopped { windows: 1 })), "{ended:?}");
        assert_eq!(rows.load(Ordering::Relaxed), 10);
    }

    #[tokio::test]
    async fn a_stage_that_panics_is_an_error() {
        let ended = run(hundred().map(Add { panics_at: Some(50), ..Add::default() }).map(Add::default()), |_| Ok(())).await;
        assert!(matches!(ended, Err(StageError::Task { stage: "add", .. })), "{ended:?}");
    }

    #[tokio::test]
    async fn a_missing_column_is_named_before_anything_runs() {
        let chain = Chain::new(Head::Batches(schema("m"), vec![numbers("m", [1])])).map(Add::default());
        let ended = run(chain, |_| unreachable!("nothing runs")).await;
        assert!(matches!(ended, Err(StageError::Schema { stage: "add", source: SchemaError::MissingColumn { .. } })), "{ended:?}");
    }
}
