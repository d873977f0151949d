//! Output of commands on standard output.

use std::fmt::Write;
use std::io::Write as _;

use cm3flow_schemas::sample::Split;
use cm3flow_schemas::version::VersionManifest;

use crate::run::RunOutcome;
use crate::store::Store;
use crate::terminal::printable;

/// Prints to standard output. A reader that went away is no error.
pub(super) fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", printable(text.trim_end_matches('\n')));
}

/// Formats the summary at the end of a run.
pub(super) fn summary(outcome: &RunOutcome, store: &Store) -> String {
    let manifest = &outcome.manifest;
    let mut out = String::new();
    if outcome.nothing_to_do() {
        let _ = writeln!(out, "nothing to do: version {} of {} holds everything that the sources hold", manifest.version, manifest.dataset);
    }
    let there = if outcome.was_published { " (was there)" } else { "" };
    let _ = writeln!(out, "version    {} of {}{there}", manifest.version, manifest.dataset);
    let _ = writeln!(out, "samples    {}", manifest.samples);
    for line in manifest.samples.dropped_lines() {
        let _ = writeln!(out, "           {line}");
    }
    let _ = writeln!(out, "documents  {}", manifest.documents);
    let _ = writeln!(out, "fill rate  {}", fill_rates(manifest));
    if let Some(training) = &outcome.training {
        let there = if outcome.was_trained { " (was there)" } else { "" };
        let _ = writeln!(out, "checkpoint {}, step {}{there}", training.checkpoint, training.step);
        if let Some((first, last)) = training.first_and_last_loss() {
            let _ = writeln!(out, "loss       first {first:.3}, last {last:.3} nats per token");
        }
    }
    let _ = writeln!(out, "store      {}", store.address());
    if let Some(report) = &outcome.report {
        let _ = writeln!(out, "report     {}/{report}", store.address().trim_end_matches('/'));
    }
    out
}

/// Formats the fill rate of each split.
pub(super) fn fill_rates(manifest: &VersionManifest) -> String {
    let of = |split: Split| {
        let statistics = manifest.statistics.get(split.name())?;
        let variants = match statistics.variant_packs.len() {
            0 => String::new(),
            several => format!(" in {several} variants"),
        };
        let rate = statistics.fill_rate() * 100.0;
        (statistics.packs > 0).then(|| format!("{} {rate:.2} % of {} packs{variants}", split.name(), statistics.packs))
    };
    Split::ALL.into_iter().filter_map(of).collect::<Vec<_>>().join(", ")
}

/// Formats the limits of the fill rate, a line for each split: the fewest packs that its documents need, and a better `seq_len`.
pub(super) fn packing(manifest: &VersionManifest) -> Vec<String> {
    let of = |split: Split| {
        let statistics = manifest.statistics.get(split.name()).filter(|statistics| statistics.least_packs > 0)?;
        let mut line = format!(
            "{}: {} packs, no packing of these documents needs fewer than {}",
            split.name(),
            statistics.packs,
            statistics.least_packs
        );
        if let Some((seq_len, rate)) = statistics.best_seq_len().filter(|(seq_len, _)| *seq_len != manifest.seq_len) {
            let _ = write!(line, "; seq_len = {seq_len} would fill {:.2} %", rate * 100.0);
        }
        Some(line)
    };
    Split::ALL.into_iter().filter_map(of).collect()
}

/// Formats a number of bytes with a binary unit.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Puts text from data into one line: an entry of a listing must not look like several.
pub(super) fn one_line(text: &str) -> String {
    text.split('\n').collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn escape_codes_are_shown_and_not_obeyed() {
        assert_eq!(super::printable("a\u{1b}[2J\nb\u{202e}"), "a\u{fffd}[2J\nb\u{fffd}");
    }

    #[test]
    fn bytes_are_rounded_to_one_digit() {
        let shown = [0, 1023, 1024, 1536, 5 << 30].map(super::bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 GiB"]);
    }
}
