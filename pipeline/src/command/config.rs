//! `config`: what a configuration may hold, for people and for editors.

use clap::Args;

use super::output;
use crate::config::{reference, schema};

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct DescribeArgs {
    /// Prints the reference of every field, as Markdown
    #[arg(long)]
    reference: bool,
    /// Prints the JSON Schema of a configuration, for editors: `#:schema ./cm3flow.schema.json` in the first line names its file
    #[arg(long)]
    schema: bool,
}

pub(super) fn describe(args: &DescribeArgs) {
    if args.reference {
        output::print(&reference());
    } else {
        output::print(&format!("{:#}\n", schema()));
    }
}
