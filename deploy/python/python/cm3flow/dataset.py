"""Versions of a store as an iterable dataset."""

from __future__ import annotations

import json
import os
from typing import Any, Iterator, Mapping, Optional, Sequence, Union

from . import _reader
from .batch import Batch

try:
    import torch
    from torch.utils.data import IterableDataset as _Base
    from torch.utils.data import get_worker_info
except ImportError:
    torch = None  # type: ignore[assignment]
    _Base = object  # type: ignore[assignment,misc]

    def get_worker_info() -> Any:  # type: ignore[misc]
        return None


Weights = Mapping[str, float]
Schedule = Sequence[tuple[int, Weights]]

_ALONE = "packs"


def _ranks() -> tuple[int, int]:
    """Rank and number of ranks of this process: those of torch.distributed, else of its launcher's environment, else one of one."""
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


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
    end: `"repeat"`: epochs follow each other for ever. `"drop"`: `epochs` epochs, without the packs that fill no last global batch.
        `"pad"`: `epochs` epochs, and the last global batch is filled up from the epoch behind them. Every rank gets as many batches as any other.
    dtype: `"int64"`, or `"uint16"` for views of the ids as they are stored, without a copy.
    tensors: whether batches hold tensors or NumPy arrays; tensors by default, if PyTorch is there.
    rank, world_size: this process among those that train together; found out by default.
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
        if (rank is None) != (world_size is None):
            raise ValueError("give both rank and world_size, or neither")
        # In order of name: what a position reads must not depend on the order in which sources were named.
        sources = dict(sorted(uri.items())) if isinstance(uri, Mapping) else {_ALONE: os.fspath(uri)}
        phases = schedule if schedule is not None else [(0, weights if weights is not None else dict.fromkeys(sources, 1.0))]
        ranks = _ranks() if rank is None or world_size is None else (rank, world_size)
        self._widen = dtype == "int64"
        self._tensors = torch is not None if tensors is None else tensors
        self._options: dict[str, Any] = {
            "sources": [[name, os.fspath(address)] for name, address in sources.items()],
            "store": {name: str(value) for name, value in (options or {}).items()},
            "phases": [{"from": position, "weights": dict(shares)} for position, shares in phases],
            "seed": seed,
            "split": split,
            "batch_size": batch_size,
            "rank": ranks[0],
            "world_size": ranks[1],
            "end": end,
            "epochs": epochs,
            "prefetch_bytes": prefetch_bytes,
            "cache_bytes": cache_bytes,
            "follow": follow,
            "follow_look_seconds": follow_look_seconds,
            "follow_silence_seconds": follow_silence_seconds,
        }
        # Where iterations begin, and where the last one stands.
        self._start: Optional[dict[str, Any]] = None
        self._batches: Optional[_Batches] = None

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the loaded state on, or from the beginning: each iteration begins there anew, with workers or without."""
        self._batches = _Batches(self)
        return self._batches

    def state_dict(self) -> dict[str, Any]:
        """Where this process stands. In a worker that is where the worker stands, as `StatefulDataLoader` wants it, and holds for as many
        workers alone; `Batch.state` holds for any number of ranks and workers."""
        if self._batches is not None:
            return self._batches.state_dict()
        return {"worker_state": self._start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Lets iterations begin behind the batch whose `state` this is, or where `state_dict` stood."""
        state = dict(state)
        if set(state) == {"worker_state"}:
            self._start = state["worker_state"]
        elif "position" in state or "worker" in state:
            self._start = state
        else:
            raise ValueError("this is no state of a reader: it has neither a position nor a worker")
        self._batches = None

    def __getstate__(self) -> dict[str, Any]:
        # A reader belongs to its process; another one goes on where it stands.
        state = dict(self.__dict__)
        if self._batches is not None:
            state["_batches"] = None
        return state

    def _worker(self) -> tuple[int, int]:
        info = get_worker_info()
        return (0, 1) if info is None else (info.id, info.num_workers)

    def _reader_options(self, worker: int, workers: int) -> str:
        return json.dumps({**self._options, "worker": worker, "workers": workers})

    def _describe(self, source: int) -> dict[str, Any]:
        return json.loads(_reader.describe(self._reader_options(0, 1), source))

    def describe(self) -> dict[str, dict[str, Any]]:
        """Of each source: dataset, version, seq_len, vocabulary, and packs of the split, all of them and those of each variant, of which an epoch
        reads one. Reads the manifests."""
        return {name: self._describe(number) for number, (name, _) in enumerate(self._options["sources"])}

    def __len__(self) -> int:
        """Batches of each rank and all workers from position 0 on; there is no number for what never ends or is still being made."""
        if self._options["end"] == "repeat":
            raise TypeError('a dataset with end="repeat" never ends')
        if self._options["follow"]:
            raise TypeError("a dataset that is followed has no length yet")
        packs = sum(_packs_in(source["variant_packs"], self._options["epochs"]) for source in self.describe().values())
        whole, rest = divmod(packs, self._options["batch_size"] * self._options["world_size"])
        return whole + (1 if rest and self._options["end"] == "pad" else 0)

    def stalls(self) -> dict[str, Any]:
        """How long batches of this process waited for blocks: `batches[0]` waited less than a microsecond, `batches[k]` from 2^(k-1) to 2^k."""
        if self._batches is None:
            return {"batches": [], "waited_us": 0}
        return self._batches.stalls()


