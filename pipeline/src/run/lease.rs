//! Leases and heartbeats, which tell whether a run is at work on a dataset.
//!
//! `leases/<dataset>/<k>.json` are numbered and append-only; the highest one holds. A lease only saves work: put-if-absent of the
//! version keeps a dataset whole even if two runs work on it. A run at work leaves heartbeats, `runs/<run>/heartbeat/<k>.json`. Nobody
//! compares clocks: a run that wants the lease watches whether heartbeats go on. A run on the same machine whose process is gone counts
//! as dead at once, so that a killed job can start again without waiting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cm3flow_schemas::layout;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::config::Job;
use crate::error::{PipelineError, Result};
use crate::events::Event;
use crate::events::progress::Progress;
use crate::store::{Created, Store};

/// Time between two checks of a run that holds the lease: one second, in tests less.
const LOOK: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 1000 });
/// Time between two heartbeats.
const HEARTBEAT: Duration = LOOK.saturating_mul(5);
/// Time without a heartbeat after which a run counts as dead.
const SILENCE: Duration = LOOK.saturating_mul(20);

/// Behaviour if another run is at work on the dataset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LeaseMode {
    /// End with an error that names it
    #[default]
    Refuse,
    /// Wait until it has ended
    Wait,
    /// Work beside it; whoever publishes later goes on from what the other one published
    Ignore,
}

/// Identity of a process, so that others can tell whether it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    /// Name of the machine.
    host: String,
    /// Boot id of the machine and pid namespace of the process: pids from elsewhere mean nothing here.
    world: String,
    /// Process id.
    pid: u32,
    /// Start of the process in ticks since the machine's start, since process ids are used again.
    started: u64,
}

impl Holder {
    fn this_process() -> Self {
        let pid = std::process::id();
        let host = read("/proc/sys/kernel/hostname");
        Self { host, world: world(), pid, started: started(pid).unwrap_or_default() }
    }

    /// Checks whether the process is gone; `None` if this process cannot tell.
    fn is_gone(&self) -> Option<bool> {
        let here = Self { pid: self.pid, started: self.started, ..Self::this_process() };
        (*self == here && !self.world.is_empty()).then(|| started(self.pid) != Some(self.started))
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn world() -> String {
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", read("/proc/sys/kernel/random/boot_id"), namespace.display())
}

/// Returns the start of process `pid`, in ticks since the machine's start; `None` without such a process.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the start is the 20th field after it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // A zombie has ended, though its parent has not waited for it.
    (fields.first() != Some(&"Z")).then(|| fields.get(19)?.parse().ok()).flatten()
}

/// Record of a lease, `leases/<dataset>/<k>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LeaseRecord {
    /// Folder of the run that took the lease.
    run: String,
    /// Process of that run.
    holder: Holder,
    /// `true` if the run has ended and released the lease.
    released: bool,
}

/// The lease of a dataset, with the heartbeats of the run that holds it. Dropping it ends both.
#[derive(Debug)]
pub(crate) struct Lease {
    store: Store,
    folder: String,
    number: u64,
    record: LeaseRecord,
    heartbeats: JoinHandle<()>,
}

