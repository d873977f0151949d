//! Log of a command: its form (`--log-format`) and its filter (`CM3FLOW_LOG`).

use std::fmt;
use std::io::{IsTerminal, stderr};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// Form of the log on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line, with the fields of the run, window, unit and stage that it belongs to
    Json,
}

impl fmt::Display for LogFormat {
    /// Writes the name that the command line uses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Begins to log to standard error, unless the surrounding program already logs. `CM3FLOW_LOG` sets the filter, as `info` or
/// `cm3flow=debug`; warnings by default.
pub(super) fn begin(format: LogFormat) {
    let filter = EnvFilter::try_from_env("CM3FLOW_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    // Colours help people at a terminal; in a file they are noise.
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(stderr().is_terminal()).with_writer(stderr);
    // The only error is that a subscriber is set already.
    let _ = match format {
        LogFormat::Text => subscriber.finish().try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).with_current_span(false).with_span_list(true).finish().try_init(),
    };
}
