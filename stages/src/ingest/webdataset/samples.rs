//! Samples of a tar: neighbouring members whose names have one key.

use std::io::{self, Read};
use std::ops::{ControlFlow, Range};

use super::headers::{Block, Entry, Headers, Kind};
use crate::ingest::format::counted_extension;
use crate::ingest::names::printable;

/// A member of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ingest) struct Member {
    /// Path as bytes.
    path: Vec<u8>,
    /// Part of the name behind the key, without the dot, in lower case: `jpg`, `edit0.jpg`, `json`.
    pub extension: String,
    /// Offset of the member's header.
    pub header: u64,
    /// Offset behind the member's last byte.
    end: u64,
    pub content: Content,
}

/// Content of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ingest) enum Content {
    Bytes(Vec<u8>),
    /// No content: it is not needed.
    Unread,
    /// No content: the member is too large, with its size in bytes.
    TooLarge(u64),
    /// No content: a link to this path.
    Link(String),
    /// No content: a member of this kind.
    Other(&'static str),
}

/// Members with one key, side by side in the tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ingest) struct TarSample {
    pub key: String,
    /// Key as bytes, not necessarily UTF-8; empty for damage.
    pub key_bytes: Vec<u8>,
    /// Offset of the sample's first header.
    pub start: u64,
    pub members: Vec<Member>,
    /// Files next to the sample that belong to none, by the names that they are counted under.
    pub strays: Vec<String>,
    /// Damage that makes the sample unreadable as a whole, if there is any.
    pub damage: Option<String>,
}

impl TarSample {
    fn new(key_bytes: Vec<u8>, start: u64) -> Self {
        Self { key: printable(&key_bytes), key_bytes, start, members: Vec::new(), strays: Vec::new(), damage: None }
    }

    fn damaged(start: u64, problem: String) -> Self {
        Self { key: format!("(byte {start})"), damage: Some(problem), ..Self::new(Vec::new(), start) }
    }

    /// Returns the first two members with the same name.
    pub(in crate::ingest) fn repeated_member(&self) -> Option<(&Member, &Member)> {
        let pairs = self.members.iter().enumerate().map(|(index, member)| (&self.members[..index], member));
        pairs.into_iter().find_map(|(before, member)| before.iter().find(|other| other.path == member.path).map(|other| (other, member)))
    }
}

/// Visitor of the members of a tar.
pub(super) trait Members {
    /// Records any entry, before its data.
    fn see(&mut self, _: &Entry) {}

    /// Reads a member of a sample as far as it is needed; `headers` stand at its data.
    fn content(&mut self, headers: &mut Headers<impl Read>, entry: &Entry, extension: &str) -> io::Result<Content>;
}

/// Visitor that reads the needed members.
pub(super) struct Reading<L, F> {
    /// Filter by extension.
    pub is_wanted: fn(&str) -> bool,
    /// Largest size of a member in bytes.
    pub max_bytes: u64,
    /// Function from the offset of a hard link to the place of its target's data.
    pub link: L,
    /// Function that reads bytes elsewhere in the tar.
    pub fetch: F,
}

/// Passes every sample of the tar to `each`, in order, until it breaks. The bytes are read from offset `base` on.
pub(super) fn walk(
    reader: impl Read,
    base: u64,
    members: &mut impl Members,
    mut each: impl FnMut(TarSample) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut headers = Headers::new(reader, base);
    let mut grouping = Grouping::new(base);
    while let Some(block) = headers.next()? {
        let whole = match block {
            Block::Damage { start, problem } => grouping.damage(start, problem),
            Block::Entry(entry) => {
                members.see(&entry);
                match split_name(&entry.name) {
                    Some((key, extension)) if entry.kind != Kind::Folder => {
                        let content = members.content(&mut headers, &entry, &extension)?;
                        grouping.member(&entry, key, extension, content)
                    }
                    _ => grouping.stray(&entry),
                }
            }
        };
        if whole.is_some_and(|whole| each(whole).is_break()) {
            return Ok(());
        }
    }
    let _ = grouping.end(headers.position()).into_iter().try_for_each(each);
    Ok(())
}

