//! `versions diff`.

use std::fmt::Write;

use clap::Args;
use serde_json::json;

use crate::catalog::VersionRef;
use crate::command::{ConfigArgs, Session, output};
use crate::error::Result;
use crate::versions::diff;
use crate::versions::diff::{Change, Changes, FieldChange, VersionDiff};

#[derive(Debug, Args)]
pub(in crate::command) struct DiffArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The first version, by number or tag
    #[arg(value_name = "A")]
    before: VersionRef,
    /// The second version, by number or tag; the latest by default
    #[arg(value_name = "B", default_value = "latest")]
    after: VersionRef,
    /// Samples that came, and samples that went, that are named
    #[arg(long, value_name = "SAMPLES", default_value_t = 10)]
    limit: usize,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn diff(args: &DiffArgs, session: &Session) -> Result<()> {
    let job = args.config.open_existing(session)?;
    let diff = diff::diff(&job.store, job.dataset(), &args.before, &args.after, args.limit).await?;
    output::print(&if args.json { json!(diff).to_string() } else { shown(&diff) });
    Ok(())
}

fn shown(diff: &VersionDiff) -> String {
    let mut out = format!(
        "{:<32} {:>14} {:>14} {:>14}\n",
        diff.dataset,
        format!("version {}", diff.before),
        format!("version {}", diff.after),
        "change"
    );
    rows(&mut out, "samples", &diff.samples);
    rows(&mut out, "samples refused", &diff.refused_samples);
    kept(&mut out, diff);
    rows(&mut out, "documents", &diff.documents);
    rows(&mut out, "documents refused", &diff.refused_documents);
    rows(&mut out, "packs", &diff.packs);
    tasks(&mut out, diff);
    for (name, source) in &diff.sources {
        row(&mut out, &format!("source {name}: units"), source.units);
        row(&mut out, &format!("source {name}: samples"), source.rows);
        let _ = writeln!(out, "  units of {name}: {} came, {} went", source.added_units, source.removed_units);
    }
    let windows = diff.windows;
    let _ = writeln!(out, "windows: {} shared, {} came, {} went", windows.shared, windows.added, windows.removed);
    rows(&mut out, "licence", &diff.licenses);
    fields(&mut out, "settings", &diff.settings);
    fields(&mut out, "vocabulary", &diff.vocabulary);
    out
}

fn kept(out: &mut String, diff: &VersionDiff) {
    let kept = &diff.kept_samples;
    let _ = writeln!(out, "kept samples: {} came, {} went", kept.added, kept.removed);
    for (sign, examples, count) in [('+', &kept.added_examples, kept.added), ('-', &kept.removed_examples, kept.removed)] {
        for id in examples {
            let _ = writeln!(out, "  {sign} {id}");
        }
        let more = count - examples.len() as u64;
        if more > 0 && !examples.is_empty() {
            let _ = writeln!(out, "  {sign} and {more} more");
        }
    }
}

fn tasks(out: &mut String, diff: &VersionDiff) {
    for task in &diff.tasks {
        let of = |what: &str| format!("{} {}: {what}", task.split, task.task);
        row(out, &of("documents"), task.documents);
        row(out, &of("text tokens"), task.text_tokens);
        row(out, &of("image tokens"), task.image_tokens);
        row(out, &of("control tokens"), task.control_tokens);
        row(out, &of("retrieved"), task.retrieved);
    }
}

fn rows(out: &mut String, group: &str, changes: &Changes) {
    for (name, change) in changes {
        row(out, &format!("{group}: {name}"), *change);
    }
}

fn row(out: &mut String, name: &str, change: Change) {
    let difference = match change.difference() {
        0 => "-".to_owned(),
        difference => format!("{difference:+}"),
    };
    let _ = writeln!(out, "{:<32} {:>14} {:>14} {difference:>14}", output::one_line(name), change.before, change.after);
}

fn fields(out: &mut String, what: &str, changes: &[FieldChange]) {
    if changes.is_empty() {
        let _ = writeln!(out, "{what}: the same");
        return;
    }
    let _ = writeln!(out, "{what}: {} fields differ", changes.len());
    let value = |value: &Option<String>| output::one_line(value.as_deref().unwrap_or("(none)"));
    for change in changes {
        let _ = writeln!(out, "  {}: {} -> {}", output::one_line(&change.field), value(&change.before), value(&change.after));
    }
}
