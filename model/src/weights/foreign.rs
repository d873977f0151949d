//! Recognition of files that are given as weights but have another format, by their first bytes.
//!
//! Weights come from web pages, archives and repositories that keep large files elsewhere, so a file is often not the intended one. This
//! module recognises such files, and reads only as much as that needs.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::error::ModelError;

/// First bytes of a ZIP archive, as PyTorch writes one.
pub(super) const ZIP: &[u8] = b"PK\x03\x04";
/// Position of the magic in a tar archive.
const TAR_MAGIC: usize = 257;
/// Largest JSON that is parsed, in bytes. Indexes of shards have a few hundred thousand.
const MAX_JSON_BYTES: usize = 64 << 20;
/// Largest number of names in a message.
const NAMED: usize = 5;
/// First bytes of compressed files, with the program.
const PACKED: [(&[u8], &str); 5] =
    [(b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\x00", "xz"), (b"BZh", "bzip2"), (b"7z\xbc\xaf\x27\x1c", "7-Zip")];
/// First bytes of other formats of tensors.
const FORMATS: [(&[u8], &str); 3] = [(b"\x89HDF\r\n\x1a\n", "an HDF5 file"), (b"\x93NUMPY", "a NumPy array"), (b"GGUF", "a GGUF file")];

/// Number of bytes of an unknown file in a message.
const SHOWN: usize = 8;
const FETCH_AGAIN: &str = "fetch or copy it once more";
const UNPACK: &str = "unpack it, and name the weights that are in it";

/// Expected content of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Tensors by name.
    Tensors,
    /// A TorchScript module.
    Module,
}

impl Wanted {
    /// Returns the general advice.
    const fn advice(self) -> &'static str {
        match self {
            Self::Tensors => "name a file of tensors: safetensors, or what torch.save writes",
            Self::Module => "name a TorchScript module, as torch.jit.script(module).save(path) writes it",
        }
    }
}

/// Checks that `bytes` are no known file with other content than `wanted`. Archives and unknown bytes pass.
///
/// # Errors
/// [`ModelError::NotWeights`] with the format that was recognised.
pub(super) fn check(bytes: &[u8], wanted: Wanted) -> Result<(), ModelError> {
    if bytes.starts_with(ZIP) {
        return Ok(());
    }
    let found = match (is_safetensors(bytes), wanted) {
        (true, Wanted::Tensors) => None,
        (true, Wanted::Module) => Some(("a safetensors file, which holds tensors alone".to_owned(), None)),
        (false, _) => [binary, json, text].into_iter().find_map(|look: fn(&[u8]) -> Option<Found>| look(bytes)),
    };
    match found {
        Some((found, advice)) => Err(ModelError::NotWeights { found, advice: advice.unwrap_or(wanted.advice()).to_owned() }),
        None => Ok(()),
    }
}

/// Returns the error for `bytes` that are neither a known format nor valid safetensors.
pub(super) fn unknown(bytes: &[u8]) -> ModelError {
    let (found, advice) = if is_safetensors(bytes) {
        (format!("a safetensors file whose tensors do not end with its {} bytes", bytes.len()), FETCH_AGAIN)
    } else {
        let first: Vec<String> = bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
        (format!("of no known kind, it begins with the bytes {}", first.join(" ")), Wanted::Tensors.advice())
    };
    ModelError::NotWeights { found, advice: advice.to_owned() }
}

/// Description of a file, with specific advice if there is any.
type Found = (String, Option<&'static str>);

/// Checks whether `bytes` begin like a safetensors header.
pub(super) fn is_safetensors(bytes: &[u8]) -> bool {
    bytes.get(4..9) == Some(b"\0\0\0\0{")
}

/// Lists the first `names`, and the number of others, for messages.
pub(crate) fn listed<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = names.len();
    let first: Vec<String> = names.take(NAMED).map(|name| name.chars().take(100).collect()).collect();
    match count.saturating_sub(NAMED) {
        0 => first.join(", "),
        others => format!("{} and {others} more", first.join(", ")),
    }
}

fn binary(bytes: &[u8]) -> Option<Found> {
    if bytes.is_empty() {
        return Some(("empty".to_owned(), Some(FETCH_AGAIN)));
    }
    if bytes[..bytes.len().min(512)].iter().all(|byte| *byte == 0) {
        return Some(("nothing but zeros at its beginning, as after a download that broke off".to_owned(), Some(FETCH_AGAIN)));
    }
    if let Some((_, program)) = PACKED.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some((format!("packed by {program}"), Some(UNPACK)));
    }
    if bytes.get(TAR_MAGIC..TAR_MAGIC + 5) == Some(b"ustar") {
        let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(&name[..name.len().min(100)]);
        return Some((format!("a tar archive that begins with {name}"), Some(UNPACK)));
    }
    let format = FORMATS.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, format)| *format);
    let is_pickle = bytes.first() == Some(&0x80) && bytes.get(1).is_some_and(|protocol| (2..=5).contains(protocol));
    let format = format.or(is_pickle.then_some("a Python pickle"));
    format.map(|format| (format.to_owned(), None))
}

