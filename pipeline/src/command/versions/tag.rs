//! `versions tag`.

use clap::Args;
use serde_json::json;

use crate::catalog::{TagName, VersionRef};
use crate::command::{ConfigArgs, Session, output};
use crate::error::Result;

#[derive(Debug, Args)]
pub(in crate::command) struct TagArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Name of the tag; without one, all tags are listed
    name: Option<TagName>,
    /// Version that it names from now on, by number or another tag; the latest by default
    #[arg(conflicts_with = "remove")]
    version: Option<VersionRef>,
    /// Removes the tag; the version stays
    #[arg(long, requires = "name")]
    remove: bool,
    /// Prints JSON: one object a line for a list
    #[arg(long)]
    json: bool,
}

pub(super) async fn tag(args: &TagArgs, session: &Session) -> Result<()> {
    let job = args.config.open_existing(session)?;
    let catalog = job.catalog();
    let Some(name) = &args.name else {
        for tag in catalog.tags().await? {
            output::print(&if args.json { json!(tag).to_string() } else { format!("{:<24} {}", tag.tag, tag.version) });
        }
        return Ok(());
    };
    let (version, done) = if args.remove {
        (catalog.remove_tag(name).await?, "no longer names")
    } else {
        let version = catalog.number_of(args.version.as_ref()).await?;
        catalog.tag(name, version).await?;
        (version, "names")
    };
    output::print(&if args.json {
        json!({"tag": name.as_str(), "version": version, "removed": args.remove}).to_string()
    } else {
        format!("{name} {done} version {version}")
    });
    Ok(())
}
