//! Headers of a tar in order, with the place of each member's data. Damage is reported in between, and reading continues behind it.
//!
//! The `tar` crate reads fields and names of a header. Its own iterator stops at the first bad block and at the first end of an archive, so
//! this module walks from header to header. It skips blocks of zeros anywhere, and searches for the next block with a valid checksum behind
//! a bad header.
//!
//! # Source
//! POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".

use std::io::{self, Read};
use std::ops::Range;

use tar::{EntryType, Header, PaxExtensions};

use crate::ingest::format;

/// Size of a block in bytes.
pub(super) const BLOCK: u64 = 512;
/// Largest size in bytes of a long name or of a pax header; names of files are far shorter.
const MAX_EXTENDED_BYTES: u64 = 1 << 20;

/// Kinds of members, as far as they matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file with its own data.
    File,
    /// A link to the data of the earlier member with this name.
    HardLink(Vec<u8>),
    /// A link to this path in the unpacked archive.
    SymbolicLink(Vec<u8>),
    /// A folder.
    Folder,
    /// A member without readable data, with its kind for people.
    Other(&'static str),
}

/// A member as its headers describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Offset of the member's first header, those of long names included.
    pub start: u64,
    /// Offset of the main header.
    pub header: u64,
    /// Path as bytes, not necessarily UTF-8.
    pub name: Vec<u8>,
    pub kind: Kind,
    /// Range of the data; it may exceed a tar that was cut.
    pub data: Range<u64>,
}

/// An item of a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Block {
    Entry(Entry),
    /// Unreadable bytes up to the next entry.
    Damage {
        /// Offset of the first unreadable byte.
        start: u64,
        problem: String,
    },
}

/// Long names and pax records before a header.
#[derive(Debug, Default)]
struct Extensions {
    /// Offset of the first such header.
    start: Option<u64>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    is_sparse: bool,
    problem: Option<String>,
}

/// A header with its offset.
type PlacedHeader = (Box<Header>, u64);
/// Offset and problem of damage.
type PlacedDamage = (u64, String);

/// Reader that walks from header to header.
pub(super) struct Headers<R> {
    reader: R,
    /// Offset of the next byte to read.
    at: u64,
    /// Offset behind the data and padding of the entry before.
    next_header: u64,
    /// A good header found behind damage, with its offset.
    found: Option<PlacedHeader>,
}

impl<R: Read> Headers<R> {
    /// Reads from `reader`, whose first byte has the offset `base` in the tar.
    pub(super) const fn new(reader: R, base: u64) -> Self {
        Self { reader, at: base, next_header: base, found: None }
    }

    /// Returns the offset of the next byte to read; at the end, that behind the last byte.
    pub(super) const fn position(&self) -> u64 {
        self.at
    }

    /// Returns the next entry or damage; `None` at the end. Skips the unread data of the entry before.
    pub(super) fn next(&mut self) -> io::Result<Option<Block>> {
        let mut extensions = Extensions::default();
        loop {
            let left = self.next_header.saturating_sub(self.at);
            self.at += io::copy(&mut (&mut self.reader).take(left), &mut io::sink())?;
            let (header, start) = match self.header()? {
                Ok(Some(found)) => found,
                Ok(None) => {
                    let problem = "the tar ends behind the name of a member, before the member".to_owned();
                    return Ok(extensions.start.map(|start| Block::Damage { start, problem }));
                }
                Err((start, problem)) => return Ok(Some(Block::Damage { start: extensions.start.unwrap_or(start), problem })),
            };
            let first = *extensions.start.get_or_insert(start);
            let size = match header.entry_size() {
                Ok(size) => extensions.size.unwrap_or(size),
                Err(error) => {
                    let problem = format!("the header at byte {start} has no readable size: {error}");
                    return Ok(Some(Block::Damage { start: first, problem }));
                }
            };
            let kind = header.entry_type();
            if self.extend(&mut extensions, kind, size)? {
                continue;
            }
            let sparse_headers = if kind == EntryType::GNUSparse { self.sparse_headers(&header)? } else { 0 };
            let data_start = start + BLOCK + sparse_headers;
            let data = data_start..data_start.saturating_add(if has_data(kind) { size } else { 0 });
            self.next_header = data.end.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
            if let Some(problem) = extensions.problem {
                return Ok(Some(Block::Damage { start: first, problem }));
            }
            if kind == EntryType::XGlobalHeader {
                extensions = Extensions::default();
                continue;
            }
            let name = extensions.name.unwrap_or_else(|| header.path_bytes().into_owned());
            let link = || extensions.link.clone().or_else(|| header.link_name_bytes().map(Into::into)).unwrap_or_default();
            let kind = if extensions.is_sparse { Kind::Other("a sparse file") } else { kind_of(kind, link) };
            return Ok(Some(Block::Entry(Entry { start: first, header: start, name, kind, data })));
        }
    }

    /// Appends the data of the last entry to `bytes`, as far as the tar has them.
    pub(super) fn read_data(&mut self, entry: &Entry, bytes: &mut Vec<u8>) -> io::Result<()> {
        let read = (&mut self.reader).take(entry.data.end.saturating_sub(self.at)).read_to_end(bytes)?;
        self.at += read as u64;
        Ok(())
    }

