//! `versions withdraw`.

use std::fmt::Write;

use clap::Args;
use serde_json::json;

use crate::command::output::{one_line, print};
use crate::command::{ConfigArgs, Session};
use crate::error::Result;
use crate::versions::withdraw;
use crate::versions::withdraw::{FormerState, Near, Request, Why, Withdrawal, WithdrawnSample};

#[derive(Debug, Args)]
pub(in crate::command) struct WithdrawArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    named: NamedArgs,
    /// Takes copies along: a main image of the same bytes, or one with this inner product of embeddings or more, 0 to 1, and enough equal
    /// codes; `off` takes the named samples alone
    #[arg(long, value_name = "THRESHOLD|off", default_value_t)]
    near: Near,
    /// Shows what would be withdrawn, and writes nothing
    #[arg(long)]
    dry_run: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// Samples to withdraw; each option may be given several times
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct NamedArgs {
    /// A sample by its id, or a beginning that no other one has
    #[arg(long, value_name = "ID")]
    sample: Vec<String>,
    /// All samples with this main image, by the image's id or such a beginning
    #[arg(long, value_name = "ID")]
    image: Vec<String>,
    /// A sample by its source and its key there
    #[arg(long, value_name = "SOURCE/KEY")]
    key: Vec<String>,
}

pub(super) async fn withdraw(args: &WithdrawArgs, session: &Session) -> Result<()> {
    let job = args.config.open_existing(session)?;
    let NamedArgs { sample, image, key } = &args.named;
    let request = Request { samples: sample.clone(), images: image.clone(), keys: key.clone(), near: args.near, dry_run: args.dry_run };
    let withdrawal = withdraw::withdraw(&job, &request).await?;
    if args.json {
        print(&json!(withdrawal).to_string())
    } else {
        print(&shown(&withdrawal))
    }
    Ok(())
}

fn shown(withdrawal: &Withdrawal) -> String {
    let mut out = String::new();
    for sample in &withdrawal.already_withdrawn {
        let _ = writeln!(out, "sample     {sample}  had been withdrawn before");
    }
    if withdrawal.nothing_to_do() {
        let _ = writeln!(out, "nothing to do: version {} of {} holds nothing of them", withdrawal.base, withdrawal.dataset);
        return out;
    }
    for WithdrawnSample { sample_id, source, key, was, why, .. } in &withdrawal.samples {
        let _ = writeln!(out, "sample     {sample_id}  {}/{}  {}, {}", one_line(source), one_line(key), was_before(*was), because(why));
    }
    let documents = withdrawal.documents;
    let _ = writeln!(out, "documents  {} made of them, {} that had retrieved one of them", documents.own, documents.retrieved);
    let (packs, empty, shards) = (withdrawal.packs, withdrawal.empty_packs, withdrawal.shards);
    let _ = writeln!(out, "packs      {packs} with new holes, {empty} of them empty now; {shards} shards written anew");
    let _ = match withdrawal.version {
        Some(version) => writeln!(
            out,
            "version    {version} of {} is published without them; versions up to {} hold them until `versions gc` removes those",
            withdrawal.dataset, withdrawal.base
        ),
        None => writeln!(out, "nothing is written; without --dry-run this is version {} of {}", withdrawal.base + 1, withdrawal.dataset),
    };
    out
}

const fn was_before(state: FormerState) -> &'static str {
    match state {
        FormerState::Kept => "was kept",
        FormerState::Duplicate => "was a duplicate",
        FormerState::Refused => "was refused",
    }
}

fn because(why: &Why) -> String {
    match why {
        Why::Named => "asked for".into(),
        Why::SameImage => "has the same image".into(),
        Why::Near(likeness) => {
            format!("is nearly the same: similarity {:.4}, {:.0} % of codes equal", likeness.similarity, likeness.equal_codes * 100.0)
        }
    }
}