fn json(bytes: &[u8]) -> Option<Found> {
    let text = std::str::from_utf8(bytes.get(..MAX_JSON_BYTES).unwrap_or(bytes)).ok()?;
    let Ok(Value::Object(entries)) = serde_json::from_str(text.trim_start_matches('\u{feff}')) else { return None };
    if let Some(Value::Object(shard_of)) = entries.get("weight_map") {
        let shards: BTreeSet<&str> = shard_of.values().filter_map(Value::as_str).collect();
        let found = format!("an index of weights that lie in {} other files: {}", shards.len(), listed(shards.into_iter()));
        let advice = "put the tensors of all of them into one file by safetensors.torch.load_file and save_file, and name that";
        return Some((found, Some(advice)));
    }
    let names = match entries.len() {
        0 => "without entries".to_owned(),
        1 => format!("with the entry {}", listed(entries.keys().map(String::as_str))),
        count => format!("with {count} entries: {}", listed(entries.keys().map(String::as_str))),
    };
    Some((format!("JSON {names}"), None))
}

fn text(bytes: &[u8]) -> Option<Found> {
    let start = &bytes[..bytes.len().min(1024)];
    let start = match std::str::from_utf8(start) {
        Ok(start) => start,
        // The last character may be cut.
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&start[..error.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let start = start.trim_start_matches('\u{feff}').trim_start();
    if start.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    if start.starts_with("version https://git-lfs.github.com/spec/") {
        let size = start.lines().find_map(|line| line.strip_prefix("size "));
        let size = size.map(|size| format!(" for a file of {size} bytes")).unwrap_or_default();
        return Some((format!("a Git LFS pointer{size}"), Some("fetch the file itself: git lfs pull")));
    }
    let lower = start.to_ascii_lowercase();
    if ["<!doctype html", "<html", "<head"].iter().any(|tag| lower.starts_with(tag)) {
        let advice = "download the file itself; on Hugging Face its address has /resolve/ where that of the page has /blob/";
        return Some(("a web page (HTML)".to_owned(), Some(advice)));
    }
    if start.starts_with("<?xml") {
        return Some(("XML, as stores answer when they refuse a download".to_owned(), Some("download the file itself")));
    }
    let line: String = start.lines().next().unwrap_or_default().chars().take(60).collect();
    Some((format!("text that begins with {line:?}"), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(bytes: &[u8]) -> String {
        check(bytes, Wanted::Tensors).map_or_else(|error| error.to_string(), |()| "passes".to_owned())
    }

    #[test]
    fn files_that_are_no_weights_are_told_by_their_first_bytes() {
        let mut tar = vec![b' '; 1024];
        tar[..10].copy_from_slice(b"vqgan.ckpt");
        tar[10] = 0;
        tar[257..262].copy_from_slice(b"ustar");
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 281274312\n";
        let index = br#"{"metadata": {"total_size": 4}, "weight_map": {"a": "m-1-of-2.safetensors", "b": "m-2-of-2.safetensors", "c": "m-1-of-2.safetensors"}}"#;
        for (bytes, wanted) in [
            (&b""[..], "the file is empty; fetch or copy it once more"),
            (&[0; 4096], "the file is nothing but zeros at its beginning, as after a download that broke off; fetch or copy it once more"),
            (pointer, "the file is a Git LFS pointer for a file of 281274312 bytes; fetch the file itself: git lfs pull"),
            (b"\n<!DOCTYPE HTML><title>Sign in</title>", "the file is a web page (HTML); download the file itself; on Hugging Face"),
            (b"<html lang=en>", "the file is a web page (HTML); "),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>", "the file is XML, as stores answer when they refuse a download; "),
            (
                index,
                "the file is an index of weights that lie in 2 other files: m-1-of-2.safetensors, m-2-of-2.safetensors; put the tensors",
            ),
            (br#"{"generator": {"conv": [1.5]}}"#, "the file is JSON with the entry generator; name a file of tensors"),
            (
                br#"{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1, "g": 1}"#,
                "the file is JSON with 7 entries: a, b, c, d, e and 2 more; name a file of tensors",
            ),
            (b"{}", "the file is JSON without entries; "),
            (b"Not Found\n", "the file is text that begins with \"Not Found\"; "),
            ("Schl\u{fc}ssel fehlt".as_bytes(), "the file is text that begins with \"Schl\u{fc}ssel fehlt\"; "),
            (b"\x1f\x8b\x08\x00rest", "the file is packed by gzip; unpack it"),
            (b"\x28\xb5\x2f\xfdrest", "the file is packed by zstd; unpack it"),
            (b"\x89HDF\r\n\x1a\nrest", "the file is an HDF5 file; name a file of tensors"),
            (&tar, "the file is a tar archive that begins with vqgan.ckpt; unpack it"),
            (b"\x80\x04\x95\x10\x00", "the file is a Python pickle; name a file of tensors"),
        ] {
            assert!(told(bytes).starts_with(wanted), "{} is not {wanted}", told(bytes));
        }
    }

    #[test]
    fn weights_and_unknown_bytes_pass() {
        let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let safetensors = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
        let error = check(&safetensors, Wanted::Module).expect_err("no module").to_string();
        assert!(error.starts_with("the file is a safetensors file, which holds tensors alone; name a TorchScript module"), "{error}");
        // A header whose length equals the first bytes of another format.
        let like_gzip = [&[0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0], &b"{\"a\":"[..]].concat();
        for bytes in [&safetensors[..], &like_gzip, b"PK\x03\x04rest", b"\xfe\xed\xfa\xce rest", b"\x01\x02text"] {
            assert_eq!(told(bytes), "passes", "{bytes:?}");
        }
    }
}
