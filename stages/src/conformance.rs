//! Contract of [`Stage`], as a suite that the tests of every stage run.
//!
//! [`check_stage`] checks all rules on one input; [`cuts_do_not_matter`] is rule 3 alone, for property tests over rows and cuts.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use cm3flow_schemas::columns;
use cm3flow_schemas::random::Draws;
use proptest::prelude::*;

use crate::budget::ByteBudget;
use crate::channel::{ChannelLimits, channel};
use crate::error::{Result, StageError};
use crate::meter::StageMeter;
use crate::stage::Stage;

/// Number of random cuts in each check, beside the whole input and single rows.
const RANDOM_CUTS: u64 = 6;

/// Checks the contract on the rows of `input`, and returns the rows that the stage sends. `make` gives a fresh stage each time.
///
/// # Panics
/// If a rule is broken.
pub(crate) fn check_stage<S: Stage>(make: impl Fn() -> S, input: &RecordBatch) -> RecordBatch {
    let schema = make().output_schema(&input.schema()).expect("the fixture has the columns that the stage asks for");
    let expected = run(make(), cut(input, &[input.num_rows()])).expect("the stage accepts its input as one batch");
    let expected = concat_batches(&schema, &expected).expect("rule 1: every batch has the schema of output_schema");

    // Rule 3, and rules 1 and 2 on the way: `run` checks them for every batch.
    let single: Vec<usize> = vec![1; input.num_rows()];
    let mut draws = Draws::new(1, "conformance", make().name().as_bytes());
    let random = (0..RANDOM_CUTS).map(|_| (0..input.num_rows()).map(|_| draws.index(6)).collect());
    for sizes in std::iter::once(single).chain(random) {
        let sent = run(make(), cut(input, &sizes)).expect("the stage accepts its input in pieces");
        assert_eq!(concat_batches(&schema, &sent).expect("rule 1"), expected, "rule 3: cut into {sizes:?}");
    }

    // Rule 2 without any input.
    assert_eq!(run(make(), vec![]).expect("an empty input is no error").iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    check_refused_rows(input, &expected);
    check_closed_output(make(), input);
    expected
}

/// Checks the first half of rule 4: a refused row keeps its refusal, and the columns that the stage does not add stay the same.
fn check_refused_rows(input: &RecordBatch, output: &RecordBatch) {
    let (Some(before), true) = (input.column_by_name(columns::REFUSAL), output.column_by_name(columns::REFUSAL).is_some()) else { return };
    let refused = filter_record_batch(input, &is_refused(before)).expect("a filter of the same length");
    assert!(refused.num_rows() > 0, "rule 4 needs a fixture with a refused row");
    let id = if input.column_by_name(columns::DOCUMENT_ID).is_some() { columns::DOCUMENT_ID } else { columns::SAMPLE_ID };
    let known = text_column(&refused, id);
    let found: BooleanArray = text_column(output, id).iter().map(|id| Some(known.contains(id))).collect();
    let found = filter_record_batch(output, &found).expect("a filter of the same length");
    assert_eq!(found.num_rows(), refused.num_rows(), "rule 4: a refused row was lost or multiplied");
    for id_text in &known {
        let row = |batch: &RecordBatch| {
            let position = text_column(batch, id).iter().position(|other| other == id_text).expect("just counted");
            batch.slice(position, 1)
        };
        let (before, after) = (row(&refused), row(&found));
        for field in input.schema().fields() {
            if let Some(column) = after.column_by_name(field.name()) {
                assert_eq!(
                    column,
                    before.column_by_name(field.name()).expect("its own field"),
                    "rule 4: column {} of a refused row",
                    field.name()
                );
            }
        }
    }
}

/// Checks that a closed output surfaces as such, and does not hang.
fn check_closed_output<S: Stage>(stage: S, input: &RecordBatch) {
    let meter = Arc::new(StageMeter::new("test"));
    let batches = cut(input, &vec![1; input.num_rows()]);
    let ended = block_on(async move {
        let (sender, stream) = channel(&ChannelLimits::default(), &meter, &meter);
        let (out, closed) = channel(&ChannelLimits::default(), &meter, &meter);
        drop(closed);
        let feeding = tokio::spawn(async move {
            for batch in batches {
                if sender.send(batch).await.is_err() {
                    break;
                }
            }
        });
        let ended = tokio::time::timeout(Duration::from_secs(20), Box::new(stage).run(stream, out))
            .await
            .expect("the stage hangs on a closed output");
        feeding.await.expect("the feeder ends with the stage");
        ended
    });
    assert!(matches!(ended, Err(StageError::DownstreamClosed)), "a closed output must surface, got {ended:?}");
}

/// Runs `stage` over `batches`, and checks rule 1 for every batch that it sends.
///
/// # Errors
/// The error of the stage.
pub(crate) fn run<S: Stage>(stage: S, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
    let schema = batches.first().map(|batch| stage.output_schema(&batch.schema()).expect("the stage accepts the columns"));
    let meter = Arc::new(StageMeter::new("test"));
    block_on(async move {
        // Narrow channels make stages wait at both ends.
        let limits = ChannelLimits { max_batches: 1, budget: ByteBudget::new(64 << 10) };
        let (sender, stream) = channel(&limits, &meter, &meter);
        let (out, sent) = channel(&limits, &meter, &meter);
        let feeding = tokio::spawn(async move {
            for batch in batches {
                if sender.send(batch).await.is_err() {
                    break;
                }
            }
        });
        let working = tokio::spawn(Box::new(stage).run(stream, out));
        let mut collected = Vec::new();
        while let Some(batch) = sent.next().await {
            assert_eq!(Some(batch.schema()), schema, "rule 1: a batch has another schema than output_schema says");
            collected.push(batch);
        }
        feeding.await.expect("the feeder does not panic");
        working.await.expect("the stage does not panic")?;
        Ok(collected)
    })
}

/// Runs `stage` over one batch, and returns its rows as one batch.
///
/// # Panics
/// If the stage fails.
pub(crate) fn run_whole<S: Stage>(stage: S, input: &RecordBatch) -> RecordBatch {
    let schema = stage.output_schema(&input.schema()).expect("the stage accepts the columns");
    concat_batches(&schema, &run(stage, vec![input.clone()]).expect("the stage runs")).expect("one schema")
}

/// Cuts `batch` into pieces of `sizes` rows, repeated until the rows end; sizes of 0 give empty batches.
pub(crate) fn cut(batch: &RecordBatch, sizes: &[usize]) -> Vec<RecordBatch> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for &size in sizes {
        let size = size.min(batch.num_rows() - start);
        pieces.push(batch.slice(start, size));
        start += size;
    }
    if start < batch.num_rows() {
        pieces.push(batch.slice(start, batch.num_rows() - start));
    }
    pieces
}

