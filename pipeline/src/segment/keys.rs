//! The keys of all units of a window, known before any of them is worked on. Each segment makes its own beside its stages.

use cm3flow_schemas::Digest;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::window::{SourceUnit, WindowKeys};

use crate::artefact::Artefacts;
use crate::config::Config;

/// Makes the keys of a configuration.
#[derive(Clone, Copy)]
pub(crate) struct KeyMaker<'a> {
    pub config: &'a Config,
    pub artefacts: &'a Artefacts,
}

impl KeyMaker<'_> {
    /// Keys of the window of `units` behind the one with the settle key `settled_before`.
    pub(crate) fn window(&self, settled_before: Option<Digest>, units: &[SourceUnit], blocklist: Option<Digest>) -> WindowKeys {
        let prepare: Vec<Digest> = units.iter().map(|unit| self.prepare(unit)).collect();
        let settle = self.settle(settled_before, &prepare, blocklist);
        let compose: Vec<Digest> = prepare.iter().enumerate().map(|(place, prepared)| self.compose(settle, *prepared, place)).collect();
        let pack = Split::ALL.map(|split| self.pack(&compose, split));
        WindowKeys { compose, pack, prepare, settle: [settle] }
    }
}
