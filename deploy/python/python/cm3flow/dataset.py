"""Versions of a store as an iterable dataset."""

from __future__ import annotations

import copy
import json
import operator
import os
import sys
from types import FrameType
from typing import Any, Iterator, Mapping, Optional, Sequence, Union

from . import _reader
from .batch import Batch
from .passes import Passes, Start, get_worker_info, start_of, state_of
from .ranks import Ranks, Shard, of_environment, of_group, refuse_loaders

try:
    import torch
    from torch.utils.data import IterableDataset as _Base
except ImportError:
    torch = None  # type: ignore[assignment]
    _Base = object  # type: ignore[assignment,misc]


Weights = Mapping[str, float]
Schedule = Sequence[tuple[int, Weights]]

_ALONE = "packs"


class PackedDataset(_Base):  # type: ignore[misc,valid-type]
    """Batches of packs in an order that depends on versions, weights and seed alone: on no number of ranks or workers.

    For `DataLoader(dataset, batch_size=None, num_workers=…)`, or to iterate over. Nothing is opened, and no thread started, before the first
    batch is asked for, in whichever process that is.

    uri: `STORE/versions/DATASET/N.json`, `STORE/versions/DATASET` (the highest version) or `STORE/tags/DATASET/TAG`, where `STORE` is a path or
        a URL (`s3://`, `gs://`, `az://`, `https://`); or several of them by name. What the trainer goes on with later should name its number.
    batch_size: packs of a batch of one rank.
    split: `"train"` or `"held_out"`.
    seed: seed of the order.
    weights: shares of several sources, by name; equal ones by default.
    schedule: weights that change: `[(position, weights), …]` from position 0 on, positions counted in packs over all ranks.
    end: `"repeat"`: epochs follow each other for ever. `"drop"`: a loop reads `epochs` epochs, without the packs that fill no last global batch.
        `"pad"`: `epochs` epochs, and the last global batch is filled up from the epoch behind them. Every rank gets as many batches as any other.
        A loop behind a finished one reads the epochs behind those of that; `set_epoch` says it outright.
    dtype: `"int64"`, or `"uint16"` for views of the ids as they are stored, without a copy.
    tensors: whether batches hold tensors or NumPy arrays; tensors by default, if PyTorch is there.
    rank, world_size: this process among those that train together; found out by default, when the first batch is asked for.
    ranks_per_batch: ranks of the process group that read the same batches, as those of tensor or pipeline parallelism do. Neighbours share them
        unless `rank` and `world_size` are given.
    options: settings of the store by the names of `object_store`, such as `region`, `endpoint`, `allow_http`; they win over the environment.
    prefetch_bytes, cache_bytes: memory of each source for blocks of a remote store, ahead and behind.
    follow: read the windows of a run that is still at work, as it commits them; the order is that of the version that it publishes.
    follow_silence_seconds: a run that gives no sign of life for so long has stopped, which is an error.
    """

    def __init__(
        self,
        uri: Union[str, Mapping[str, str]],
        batch_size: int,
        *,
        split: str = "train",
        seed: int = 0,
        weights: Optional[Weights] = None,
        schedule: Optional[Schedule] = None,
        end: str = "repeat",
        epochs: int = 1,
        dtype: str = "int64",
        tensors: Optional[bool] = None,
        rank: Optional[int] = None,
        world_size: Optional[int] = None,
        ranks_per_batch: int = 1,
        options: Optional[Mapping[str, str]] = None,
        prefetch_bytes: int = 64 << 20,
        cache_bytes: int = 64 << 20,
        follow: bool = False,
        follow_look_seconds: float = 1.0,
        follow_silence_seconds: float = 20.0,
    ) -> None:
        super().__init__()
        if dtype not in ("int64", "uint16"):
            raise ValueError(f'dtype must be "int64" or "uint16", got {dtype!r}')
        if tensors and torch is None:
            raise ValueError("tensors=True needs PyTorch, which is not installed")
        if weights is not None and schedule is not None:
            raise ValueError("give weights or a schedule of them, not both")
        if ranks_per_batch < 1:
            raise ValueError(f"ranks_per_batch must be at least 1, got {ranks_per_batch}")
        if (rank is None) != (world_size is None):
            raise ValueError("give both rank and world_size, or neither")
        # In order of name: what a position reads must not depend on the order in which sources were named.
        sources = dict(sorted(uri.items())) if isinstance(uri, Mapping) else {_ALONE: os.fspath(uri)}
        phases = schedule if schedule is not None else [(0, weights if weights is not None else dict.fromkeys(sources, 1.0))]
        self._given = None if rank is None or world_size is None else Ranks(rank, world_size)
        self._ranks_per_batch = ranks_per_batch
        # What the process that made a worker knows of its ranks.
        self._told: Optional[Ranks] = None
        self._widen = dtype == "int64"
        self._tensors = torch is not None if tensors is None else tensors
        self._options: dict[str, Any] = {
            "sources": [[name, os.fspath(address)] for name, address in sources.items()],
            "store": {name: str(value) for name, value in (options or {}).items()},
            "phases": [{"from": position, "weights": dict(shares)} for position, shares in phases],
            "seed": seed,
            "split": split,
            "batch_size": batch_size,
            "end": end,
            "epochs": epochs,
            "prefetch_bytes": prefetch_bytes,
            "cache_bytes": cache_bytes,
            "follow": follow,
            "follow_look_seconds": follow_look_seconds,
            "follow_silence_seconds": follow_silence_seconds,
        }
        self._passes = Passes()
        self._batches: Optional[_Batches] = None

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the loaded state on, or from the beginning, with workers or without. A loop that was left early begins there anew; one behind
        a finished loop begins with the next pass."""
        shard = Shard.around(self, sys._getframe(1))
        self._batches = _Batches(self, shard)
        return self._batches if shard is None else shard.fill(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """Lets loops begin with pass `epoch`, counted from 0, as trainers call it before each: pass `n` reads epochs `n * epochs` and following, in
        the order and of the variants that `end="repeat"` gives them. If the loaded state lies in it, the loop goes on there. With `end="repeat"` there
        is one pass, and nothing changes."""
        epoch = operator.index(epoch)
        if epoch < 0:
            raise ValueError(f"an epoch is 0 or more, got {epoch}")
        refuse_loaders(self)
        if self._options["end"] == "repeat":
            return
        self._passes.set_epoch(epoch)
        if self._batches is not None and self._batches.is_over:
            self._batches = None

    def state_dict(self) -> dict[str, Any]:
        """Where this process stands. In a worker that is where the worker stands, as `StatefulDataLoader` wants it, and holds for as many
        workers alone; `Batch.state` holds for any number of ranks and workers."""
        return state_of(self._passes.start()) if self._batches is None else self._batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Lets loops begin behind the batch whose `state` this is, or where `state_dict` stood."""
        self._passes.load(start_of(state))
        self._batches = None

    def __getstate__(self) -> dict[str, Any]:
        # A reader belongs to its process; another one goes on where it stands.
        refuse_loaders(self)
        return {**self.__dict__, "_batches": None, "_told": of_group() or self._told, "_passes": copy.copy(self._passes)}

    def _ranks(self, shard: Optional[Shard]) -> Ranks:
        """Those of this process, as far as is known now."""
        group = of_group()
        if group is None and get_worker_info() is not None:
            group = self._told
        per_batch = self._ranks_per_batch
        if shard is not None:
            found, who = shard.ranks, "Accelerate"
        else:
            all_ranks, who = group or of_environment(), "the process group"
            if all_ranks.world_size % per_batch > 0:
                raise ValueError(f"ranks_per_batch = {per_batch} does not divide the {all_ranks.world_size} ranks")
            found = Ranks(all_ranks.rank // per_batch, all_ranks.world_size // per_batch)
        given = self._given
        if given is None:
            return found
        is_known = shard is not None or group is not None
        if is_known and (given.world_size != found.world_size or (per_batch == 1 and given.rank != found.rank)):
            raise ValueError(
                f"rank and world_size say {given}, but {who} says {found}: leave both out, or say with ranks_per_batch how many ranks of the process "
                "group read the same batches"
            )
        return given

    def _reader_options(self, ranks: Ranks = Ranks(0, 1), worker: int = 0, workers: int = 1) -> str:
        return json.dumps({**self._options, "rank": ranks.rank, "world_size": ranks.world_size, "worker": worker, "workers": workers})

    def _describe(self, source: int) -> dict[str, Any]:
        return json.loads(_reader.describe(self._reader_options(), source))

    def describe(self) -> dict[str, dict[str, Any]]:
        """Of each source: dataset, version, seq_len, vocabulary, and packs of the split, all of them and those of each variant, of which an epoch
        reads one. Reads the manifests."""
        return {name: self._describe(number) for number, (name, _) in enumerate(self._options["sources"])}

    def __len__(self) -> int:
        """Batches of each rank and all workers in the whole pass that the next loop reads; there is no number for what never ends or is still being
        made."""
        if self._options["end"] == "repeat":
            raise TypeError('a dataset with end="repeat" never ends')
        if self._options["follow"]:
            raise TypeError("a dataset that is followed has no length yet")
        shard = Shard.around(self, sys._getframe(1))
        batches = _reader.pass_batches(self._reader_options(self._ranks(shard)), _started(self._passes.start()))
        assert batches is not None
        return batches if shard is None else batches * shard.ranks.world_size

    def stalls(self) -> dict[str, Any]:
        """How long batches of this process waited for blocks: `batches[0]` waited less than a microsecond, `batches[k]` from 2^(k-1) to 2^k."""
        if self._batches is None:
            return {"batches": [], "waited_us": 0}
        return self._batches.stalls()


def _started(start: Start) -> str:
    """A start as the reader takes it."""
    return json.dumps({key: start[key] for key in ("state", "last", "next", "epoch", "or_next") if key in start})


class _Batches:
    """A loop. It is rebuilt, where it stands, in a process that was forked meanwhile."""

    def __init__(self, dataset: PackedDataset, shard: Optional[Shard]) -> None:
        self._dataset = dataset
        self._shard = shard
        self._tensors = dataset._tensors
        info = get_worker_info()
        self._worker, self._workers = (0, 1) if info is None else (info.id, info.num_workers)
        self._is_in_worker = info is not None
        # What a worker reads goes to another process, where it is widened.
        self._form = ("int64" if info is None else "stored") if dataset._widen else "views"
        self._beginning = dataset._passes.begin()
        self._reader: Optional[_reader.Reader] = None
        self._process = 0
        self._global_batch = 0
        # A state is asked for before most batches by nobody: the text of the last one will do.
        self._last = ""
        self._is_finished = False
        self.is_over = False

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> Batch:
        if self._process != os.getpid():
            self._check_single(sys._getframe(1))
            self._open()
        assert self._reader is not None
        parts = self._reader.next(self._form)
        if parts is None:
            self._finish()
            self.is_over = True
            raise StopIteration
        tokens, segments, weights, documents, self._last, is_last = parts
        if is_last:
            self._finish()
        if self._tensors:
            segments, weights, documents = (torch.from_numpy(array) for array in (segments, weights, documents))
            if self._form == "int64":
                tokens = torch.from_numpy(tokens)
        if self._form == "stored":
            return Batch(None, segments, weights, documents, self._last, tokens)
        return Batch(tokens, segments, weights, documents, self._last)

    def _check_single(self, caller: FrameType) -> None:
        """Workers give their batches in turn, so a loader that joins several of one worker would leave gaps behind a state."""
        joined = self._shard.own if self._shard is not None else 1
        if self._shard is None and caller.f_code.co_name == "fetch":
            indices = caller.f_locals.get("possibly_batched_index")
            joined = len(indices) if isinstance(indices, list) else 1
        if joined > 1 and self._workers > 1:
            raise ValueError(
                f"the loader joins {joined} batches of each of {self._workers} workers, which mixes up their order: give PackedDataset the batch size, "
                "and the loader batch_size=None (1 where a trainer wants a number)"
            )

    def _open(self) -> None:
        """Opens a reader where the loop stands."""
        dataset = self._dataset
        refuse_loaders(dataset)
        found = dataset._ranks(self._shard)
        before = Ranks(*dataset._passes.ranks(found))
        if before != found:
            raise RuntimeError(
                f"batches of this dataset were read as {before}, and now this process is {found}: ask for the first batch after "
                "init_process_group, or make another dataset, which goes on from the state of a batch"
            )
        start = self._beginning.start()
        if self._last:
            # Forked: what the parent's reader knew is known from its last batch.
            start = {"state": json.loads(self._last)}
            if self._workers > 1:
                raise RuntimeError("a worker of a DataLoader was forked; iterate over a dataset of its own there")
        self._global_batch = dataset._options["batch_size"] * found.world_size
        for key, here in (("worker", self._worker), ("workers", self._workers), ("global_batch", self._global_batch)):
            if start.get(key, here) != here:
                raise ValueError(
                    f"the state is that of worker {start['worker']} of {start['workers']} and of global batches of {start.get('global_batch', '?')}, this is "
                    f"worker {self._worker} of {self._workers} and {self._global_batch}; load the `state` of a batch to change their numbers"
                )
        options = dataset._reader_options(found, self._worker, self._workers)
        self._reader, self._process = _reader.Reader(options, _started(start)), os.getpid()

    def _finish(self) -> None:
        if self._is_finished or self._reader is None:
            return
        self._is_finished = True
        epoch = self._reader.epoch()
        if epoch is not None:
            self._beginning.finish(epoch)

    def state_dict(self) -> dict[str, Any]:
        if self._is_in_worker and self._last:
            return {"worker": self._worker, "workers": self._workers, "global_batch": self._global_batch, "last": json.loads(self._last)}
        start = self._beginning.planned
        epoch = self._reader.epoch() if self.is_over and self._reader is not None and self._process == os.getpid() else None
        if epoch is not None:
            # The next loop is another one, even where no batch was left of this one.
            return state_of({"state": json.loads(self._last) if self._last else start.get("state"), "epoch": epoch + 1})
        return json.loads(self._last) if self._last else state_of(start)

    def stalls(self) -> dict[str, Any]:
        if self._reader is None or self._process != os.getpid():
            return {"batches": [], "waited_us": 0}
        return json.loads(self._reader.stalls())
