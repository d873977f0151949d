//! Prepares every picture of a folder by a configuration and encodes it with its image tokenizer: `prepared CONFIG PICTURES OUT`. Writes
//! `NAME.rgb`, the levels of the square, and `NAME.codes`, u32 in little-endian order. A `NAME.rgb` in the folder counts as prepared.
//!
//! It is for comparisons with other decoders: `tests/parity/decoder.py`. The tokenizer is the one that the configuration names or has
//! pinned; otherwise it is fitted.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use cm3flow::events::progress::Progress;
use cm3flow::{Config, Job, Store, artefact};
use cm3flow_schemas::ImageId;
use cm3flow_stages::derive::Fit;
use cm3flow_stages::derive::decode::decode;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [config, pictures, out] = arguments.as_slice() else { bail!("usage: prepared CONFIG PICTURES OUT") };
    let config = Config::load(config)?;
    let store = Store::open(&config.dataset.store, &config.folder)?;
    let job = Job::new(config, store, Progress::silent());
    let (tokenizer, config) = (artefact::fit(&job, false).await?.image, job.config);
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let mut names: Vec<PathBuf> = std::fs::read_dir(pictures)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .with_context(|| pictures.display().to_string())?;
    names.sort();
    for path in names {
        let square = prepared(&config, &path).with_context(|| path.display().to_string())?;
        let name = path.file_stem().context("a file has a name")?;
        std::fs::write(out.join(name).with_extension("rgb"), &square)?;
        let codes = tokenizer.call(move |tokenizer| tokenizer.encode(&square)).await?.map_err(anyhow::Error::from_boxed)?;
        let codes: Vec<u8> = codes.iter().flat_map(|code| code.to_le_bytes()).collect();
        std::fs::write(out.join(name).with_extension("codes"), codes)?;
    }
    Ok(())
}

fn prepared(config: &Config, path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = std::fs::read(path)?;
    let preparation = config.tokenize.image.preparation();
    if path.extension().is_some_and(|extension| extension == "rgb") {
        let side = preparation.side_px as usize;
        ensure!(bytes.len() == side * side * 3, "a square of {side} pixels has {} bytes, not {}", side * side * 3, bytes.len());
        return Ok(bytes);
    }
    let picture = decode(&bytes, preparation.transparency).map_err(|(reason, detail)| anyhow::anyhow!("{reason}: {detail}"))?;
    let fit = Fit::of(picture.width(), picture.height(), &preparation, config.dataset.seed, &ImageId::of(&bytes));
    Ok(fit.apply(&picture).into_raw())
}
