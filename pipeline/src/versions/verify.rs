//! Verification: re-reads every object of a version, and checks digests, sizes and the objects' statements about each other. [`repair`]
//! makes damaged objects again.
//!
//! Objects with a digest in their name are checked against it. Records of units have none: their bytes must be exactly the serialized
//! form of their content, and together they must give the record of their window.

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
use serde::Serialize;

use object::Expected;

use crate::catalog::Catalog;
use crate::error::Result;
use crate::store::Store;

/// Objects read at once, each held as a whole.
const READ_AT_ONCE: usize = 4;

/// Role of an object in a version.
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
    /// `unit.json` of a unit in a window, or one of its files.
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

/// A missing or wrong object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Path of the object in the store.
    pub path: String,
    /// Role of the object in the version, for people.
    pub part: String,
    /// Description of the damage.
    pub problem: String,
    #[serde(skip)]
    pub(crate) place: Place,
}

/// Result of verifying a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Number of the version.
    pub version: u32,
    /// Number of objects checked.
    pub objects: u64,
    /// Number of bytes read.
    pub bytes: u64,
    /// Damaged objects, in the order in which objects refer to each other.
    pub damaged: Vec<Damage>,
}

/// A version as far as it was readable.
pub(crate) struct Examined {
    pub(crate) verification: Verification,
    pub(crate) manifest: Option<VersionManifest>,
    /// Window records, `None` for unreadable ones; empty without manifest.
    pub(crate) windows: Vec<Option<WindowRecord>>,
}

/// Verifies versions of one dataset. Reads objects that several versions share once.
pub struct Verifier {
    store: Store,
    catalog: Catalog,
    dataset: String,
    /// Files read so far, with their sizes and problems.
    read: HashMap<String, (u64, Option<String>)>,
}

impl Verifier {
    /// Makes a verifier for versions of `dataset`.
    #[must_use]
    pub fn new(store: &Store, dataset: &str) -> Self {
        let catalog = Catalog::new(store.clone(), dataset);
        Self { store: store.clone(), catalog, dataset: dataset.to_owned(), read: HashMap::new() }
    }

    /// Verifies `version`, and the tags that name it.
    ///
    /// # Errors
    /// Those of the store; damage is no error.
    pub async fn version(&mut self, version: u32) -> Result<Verification> {
        Ok(self.examine(version).await?.verification)
    }

    /// Verifies all versions, and checks that tags name existing ones.
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

    /// Verifies a version and keeps its readable records.
    pub(crate) async fn examine(&mut self, version: u32) -> Result<Examined> {
        let mut found = Verification { version, objects: 0, bytes: 0, damaged: Vec::new() };
        let Some(manifest) = self.manifest(version, &mut found).await? else {
            return Ok(Examined { verification: found, manifest: None, windows: Vec::new() });
        };
        let mut windows = Vec::with_capacity(manifest.windows.len());
        for index in 0..manifest.windows.len() {
            windows.push(self.window_record(&manifest, index, &mut found).await?);
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

    /// Reads files, a few at once, and notes their damage.
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
    /// Checks whether nothing is damaged.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty()
    }

    fn damage(&mut self, path: String, place: Place, problem: impl Into<String>) {
        // Several records may refer to one object.
        if !self.damaged.iter().any(|damage| damage.path == path) {
            self.damaged.push(Damage { path, part: place.name(), problem: problem.into(), place });
        }
    }
}
