//! What is logged, and how: `--log-format`, `CM3FLOW_LOG`.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// Form of the log on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line, with the fields of the run, window, unit and stage that it belongs to
    Json,
}

/// Begins to log to standard error. What is logged is named by `CM3FLOW_LOG`, as `info` or `cm3flow=debug`; warnings by default.
pub(super) fn begin(format: LogFormat) {
    let filter = EnvFilter::try_from_env("CM3FLOW_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().flatten_event(true).with_current_span(false).with_span_list(true).init(),
    }
}
