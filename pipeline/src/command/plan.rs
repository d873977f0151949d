//! `plan`.

use std::fmt::Write;

use clap::Args;
use serde_json::json;

use super::{ConfigArgs, Session, output};
use crate::artefact;
use crate::catalog::Published;
use crate::error::Result;
use crate::plan::Plan;
use crate::plan::estimate::{SegmentEstimate, estimate};
use crate::source::scan::{Scan, scan_sources};

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Takes at most so many samples
    #[arg(long, value_name = "SAMPLES")]
    limit: Option<u64>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn plan(args: &PlanArgs, session: &Session) -> Result<()> {
    let job = args.config.open_for_a_look(session)?;
    let (config, latest) = (&job.config, Published::latest(&job.catalog()).await?);
    let scan = scan_sources(&job, latest.as_ref(), args.limit).await?;
    let Some(artefacts) = artefact::pinned(&job).await? else {
        let windows = scan.units.len().div_ceil(config.window.units as usize);
        if args.json {
            output::print(&json!({"event": "plan", "samples": scan.samples(), "source_bytes": scan.bytes, "left_alone": scan.left, "units": scan.units.len(), "windows": windows, "fitted": false}).to_string());
        } else {
            let mut out = sources(&scan);
            let _ = writeln!(out, "windows    {windows}");
            let _ = writeln!(
                out,
                "to fit     tokenizers and tables, on the first {} train samples; units are named once they are fitted",
                config.fit.max_samples
            );
            output::print(&out);
        }
        return Ok(());
    };
    let plan = Plan::make(&job, &artefacts, latest.as_ref(), &scan).await?;
    let segments = estimate(&job, &plan).await?;
    if args.json {
        let plan = json!({
            "event": "plan",
            "samples": scan.samples(),
            "source_bytes": scan.bytes,
            "left_alone": scan.left,
            "units": scan.units.len(),
            "windows": plan.windows.len(),
            "fitted": true,
            "version": plan.resulting_version(),
            "base": plan.base,
            "is_published": plan.is_published,
            "removed": plan.drift.removed,
            "changed": plan.drift.changed,
            "segments": segments,
            "latest_packing": latest.as_ref().map(|latest| &latest.manifest.statistics),
        });
        output::print(&plan.to_string());
    } else {
        let mut out = table(&scan, &plan, &segments);
        if let Some(Published { manifest, .. }) = &latest {
            let _ = writeln!(out, "\npacks of version {}, {} tokens each", manifest.version, manifest.seq_len);
            for line in output::packing(manifest) {
                let _ = writeln!(out, "  {line}");
            }
        }
        output::print(&out);
    }
    Ok(())
}

fn sources(scan: &Scan) -> String {
    let mut out = format!("sources    {} samples in {} units, {}\n", scan.samples(), scan.units.len(), output::bytes(scan.bytes));
    for line in scan.left_lines() {
        let _ = writeln!(out, "           {line}");
    }
    out
}

fn table(scan: &Scan, plan: &Plan, segments: &[SegmentEstimate]) -> String {
    let mut out = sources(scan);
    let base = plan.base.map(|base| format!(", goes on from version {base}")).unwrap_or_default();
    if let Some(segment) = plan.made_anew_from {
        let _ = writeln!(
            out,
            "           made anew: settings from {} on are others than those of version {}",
            segment.name(),
            plan.version - 1
        );
    }
    if plan.is_published {
        let _ = writeln!(out, "version    {} is published, nothing to do", plan.resulting_version());
    } else {
        let _ = writeln!(out, "version    {} of {} windows{base}", plan.version, plan.windows.len());
    }
    for line in plan.drift.lines(plan.base.unwrap_or(0)) {
        let _ = writeln!(out, "           {line}");
    }
    let _ = writeln!(out, "\n{:<10} {:>8} {:>8} {:>12} {:>16}", "segment", "there", "to make", "bytes there", "estimated bytes");
    for segment in segments {
        let (there, missing) = (output::bytes(segment.bytes_there), output::bytes(segment.bytes_missing));
        let _ = writeln!(out, "{:<10} {:>8} {:>8} {there:>12} {missing:>16}", segment.segment.name(), segment.there, segment.missing);
    }
    out
}
