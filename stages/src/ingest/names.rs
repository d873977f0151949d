//! Names of files in sources, and patterns that stand for several files.
//!
//! Names are taken as they are written, without decoding or encoding.

use object_store::path::Path;

/// Largest number of files in one range.
const MAX_RANGE: u64 = 1_000_000;

/// Returns the path of `name` in `folder`, whatever its characters.
pub(super) fn joined(folder: &Path, name: &str) -> Result<Path, String> {
    Path::parse(format!("{folder}/{name}")).map_err(|error| format!("it is no path: {error}"))
}

/// Resolves the path that a row names: relative to the folder of its file, unless it begins with `/`; `..` leads one folder up.
pub(super) fn resolved(folder: &Path, name: &str, is_disk: bool) -> Result<Path, String> {
    if name.split_once("://").is_some_and(|(scheme, _)| !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())) {
        return Err("it is an address; only paths are read".to_owned());
    }
    let root = Path::default();
    let folder = if name.starts_with('/') { &root } else { folder };
    let mut parts: Vec<&str> = folder.as_ref().split('/').filter(|part| !part.is_empty()).collect();
    for part in name.strip_prefix('/').unwrap_or(name).split('/') {
        match part {
            // Disks treat several slashes as one; keys of object stores do not.
            "" if !is_disk => return Err("a key with an empty part between slashes cannot be read".to_owned()),
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Path::parse(parts.join("/")).map_err(|error| format!("it is no path: {error}"))
}

/// Returns a name as text. Bytes that are no UTF-8 become `%` and two digits, and then `%` itself does, too.
pub(super) fn printable(name: &[u8]) -> String {
    if let Ok(name) = std::str::from_utf8(name) {
        return name.to_owned();
    }
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(&chunk.valid().replace('%', "%25"));
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
    }
    text
}

/// Checks whether a name is a pattern.
pub(super) fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

/// Returns advice on patterns, for an error about a name with braces or brackets.
pub(super) fn known_patterns(name: &str) -> &'static str {
    if name.contains(['*', '?', '[', '{']) {
        "; in its last part * stands for any characters, ? for one, [abc] for one of these, {000..127} for numbers, and nothing else is a pattern"
    } else {
        ""
    }
}

/// Expands the ranges of numbers (`{000..127}`) in a name, in order of the numbers.
pub(super) fn expanded(name: &str) -> Result<Vec<String>, String> {
    let Some((before, range, after)) = first_range(name) else { return Ok(vec![name.to_owned()]) };
    let (from, to) = range;
    let width = if from.len() == to.len() { from.len() } else { 0 };
    let number = |digits: &str| digits.parse::<u64>().map_err(|_| format!("{{{from}..{to}}} has a number that is too large"));
    let (first, last) = (number(from)?, number(to)?);
    if last < first || last - first >= MAX_RANGE {
        return Err(format!("{{{from}..{to}}} must ascend and stand for {MAX_RANGE} files at most"));
    }
    let rest = expanded(after)?;
    Ok((first..=last).flat_map(|number| rest.iter().map(move |rest| format!("{before}{number:0width$}{rest}"))).collect())
}

/// Returns the text before the first range of numbers, its two ends, and the text behind it.
fn first_range(name: &str) -> Option<(&str, (&str, &str), &str)> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.match_indices('{').find_map(|(open, _)| {
        let (range, after) = name[open + 1..].split_once('}')?;
        let (from, to) = range.split_once("..")?;
        (is_number(from) && is_number(to)).then(|| (&name[..open], (from, to), after))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_as_they_are_written() {
        let folder = Path::parse("data/josé").expect("a path");
        for name in [
            "café.jpg",
            "写真.jpg",
            "photo [1].jpg",
            "IMG~1.jpg",
            "100%.jpg",
            "100%25.jpg",
            "a#b.jpg",
            "q?x.jpg",
            "{x}.jpg",
            "a b.jpg",
            "x^|.jpg",
        ] {
            assert_eq!(resolved(&folder, name, true).map(String::from), Ok(format!("data/josé/{name}")));
        }
        for (name, path) in [("../b.jpg", "data/b.jpg"), ("/b.jpg", "b.jpg"), ("./x//y.jpg", "data/josé/x/y.jpg"), ("../../../b", "b")] {
            assert_eq!(resolved(&folder, name, true).as_ref().map(AsRef::as_ref), Ok(path), "{name}");
        }
        assert!(resolved(&folder, "x//y.jpg", false).is_err_and(|problem| problem.contains("empty part")));
        assert!(resolved(&folder, "a\nb.jpg", true).is_err_and(|problem| problem.contains("no path")));
        assert!(resolved(&folder, "https://example.org/x.jpg", true).is_err_and(|problem| problem.contains("address")));
    }

    #[test]
    fn ranges_stand_for_names_and_other_braces_for_themselves() {
        assert_eq!(expanded("a-{08..11}.tar").as_deref(), Ok(&["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"].map(String::from)[..]));
        assert_eq!(expanded("{0..1}{9..10}").as_deref(), Ok(&["09", "010", "19", "110"].map(String::from)[..]));
        assert_eq!(expanded("{x}{a..b}{1..2").as_deref(), Ok(&["{x}{a..b}{1..2".to_owned()][..]));
        assert!(expanded("{2..1}").is_err() && expanded("{0..99999999}").is_err() && expanded("{0..99999999999999999999999}").is_err());
    }
}