impl Lease {
    /// Takes the lease of the dataset of `job` for the run in the folder `run`.
    ///
    /// # Errors
    /// [`PipelineError::Held`] if another run is at work and `mode` refuses that, or those of the store.
    pub(crate) async fn take(job: &Job, run: &str, mode: LeaseMode) -> Result<Self> {
        let (Job { store, progress, .. }, dataset) = (job, job.dataset());
        let folder = layout::leases(dataset);
        let record = LeaseRecord { run: run.to_owned(), holder: Holder::this_process(), released: false };
        let mut number = 0;
        loop {
            let mut taken_over = None;
            let latest = latest(store, &folder).await?;
            if let Some((k, held)) = &latest {
                number = *k;
                if !held.released && mode != LeaseMode::Ignore && is_alive(store, held).await? {
                    if mode == LeaseMode::Refuse {
                        return Err(held.refused(dataset));
                    }
                    if !wait_for(store, &folder, *k, held, progress).await? {
                        continue;
                    }
                }
                taken_over = (!held.released && mode != LeaseMode::Ignore).then(|| held.clone());
            }
            number += 1;
            if store.create_record(&layout::numbered(&folder, number), &record).await? == Created::Different {
                continue;
            }
            if let Some(dead) = taken_over {
                progress.tell(Event::LeaseTakenOver { holder: dead.process(), run: dead.run });
            }
            // Only the highest record counts.
            if let Some((before, _)) = latest {
                store.delete(&layout::numbered(&folder, before)).await?;
            }
            let heartbeats = tokio::spawn(beat(store.clone(), run.to_owned(), record.holder.clone()));
            return Ok(Self { store: store.clone(), folder, number, record, heartbeats });
        }
    }

    /// Releases the lease. If the store cannot be reached, the end of the heartbeats releases it instead.
    pub(crate) async fn release(mut self) {
        self.heartbeats.abort();
        // A heartbeat in progress must end before the release deletes heartbeats.
        let _ = (&mut self.heartbeats).await;
        if let Err(error) = self.end().await {
            tracing::warn!(%error, "could not give back the lease");
        }
    }

    async fn end(&self) -> Result<()> {
        let (number, folder) = (self.number + 1, &self.folder);
        let released = LeaseRecord { released: true, ..self.record.clone() };
        // If the record is different, another run took the lease over.
        if self.store.create_record(&layout::numbered(folder, number), &released).await? != Created::Different {
            self.store.delete(&layout::numbered(folder, self.number)).await?;
        }
        // A run that had nothing to do leaves no other objects, so this removes its last trace.
        let heartbeats = layout::heartbeats(&self.record.run);
        for name in self.store.names(&heartbeats).await? {
            self.store.delete(&format!("{heartbeats}/{name}")).await?;
        }
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.heartbeats.abort();
    }
}

impl LeaseRecord {
    fn refused(&self, dataset: &str) -> PipelineError {
        PipelineError::Held { dataset: dataset.to_owned(), run: self.run.clone(), holder: self.process() }
    }

    /// Describes the holder's process, for people.
    fn process(&self) -> String {
        let Holder { host, pid, .. } = &self.holder;
        format!("process {pid} on {host}")
    }
}

async fn latest(store: &Store, folder: &str) -> Result<Option<(u64, LeaseRecord)>> {
    loop {
        let Some(number) = layout::highest(&store.names(folder).await?) else { return Ok(None) };
        // Another run may have written the next record and deleted this one since the listing.
        if let Some(record) = store.record(&layout::numbered(folder, number), "lease").await? {
            return Ok(Some((number, record)));
        }
        tokio::time::sleep(LOOK / 10).await;
    }
}

