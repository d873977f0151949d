//! All end-to-end tests in one program, because linking the whole pipeline into each program takes minutes.

mod annotate;
mod buckets;
mod corrupt;
mod damage;
mod doors;
mod exports;
mod faults;
mod fit;
mod given;
mod incremental;
mod inspect;
mod metrics;
mod quarantine;
mod refused;
mod repeat;
mod report;
mod requests;
mod round_trip;
mod servers;
mod stores;
mod text;
mod tokenizers;
mod variants;
mod versions;
mod withdraw;
mod workspace;
