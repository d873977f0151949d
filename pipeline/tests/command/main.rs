//! The real command as its users meet it.

mod checkpoints;
mod disturbed;
mod inspect;
mod messages;
mod signals;
mod withdraw;

use std::path::Path;
use std::process::{Command, Output};

/// Settings of a quick job: the patch tokenizer, a small text tokenizer, short packs.
const PATCHES: &str =
    "[tokenize.image]\nkind = \"patches\"\nside_px = 64\ncodes = 32\n[tokenize.text]\nvocabulary_size = 300\n[pack]\nseq_len = 512\n";

/// Returns the command with `arguments`, in `folder`.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cm3flow"));
    command.args(arguments).current_dir(folder);
    command
}

/// Runs the command with `arguments` in `folder`.
fn cm3flow(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("the binary was just built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn stderr(output: &Output) -> String {
    text(&output.stderr)
}

fn stdout(output: &Output) -> String {
    text(&output.stdout)
}

/// Writes the configuration `job.toml`.
fn config(folder: &Path, text: &str) {
    std::fs::write(folder.join("job.toml"), text).expect("a temporary folder");
}

/// Returns a configuration over one tar of the sample corpus. `rest` begins with further fields of the source, or with the next section.
fn with_corpus(rest: &str) -> String {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/photos-00000.tar");
    let url = corpus.display();
    format!("[dataset]\nname = \"d\"\nstore = \"store\"\n[[source]]\nname = \"s\"\nformat = \"webdataset\"\nurl = \"{url}\"\n{rest}")
}
