//! Reader as a Python class. It belongs to the process that made it: in a forked child it is useless, but harmless.

use std::mem::ManuallyDrop;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use arrow_schema::SchemaRef;
use cm3flow_schemas::columns;
use cm3flow_schemas::vocabulary::Vocabulary;
use cm3flow_stages::StageError;
use cm3flow_stages::read::{
    BatchReader, FollowFeed, Location, MixReader, MixState, Origin, PublishedVersion, RowBatch, Schedule, SourceInput, WindowFeed,
};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};

use crate::error::raised;
use crate::gather::{Tables, stored, views, widened};
use crate::options::{Options, Start};

/// Number of threads that fetch blocks of remote sources.
const FETCHERS: usize = 2;
/// Interval of checks for signals during a wait for a batch.
const SIGNALS: Duration = Duration::from_millis(100);

/// Reader of the batches of one rank and worker.
#[pyclass]
pub(crate) struct Reader {
    /// Never contended: Python passes it to one method at a time.
    inner: ManuallyDrop<Mutex<Inner>>,
    process: u32,
}

struct Inner {
    // Dropped before the runtime, so that fetches end first.
    batches: BatchReader,
    runtime: Runtime,
}

/// Tokens, segments, weights, documents and state of a batch, and `true` if it is known to be the last one of the pass.
type Parts<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>, String, bool);

#[pymethods]
impl Reader {
    /// Opens the versions; `options` and `start` are JSON.
    #[new]
    fn new(py: Python<'_>, options: &str, start: &str) -> PyResult<Self> {
        let (options, start) = (Options::parse(options)?, Start::parse(start)?);
        let inner = py.detach(|| Inner::open(options, &start))?;
        Ok(Self { inner: ManuallyDrop::new(Mutex::new(inner)), process: std::process::id() })
    }

    /// Returns the next batch, or `None` at the end. `form` is that of its tokens: `"int64"` or `"stored"` for one array, `"views"` for
    /// views of the rows in their blocks.
    fn next<'py>(&mut self, py: Python<'py>, form: &str) -> PyResult<Option<Parts<'py>>> {
        let inner = self.own()?;
        let Some(RowBatch { rows, state, is_last }) = py.detach(|| inner.next())? else { return Ok(None) };
        let (segments, weights, documents) = Tables::of(&rows).into_arrays(py)?;
        let tokens = match form {
            "int64" => widened(py, &rows)?.into_any(),
            "stored" => stored(py, &rows)?,
            _ => views(py, rows)?.into_any(),
        };
        Ok(Some((tokens, segments.into_any(), weights.into_any(), documents.into_any(), to_json(&state), is_last)))
    }

    /// Returns the present pass, once the first batch was requested; `None` for a reader without end.
    fn epoch(&mut self) -> PyResult<Option<u64>> {
        Ok(self.own()?.batches.pass())
    }

    /// Returns the histogram of batches by waiting time, as JSON.
    fn stalls(&mut self) -> PyResult<String> {
        Ok(serde_json::to_string(self.own()?.batches.stalls()).expect("numbers"))
    }
}

