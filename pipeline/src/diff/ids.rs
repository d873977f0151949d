//! Which kept samples only one of two versions has.
//!
//! Windows that both share are skipped. Of the others, columns of ids are streamed in several passes, each for one part of all ids: what
//! is held at once does not grow with the versions.

use std::collections::BTreeSet;
use std::ops::Range;

use arrow::array::{Array, AsArray};
use cm3flow_schemas::sample::{ImageId, SampleId};