/// Checks whether the run of `held` is at work: its process exists, or its heartbeats go on.
async fn is_alive(store: &Store, held: &LeaseRecord) -> Result<bool> {
    if let Some(is_gone) = held.holder.is_gone() {
        return Ok(!is_gone);
    }
    let heartbeats = layout::heartbeats(&held.run);
    let (first, start) = (layout::highest::<u64>(&store.names(&heartbeats).await?), Instant::now());
    while start.elapsed() < SILENCE {
        tokio::time::sleep(LOOK).await;
        if layout::highest(&store.names(&heartbeats).await?) != first {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits for the end of lease `number`. Returns `false` if another record follows it, `true` if its run is dead.
async fn wait_for(store: &Store, folder: &str, number: u64, held: &LeaseRecord, progress: &Progress) -> Result<bool> {
    progress.tell(Event::LeaseWaited { run: held.run.clone(), holder: held.process() });
    loop {
        tokio::time::sleep(LOOK).await;
        if layout::highest(&store.names(folder).await?) != Some(number) {
            return Ok(false);
        }
        if !is_alive(store, held).await? {
            return Ok(true);
        }
    }
}

/// Leaves heartbeats until aborted. Deletes older ones, so that a long run leaves two.
async fn beat(store: Store, run: String, holder: Holder) {
    let holder = Arc::new(holder);
    for number in 0_u64.. {
        let path = |number: u64| layout::numbered(&layout::heartbeats(&run), number);
        let mut left = store.create_record(&path(number), &*holder).await.map(|_| ());
        if let (Ok(()), Some(old)) = (&left, number.checked_sub(2)) {
            left = store.delete(&path(old)).await;
        }
        if let Err(error) = left {
            tracing::warn!(%error, "a heartbeat was not left");
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn store() -> Store {
        Store::open("memory://", std::path::Path::new("")).expect("memory")
    }

    async fn take(store: &Store, run: &str, mode: LeaseMode) -> Result<Lease> {
        let source = "[[source]]\nname = \"s\"\nformat = \"images\"\nurl = \"x\"";
        let config = Config::parse(&format!("[dataset]\nname = \"d\"\n{source}"), std::path::Path::new("d.toml"))?;
        Lease::take(&Job::new(config, store.clone(), Progress::silent()), run, mode).await
    }

    #[tokio::test]
    async fn a_second_run_is_refused_until_the_first_has_ended() {
        let store = store();
        let first = take(&store, "runs/a", LeaseMode::Refuse).await.expect("nobody holds it");
        let refused = take(&store, "runs/b", LeaseMode::Refuse).await.expect_err("it is held");
        assert!(matches!(&refused, PipelineError::Held { run, .. } if run == "runs/a"), "{refused}");
        first.release().await;
        take(&store, "runs/b", LeaseMode::Refuse).await.expect("it was given back");
        assert_eq!(store.names("leases/d").await.expect("memory").len(), 1, "only the highest stays");
        assert!(store.names("runs/a/heartbeat").await.expect("memory").is_empty(), "what has ended has no heartbeats");
    }

    #[tokio::test]
    async fn the_lease_of_a_process_that_is_gone_is_taken_over_at_once() {
        let store = store();
        let gone = Holder { started: u64::MAX, ..Holder::this_process() };
        let record = LeaseRecord { run: "runs/a".into(), holder: gone, released: false };
        store.create_record("leases/d/7.json", &record).await.expect("memory");
        let start = Instant::now();
        let lease = take(&store, "runs/b", LeaseMode::Refuse).await.expect("the process is gone");
        assert!(lease.number == 8 && start.elapsed() < SILENCE / 2);
    }

    #[tokio::test]
    async fn a_run_elsewhere_is_alive_as_long_as_its_heartbeats_go_on() {
        let store = store();
        let elsewhere = Holder { world: "another machine".into(), ..Holder::this_process() };
        let beats = tokio::spawn(beat(store.clone(), "runs/a".into(), elsewhere.clone()));
        let record = LeaseRecord { run: "runs/a".into(), holder: elsewhere, released: false };
        store.create_record("leases/d/1.json", &record).await.expect("memory");
        assert!(matches!(take(&store, "runs/b", LeaseMode::Refuse).await, Err(PipelineError::Held { .. })));
        beats.abort();
        take(&store, "runs/b", LeaseMode::Wait).await.expect("its heartbeats have stopped");
    }

    #[tokio::test]
    async fn who_waits_gets_it_after_the_release() {
        let store = store();
        let first = take(&store, "runs/a", LeaseMode::Refuse).await.expect("nobody holds it");
        let waiting = tokio::spawn({
            let store = store.clone();
            async move { take(&store, "runs/b", LeaseMode::Wait).await.map(|lease| lease.record.run.clone()) }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        first.release().await;
        assert_eq!(waiting.await.expect("task").expect("it was given back"), "runs/b");
    }
}