impl<L, F> Members for Reading<L, F>
where
    L: Fn(u64) -> Option<Range<u64>>,
    F: FnMut(Range<u64>) -> io::Result<Vec<u8>>,
{
    fn content(&mut self, headers: &mut Headers<impl Read>, entry: &Entry, extension: &str) -> io::Result<Content> {
        if !(self.is_wanted)(extension) {
            return Ok(Content::Unread);
        }
        let place = match &entry.kind {
            Kind::File => entry.data.clone(),
            Kind::HardLink(target) => match (self.link)(entry.header) {
                Some(place) => place,
                None => return Ok(Content::Link(printable(target))),
            },
            Kind::SymbolicLink(target) => return Ok(Content::Link(printable(target))),
            Kind::Other(kind) => return Ok(Content::Other(kind)),
            Kind::Folder => return Ok(Content::Unread),
        };
        let size = place.end - place.start;
        if size > self.max_bytes {
            return Ok(Content::TooLarge(size));
        }
        if entry.kind != Kind::File {
            return (self.fetch)(place).map(Content::Bytes);
        }
        let mut bytes = Vec::new();
        headers.read_data(entry, &mut bytes)?;
        Ok(Content::Bytes(bytes))
    }
}

/// Groups members into samples.
struct Grouping {
    /// Sample that the next member may belong to.
    last: Option<TarSample>,
    /// Offset of the first sample, with anything that precedes it.
    base: u64,
    /// Files before the first sample.
    strays: Vec<String>,
    /// Name of the last entry and the offset behind its data, if it is no member of `last`.
    stray_end: Option<(String, u64)>,
}

impl Grouping {
    const fn new(base: u64) -> Self {
        Self { last: None, base, strays: Vec::new(), stray_end: None }
    }

    fn member(&mut self, entry: &Entry, key: &[u8], extension: String, content: Content) -> Option<TarSample> {
        self.stray_end = None;
        let member = Member { path: entry.name.clone(), extension, header: entry.header, end: entry.data.end, content };
        if let Some(last) = self.last.as_mut().filter(|last| last.damage.is_none() && last.key_bytes == key) {
            last.members.push(member);
            return None;
        }
        let mut sample = TarSample::new(key.to_vec(), entry.start);
        sample.members.push(member);
        self.begin(sample)
    }

    fn damage(&mut self, start: u64, problem: String) -> Option<TarSample> {
        self.stray_end = None;
        self.begin(TarSample::damaged(start, problem))
    }

    /// Counts a file that is no member of a sample.
    fn stray(&mut self, entry: &Entry) -> Option<TarSample> {
        self.stray_end = Some((printable(&entry.name), entry.data.end));
        if entry.kind != Kind::Folder {
            let name = entry.name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            let counted = if name.starts_with(b".") { "hidden" } else { "none" };
            self.last.as_mut().map_or(&mut self.strays, |last| &mut last.strays).push(counted.to_owned());
        }
        None
    }

    /// Begins a sample, and returns the one before.
    fn begin(&mut self, mut sample: TarSample) -> Option<TarSample> {
        if self.last.is_none() {
            sample.start = self.base;
            sample.strays = std::mem::take(&mut self.strays);
        }
        self.last.replace(sample)
    }

    /// Returns the last samples of a tar that ends at byte `total`.
    fn end(mut self, total: u64) -> Vec<TarSample> {
        if let Some(last) = self.last.as_mut().filter(|last| last.members.iter().any(|member| member.end > total)) {
            last.damage = Some(format!("the tar ends at byte {total}, within this sample"));
        }
        let cut = self.stray_end.take().filter(|(_, end)| *end > total);
        let mut ended = Vec::new();
        if let Some((name, _)) = cut {
            ended = vec![TarSample::damaged(total, format!("the tar ends at byte {total}, within {name}"))];
        } else if self.last.is_none() && !self.strays.is_empty() {
            ended = vec![TarSample { key: "(no sample)".to_owned(), ..TarSample::new(Vec::new(), total) }];
        }
        let mut samples: Vec<TarSample> = ended.into_iter().filter_map(|sample| self.begin(sample)).collect();
        samples.extend(self.last);
        samples
    }
}

/// Splits a path into key and extension. Hidden files and names without extension belong to no sample.
///
/// # Source
/// <https://github.com/webdataset/webdataset#the-webdataset-format>: a key is the member's path up to the first dot of its name.
fn split_name(path: &[u8]) -> Option<(&[u8], String)> {
    let name_start = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let dot = path[name_start..].iter().position(|byte| *byte == b'.').filter(|dot| *dot > 0)?;
    Some((&path[..name_start + dot], printable(&path[name_start + dot + 1..]).to_lowercase()))
}

/// Returns the name under which an unread member is counted.
pub(in crate::ingest) fn counted_member(extension: &str) -> String {
    let last = extension.rsplit('.').next();
    format!("members.{}", counted_extension(last))
}
