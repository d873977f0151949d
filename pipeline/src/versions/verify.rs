//! Re-reads every object that a version names, and checks digests, sizes and what objects say of each other. [`repair`] makes again what
//! is damaged.
//!
//! Objects that are named by a digest are compared with it. Records of units have none: they must be exactly the bytes that are written for what they
//! say, and together make the record of their window.

mod manifest;
mod object;
pub mod repair;
mod window;

use std::collections::HashMap;

use cm3flow_schemas::unit::SegmentName;
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::WindowRecord;
use cm3flow_schemas::{Digest, layout};
use futures::{StreamExt, TryStreamExt};
use object::Expected;
use serde::Serialize;

use crate::catalog::Catalog;
use crate::error::Result;
use crate::store::Store;

/// Objects that are read at once. Each is held as a whole.
const READ_AT_ONCE: usize = 4;

/// What an object is to a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// The manifest.
    Manifest,
    /// The record of the manifest's digest.
    Digest,
    /// A table that the manifest names.
    Table,
    /// The record of a window.
    Window(usize),
    /// `unit.json` of a unit of a window, or one of its files.
    Unit { window: usize, segment: SegmentName, key: Digest },
    /// A shard of a window.
    Shard { window: usize, shard: usize },
    /// The file of a fitted artefact.
    Artefact(String),
    /// A tag.
    Tag,
}

impl Place {
    fn name(&self) -> String {
        match self {
            Self::Manifest => "manifest".into(),
            Self::Digest => "digest of the manifest".into(),
            Self::Table => "table of the manifest".into(),
            Self::Window(window) => format!("record of window {window}"),
            Self::Unit { window, segment, .. } => format!("{} unit of window {window}", segment.name()),
            Self::Shard { window, .. } => format!("shard of window {window}"),
            Self::Artefact(name) => format!("fitted {name}"),
            Self::Tag => "tag".into(),
        }
    }
}

/// An object that is missing, or is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Its path in the store.
    pub path: String,
    /// What it is to the version.
    pub part: String,
    /// What is wrong with it.
    pub problem: String,
    #[serde(skip)]
    pub(crate) place: Place,
}

/// What was found of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Number of the version.
    pub version: u32,
    /// Objects that were looked at.
    pub objects: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is damaged, in the order in which things refer to each other.
    pub damaged: Vec<Damage>,
}

/// A version as far as it could be read.
pub(crate) struct Examined {
    pub(crate) verification: Verification,
    pub(crate) manifest: Option<VersionManifest>,
    /// Records of its windows; none without manifest.
    pub(crate) windows: Vec<Option<WindowRecord>>,
}

/// Verifies versions of one dataset. What several of them share is read once.
pub struct Verifier {
    store: Store,
    catalog: Catalog,
    dataset: String,
    /// Files that were read, with their sizes and what is wrong with them.
    read: HashMap<String, (u64, Option<String>)>,
}

impl Verifier {
    /// Verifies versions of `dataset`.
    #[must_use]
    pub fn new(store: &Store, dataset: &str) -> Self {
        let catalog = Catalog::new(store.clone(), dataset);
        Self { store: store.clone(), catalog, dataset: dataset.to_owned(), read: HashMap::new() }
    }

    /// Verifies `version`, and the tags that name it.
    ///
    /// # Errors
    /// What the store says; damage is no error.
    pub async fn version(&mut self, version: u32) -> Result<Verification> {
        Ok(self.examine(version).await?.verification)
    }

    /// Verifies all versions, and that tags name versions.
    ///
    /// # Errors
    /// As [`Self::version`].
    pub async fn all(&mut self) -> Result<Vec<Verification>> {
        let mut found = Vec::new();
        for version in self.catalog.recorded_versions().await? {
            found.push(self.version(version).await?);
        }
        for tag in self.catalog.tags().await? {
            if !found.iter().any(|verified| verified.version == tag.version) {
                let path = layout::tag(&self.dataset, &tag.tag);
                let mut verification = Verification { version: tag.version, objects: 1, bytes: 0, damaged: Vec::new() };
                verification.damage(path, Place::Tag, format!("it names version {}, which is not there", tag.version));
                found.push(verification);
            }
        }
        Ok(found)
    }

    /// Verifies a version and keeps what could be read of its records.
    pub(crate) async fn examine(&mut self, version: u32) -> Result<Examined> {
        let mut found = Verification { version, objects: 0, bytes: 0, damaged: Vec::new() };
        let Some(manifest) = self.manifest(version, &mut found).await? else {
            return Ok(Examined { verification: found, manifest: None, windows: Vec::new() });
        };
        let mut windows = Vec::with_capacity(manifest.windows.len());
        for (index, digest) in manifest.windows.iter().enumerate() {
            windows.push(self.window_record(&manifest, (index, *digest), &mut found).await?);
        }
        self.tables(&manifest, &windows, &mut found).await?;
        let artefact = |(name, digest): (&String, &Digest)| {
            Expected::new(crate::artefact::path(name, *digest), *digest, Place::Artefact(name.clone()))
        };
        self.files(manifest.fitted.iter().map(artefact).collect(), &mut found).await?;
        for (index, record) in windows.iter().enumerate() {
            if let Some(record) = record {
                self.window(index, record, &mut found).await?;
            }
        }
        Ok(Examined { verification: found, manifest: Some(manifest), windows })
    }

    /// Reads files, a few at once, and notes what is wrong with them.
    async fn files(&mut self, expected: Vec<Expected>, found: &mut Verification) -> Result<()> {
        let new: Vec<&Expected> = expected.iter().filter(|file| !self.read.contains_key(&file.path)).collect();
        let store = &self.store;
        let read = |file: &Expected| {
            let file = file.clone();
            async move {
                let seen = object::look_at(store, &file).await?;
                Ok::<_, crate::PipelineError>((file.path, seen))
            }
        };
        let seen: Vec<_> = futures::stream::iter(new.into_iter().map(read)).buffered(READ_AT_ONCE).try_collect().await?;
        self.read.extend(seen);
        for file in expected {
            let (bytes, problem) = &self.read[&file.path];
            found.objects += 1;
            found.bytes += bytes;
            if let Some(problem) = problem {
                found.damage(file.path, file.place, problem.clone());
            }
        }
        Ok(())
    }
}

impl Verification {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty()
    }

    fn damage(&mut self, path: String, place: Place, problem: impl Into<String>) {
        // Several things may refer to one object.
        if !self.damaged.iter().any(|damage| damage.path == path) {
            self.damaged.push(Damage { path, part: place.name(), problem: problem.into(), place });
        }
    }
}