/// Draws rows from a fixture of `rows` rows, with repetitions, and sizes of the pieces to cut them into.
pub(crate) fn rows_and_cuts(rows: usize) -> impl Strategy<Value = (Vec<u32>, Vec<usize>)> {
    (prop::collection::vec(0..rows as u32, 1..24), prop::collection::vec(0_usize..6, 0..24))
}

/// Checks rule 3 for one case of [`rows_and_cuts`].
///
/// # Errors
/// A failed case, which proptest shrinks.
pub(crate) fn cuts_do_not_matter<S: Stage>(
    make: impl Fn() -> S,
    fixture: &RecordBatch,
    (rows, sizes): &(Vec<u32>, Vec<usize>),
) -> Result<(), TestCaseError> {
    let input = rows_of(fixture, rows);
    let schema = make().output_schema(&input.schema()).expect("the stage accepts the columns");
    let of = |pieces| concat_batches(&schema, &run(make(), pieces).expect("the stage runs")).expect("one schema");
    prop_assert_eq!(of(vec![input.clone()]), of(cut(&input, sizes)));
    Ok(())
}

/// Returns the `rows` of `batch`, in that order.
pub(crate) fn rows_of(batch: &RecordBatch, rows: &[u32]) -> RecordBatch {
    take_record_batch(batch, &UInt32Array::from(rows.to_vec())).expect("rows of the fixture")
}

/// Returns the settings of a property test: few cases, since each runs a stage twice.
pub(crate) fn cases() -> ProptestConfig {
    ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() }
}

/// Formats a schema as a table: one line a field.
pub(crate) fn schema_table(schema: &Schema) -> String {
    let line = |field: &Arc<arrow::datatypes::Field>| {
        let null = if field.is_nullable() { "null" } else { "-" };
        format!("{:<18} {null:<5} {}", field.name(), field.data_type())
    };
    schema.fields().iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Formats the schema that `stage` sends for `input`, as [`schema_table`] does.
pub(crate) fn output_table(stage: &impl Stage, input: &SchemaRef) -> String {
    schema_table(&stage.output_schema(input).expect("the stage accepts the columns"))
}

/// Returns `true` for the rows that have a refusal.
pub(crate) fn is_refused(refusals: &dyn Array) -> BooleanArray {
    (0..refusals.len()).map(|row| Some(refusals.is_valid(row))).collect()
}

/// Returns the values of a text column.
pub(crate) fn text_column(batch: &RecordBatch, name: &str) -> Vec<String> {
    let column = batch.column_by_name(name).expect("a column of the fixture").as_string::<i32>();
    column.iter().map(|value| value.unwrap_or("(null)").to_owned()).collect()
}

/// Runs a future on a runtime of its own.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime").block_on(future)
}

/// The suite catches a stage that breaks the contract.
mod tests {
    use arrow::array::{ArrayRef, UInt64Array};
    use arrow::datatypes::DataType;
    use cm3flow_schemas::SchemaError;
    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;
    use crate::channel::{BatchSender, BatchStream};

    /// Stage that sends the number of rows of each batch, which rule 3 forbids.
    struct CountsBatches;

    impl Stage for CountsBatches {
        fn name(&self) -> &'static str {
            "counts_batches"
        }

        fn output_schema(&self, _: &SchemaRef) -> Result<SchemaRef, SchemaError> {
            Ok(Arc::new(Schema::new(vec![arrow::datatypes::Field::new("rows", DataType::UInt64, false)])))
        }

        fn run(self: Box<Self>, input: BatchStream, out: BatchSender) -> BoxFuture<'static, Result<()>> {
            async move {
                while let Some(batch) = input.next().await {
                    out.send(numbers("rows", [batch.num_rows() as u64])).await?;
                }
                Ok(())
            }
            .boxed()
        }
    }

    fn numbers(name: &'static str, values: impl IntoIterator<Item = u64>) -> RecordBatch {
        let column: ArrayRef = Arc::new(UInt64Array::from_iter_values(values));
        let schema = Schema::new(vec![arrow::datatypes::Field::new(name, DataType::UInt64, false)]);
        RecordBatch::try_new(Arc::new(schema), vec![column]).expect("one column")
    }

    #[test]
    #[should_panic(expected = "rule 3")]
    fn a_stage_that_depends_on_cuts_is_caught() {
        check_stage(|| CountsBatches, &numbers("n", 0..5));
    }

    #[test]
    fn cutting_keeps_all_rows_in_order() {
        let batch = numbers("n", 0..7);
        let pieces = cut(&batch, &[2, 0, 3]);
        assert_eq!(pieces.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [2, 0, 3, 2]);
        assert_eq!(concat_batches(&batch.schema(), &pieces).expect("one schema"), batch);
    }
}