def _packs_in(variant_packs: list[int], epochs: int) -> int:
    """Packs of so many epochs, which read one variant each, in turn."""
    rounds, rest = divmod(epochs, len(variant_packs))
    return rounds * sum(variant_packs) + sum(variant_packs[:rest])


class _Batches:
    """An iteration. It is rebuilt, where it stands, in a process that was forked meanwhile."""

    def __init__(self, dataset: PackedDataset) -> None:
        self._tensors = dataset._tensors
        # What a worker reads goes to another process, where it is widened.
        self._form = ("int64" if get_worker_info() is None else "stored") if dataset._widen else "views"
        self._worker, self._workers = dataset._worker()
        self._options = dataset._reader_options(self._worker, self._workers)
        self._stand = dataset._start
        self._reader: Optional[_reader.Reader] = None
        self._process = 0
        self._last = ""
        # A state is asked for before most batches by nobody: the text of the last one will do.
        self._is_new = True

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> Batch:
        if self._process != os.getpid():
            self._open()
        assert self._reader is not None
        parts = self._reader.next(self._form)
        self._is_new = False
        if parts is None:
            raise StopIteration
        tokens, segments, weights, documents, state = parts
        self._last = state
        if self._tensors:
            segments, weights, documents = (torch.from_numpy(array) for array in (segments, weights, documents))
            if self._form == "int64":
                tokens = torch.from_numpy(tokens)
        if self._form == "stored":
            return Batch(None, segments, weights, documents, state, tokens)
        return Batch(tokens, segments, weights, documents, state)

    def _open(self) -> None:
        """Opens a reader where the iteration stands."""
        stand = self._stand
        if not self._is_new:
            # Forked: what the parent's reader knew is known from its last batch.
            stand = json.loads(self._last)
            if self._workers > 1:
                raise RuntimeError("a worker of a DataLoader was forked; iterate over a dataset of its own there")
        reader = _reader.Reader(self._options)
        if stand is not None and "worker" in stand:
            if (stand["worker"], stand["workers"]) != (self._worker, self._workers):
                raise ValueError(
                    f"the state is that of worker {stand['worker']} of {stand['workers']}, this is worker {self._worker} of "
                    f"{self._workers}; load the `state` of a batch to change the number of workers"
                )
            reader.restore_worker(json.dumps(stand["state"]))
        elif stand is not None:
            reader.restore(json.dumps(stand))
        self._reader, self._process = reader, os.getpid()

    def state_dict(self) -> dict[str, Any]:
        if self._is_new or self._reader is None:
            return {"worker_state": self._stand}
        if self._workers == 1:
            return json.loads(self._last) if self._process != os.getpid() else json.loads(self._reader.worker_state())
        return {"worker": self._worker, "workers": self._workers, "state": json.loads(self._reader.worker_state())}

    def stalls(self) -> dict[str, Any]:
        if self._reader is None or self._process != os.getpid():
            return {"batches": [], "waited_us": 0}
        return json.loads(self._reader.stalls())