impl Reader {
    fn own(&mut self) -> PyResult<&mut Inner> {
        if self.process != std::process::id() {
            return Err(PyRuntimeError::new_err("this reader belongs to another process; open one here"));
        }
        Ok(self.inner.get_mut().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Reader {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // A forked child lacks the threads that the runtime would wait for.
        if self.process == std::process::id() {
            // SAFETY: nothing uses it afterwards.
            unsafe { ManuallyDrop::drop(&mut self.inner) };
        }
    }
}

impl Inner {
    fn open(options: Options, start: &Start) -> PyResult<Self> {
        let locations = options.sources.iter().map(|(_, address)| Location::open(address, &options.store));
        let locations = locations.collect::<Result<Vec<_>, _>>().map_err(raised)?;
        let needs_threads = options.follow.is_some() || locations.iter().any(|location| matches!(location.origin, Origin::Store(_)));
        let runtime = runtime(needs_threads)?;
        let names: Vec<String> = options.sources.iter().map(|(name, _)| name.clone()).collect();
        let schedule = Schedule::try_new(names.clone(), &options.phases, options.seed).map_err(raised)?;
        let opened = runtime.block_on(async {
            let mut opened = Vec::new();
            for location in &locations {
                opened.push(Opened::open(location, &options).await?);
            }
            Ok::<_, StageError>(opened)
        });
        let opened = opened.map_err(raised)?;
        check_alike(&names, &opened)?;
        let inputs = opened.into_iter().zip(locations).map(|(opened, location)| SourceInput {
            schema: opened.schema,
            feed: opened.feed,
            origin: location.origin,
            split: options.split,
            limits: options.limits,
        });
        let mix = MixReader::new(inputs.collect(), schedule, runtime.handle());
        let mut batches = BatchReader::try_new(mix, options.slice, options.end, runtime.handle().clone()).map_err(raised)?;
        start.apply(&mut batches)?;
        Ok(Self { batches, runtime })
    }

    /// Returns the next batch. Signals end the wait.
    fn next(&mut self) -> PyResult<Option<RowBatch>> {
        let Self { batches, runtime } = self;
        let read = runtime.block_on(async {
            let mut read = std::pin::pin!(batches.read());
            loop {
                match tokio::time::timeout(SIGNALS, &mut read).await {
                    Ok(batch) => return batch.map_err(raised),
                    Err(_) => Python::attach(|py| py.check_signals())?,
                }
            }
        });
        if read.is_err() {
            self.batches.undo().map_err(raised)?;
        }
        read
    }
}

/// Facts of a source that are needed before it is read.
struct Opened {
    feed: Box<dyn WindowFeed>,
    schema: SchemaRef,
    /// `None` for a version in the making.
    vocabulary: Option<Vocabulary>,
}

impl Opened {
    async fn open(location: &Location, options: &Options) -> Result<Self, StageError> {
        if let Some(times) = options.follow {
            let mut feed = FollowFeed::open(location, times).await?;
            let schema = feed.schema(options.split).await?;
            return Ok(Self { feed: Box::new(feed), schema, vocabulary: None });
        }
        let version = PublishedVersion::open(location).await?;
        let manifest = &version.manifest;
        let schema = columns::pack(manifest.seq_len as usize, manifest.vocabulary.width());
        Ok(Self { feed: Box::new(version.feed()), schema, vocabulary: Some(manifest.vocabulary.clone()) })
    }
}

/// Checks that mixed sources have packs of one length over one vocabulary.
fn check_alike(names: &[String], opened: &[Opened]) -> PyResult<()> {
    let (Some(name), Some(first)) = (names.first(), opened.first()) else { return Ok(()) };
    for (other, source) in names.iter().zip(opened) {
        if source.schema != first.schema {
            let [a, b] = [first, source].map(|opened| opened.schema.field(0).data_type());
            return Err(PyValueError::new_err(format!("packs of {name} are {a}, those of {other} {b}; they cannot be mixed")));
        }
        if let (Some(a), Some(b)) = (&first.vocabulary, &source.vocabulary)
            && a != b
        {
            return Err(PyValueError::new_err(format!("{name} and {other} have different vocabularies; they cannot be mixed")));
        }
    }
    Ok(())
}

/// Returns dataset, version, `seq_len`, vocabulary and packs of the split of a published version, in total and of each variant, as JSON.
#[pyfunction]
pub(crate) fn describe(py: Python<'_>, options: &str, source: usize) -> PyResult<String> {
    let options = Options::parse(options)?;
    py.detach(|| {
        let location = Location::open(&options.sources[source].1, &options.store).map_err(raised)?;
        let manifest = runtime(false)?.block_on(PublishedVersion::open(&location)).map_err(raised)?.manifest;
        let statistics = manifest.statistics.get(options.split.name()).cloned().unwrap_or_default();
        let packs = statistics.packs;
        let variant_packs = if statistics.variant_packs.is_empty() { vec![packs] } else { statistics.variant_packs };
        let described = serde_json::json!({
            "dataset": manifest.dataset, "version": manifest.version, "seq_len": manifest.seq_len, "vocabulary": manifest.vocabulary,
            "packs": packs, "variant_packs": variant_packs,
        });
        Ok(described.to_string())
    })
}

/// Returns the number of batches of each rank in the whole pass that begins at `start`; `None` for a reader without end.
#[pyfunction]
pub(crate) fn pass_batches(py: Python<'_>, options: &str, start: &str) -> PyResult<Option<u64>> {
    let (options, start) = (Options::parse(options)?, Start::parse(start)?);
    py.detach(|| {
        let mut inner = Inner::open(options, &start)?;
        inner.runtime.block_on(inner.batches.pass_batches()).map_err(raised)
    })
}

/// Builds a runtime on this thread alone, or one with threads that fetch.
fn runtime(needs_threads: bool) -> PyResult<Runtime> {
    let mut builder = if needs_threads { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    let built = builder.worker_threads(FETCHERS).thread_name("cm3flow-read").enable_all().build();
    built.map_err(|error| PyOSError::new_err(format!("cannot start the reader: {error}")))
}

fn to_json(state: &MixState) -> String {
    serde_json::to_string(state).expect("numbers and names")
}