    /// Reads a long name or a pax header; returns `false` for another kind.
    fn extend(&mut self, extensions: &mut Extensions, kind: EntryType, size: u64) -> io::Result<bool> {
        // Solaris writes pax headers as `X`.
        let is_pax = kind == EntryType::XHeader || kind.as_byte() == b'X';
        if !is_pax && kind != EntryType::GNULongName && kind != EntryType::GNULongLink {
            return Ok(false);
        }
        self.next_header = self.at.saturating_add(size).checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
        if size > MAX_EXTENDED_BYTES {
            extensions.problem =
                Some(format!("a header of {size} bytes stands in front of a member, at most {MAX_EXTENDED_BYTES} are read"));
            return Ok(true);
        }
        let mut bytes = Vec::new();
        self.at += (&mut self.reader).take(size).read_to_end(&mut bytes)? as u64;
        if is_pax {
            extensions.add_pax(&bytes);
            return Ok(true);
        }
        let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        let place = if kind == EntryType::GNULongName { &mut extensions.name } else { &mut extensions.link };
        *place = Some(name);
        Ok(true)
    }

    /// Skips the further headers of a sparse file of old GNU tars, and returns their size in bytes.
    fn sparse_headers(&mut self, header: &Header) -> io::Result<u64> {
        let mut more = header.as_gnu().is_some_and(tar::GnuHeader::is_extended);
        let mut bytes = 0;
        while more {
            let mut extended = tar::GnuExtSparseHeader::new();
            let read = self.fill(extended.as_mut_bytes())?;
            bytes += read as u64;
            more = read as u64 == BLOCK && extended.is_extended();
        }
        Ok(bytes)
    }

    /// Returns the next good header with its offset, `None` at the end of the tar; or the place and the problem of damage before it.
    fn header(&mut self) -> io::Result<Result<Option<PlacedHeader>, PlacedDamage>> {
        if let Some(found) = self.found.take() {
            return Ok(Ok(Some(found)));
        }
        let mut damage: Option<PlacedDamage> = None;
        loop {
            let (mut block, start) = ([0; BLOCK as usize], self.at);
            let read = self.fill(&mut block)?;
            self.next_header = self.at;
            if read < block.len() {
                let is_cut = damage.is_none() && block[..read].iter().any(|byte| *byte != 0);
                let cut = is_cut.then(|| (start, format!("the tar ends at byte {}, within a header", self.at)));
                return Ok(damage.or(cut).map_or(Ok(None), Err));
            }
            if block.iter().all(|byte| *byte == 0) {
                continue;
            }
            let is_header = has_checksum(&block);
            if damage.is_none() && !is_header {
                let other = (start == 0).then(|| format::archive(&block)).flatten();
                let problem = other.map_or_else(|| format!("no header stands at byte {start}"), |other| format!("this is no tar: {other}"));
                damage = Some((start, problem));
                if other.is_some() {
                    // Anything in there that looks like a header belongs to something else.
                    self.at += io::copy(&mut self.reader, &mut io::sink())?;
                }
            }
            if is_header {
                let found = (Box::new(Header::from_byte_slice(&block).clone()), start);
                return Ok(match damage {
                    None => Ok(Some(found)),
                    Some(damage) => {
                        self.found = Some(found);
                        Err(damage)
                    }
                });
            }
        }
    }

    fn fill(&mut self, block: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while read < block.len() {
            match self.reader.read(&mut block[read..]) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.at += read as u64;
        Ok(read)
    }
}

impl Extensions {
    fn add_pax(&mut self, records: &[u8]) {
        for record in PaxExtensions::new(records) {
            let Ok(record) = record else {
                self.problem = Some("the pax header in front of a member is damaged".to_owned());
                return;
            };
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" if self.name.is_none() || !self.is_sparse => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => match record.value().ok().and_then(|size| size.parse().ok()) {
                    Some(size) => self.size = Some(size),
                    None => self.problem = Some("the pax header in front of a member has no readable size".to_owned()),
                },
                // The path of a sparse file is a placeholder for this name.
                b"GNU.sparse.name" => (self.is_sparse, self.name) = (true, Some(value.to_vec())),
                key if key.starts_with(b"GNU.sparse.") => self.is_sparse = true,
                _ => {}
            }
        }
    }
}

fn kind_of(kind: EntryType, link: impl FnOnce() -> Vec<u8>) -> Kind {
    match kind {
        EntryType::Regular | EntryType::Continuous => Kind::File,
        EntryType::Link => Kind::HardLink(link()),
        EntryType::Symlink => Kind::SymbolicLink(link()),
        EntryType::Directory => Kind::Folder,
        EntryType::Char | EntryType::Block => Kind::Other("a device"),
        EntryType::Fifo => Kind::Other("a named pipe"),
        EntryType::GNUSparse => Kind::Other("a sparse file"),
        other => match other.as_byte() {
            b'M' => Kind::Other("the rest of a file of another volume"),
            b'V' | b'D' => Kind::Folder,
            _ => Kind::Other("a member of an unknown kind"),
        },
    }
}

/// Checks whether data follow the header. Links, folders and devices may have a size without data.
fn has_data(kind: EntryType) -> bool {
    let is_bare =
        matches!(kind, EntryType::Link | EntryType::Symlink | EntryType::Directory | EntryType::Char | EntryType::Block | EntryType::Fifo);
    !is_bare
}

/// Checks the checksum of a header, over unsigned bytes or, as in some old tars, over signed ones.
fn has_checksum(block: &[u8; BLOCK as usize]) -> bool {
    let Ok(expected) = Header::from_byte_slice(block).cksum() else { return false };
    let blanked = || block[..148].iter().chain([b' '; 8].iter()).chain(&block[156..]);
    let unsigned: u32 = blanked().map(|byte| u32::from(*byte)).sum();
    let signed: i64 = blanked().map(|byte| i64::from(*byte as i8)).sum();
    expected == unsigned || i64::from(expected) == signed
}
