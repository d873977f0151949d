"""Where loops over a dataset begin, seen alike by the process that loops and by the workers of its loaders.

A loop reads one pass. A finished pass lets the next loop begin with the next one, but it is a worker that knows of its end, and the next loop may have
other workers. So what is known is a record, which its process keeps to itself until it forks or spawns: from then on it lies in a file under a lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import weakref
from contextlib import contextmanager
from multiprocessing.context import get_spawning_popen
from typing import Any, Iterator, Optional

try:
    from torch.utils.data import get_worker_info
except ImportError:

    def get_worker_info() -> Any:  # type: ignore[misc]
        return None


Start = dict[str, Any]
"""Where a reader begins: behind `state`, or with pass `epoch`, or with the next pass if nothing is left of that of the state (`or_next`); or behind
the batch `last` (before the batch `next`) of worker `worker` of `workers`, for which a global batch had `global_batch` packs."""

# Beginnings of loops that are remembered. Workers of one loop begin within a few batches of each other.
_KEPT = 64

_living: weakref.WeakSet[Passes] = weakref.WeakSet()


def start_of(state: Any) -> Start:
    """Where a state that a dataset or batch gave lets a reader begin."""
    state = dict(state)
    if "worker_state" in state:
        # No batch was read yet.
        return {"state": state.pop("worker_state"), **state}
    if "worker" in state:
        # Earlier releases kept the next batch.
        return {"next" if key == "state" else key: value for key, value in state.items()}
    if "position" in state:
        return {"state": state}
    raise ValueError("this is no state of a reader: it has neither a position nor a worker")


def state_of(start: Start) -> dict[str, Any]:
    """The state that `start_of` turns into this start."""
    if "worker" in start:
        return {"state" if key == "next" else key: value for key, value in start.items()}
    return {"worker_state": start.get("state"), **{key: value for key, value in start.items() if key != "state"}}


class Passes:
    """The record of a dataset. A copy in a process that is no worker of a loader goes its own way."""

    def __init__(self) -> None:
        self._record: dict[str, Any] = {
            # How often somebody said where to begin, what was loaded, and the pass to begin with.
            "generation": 0,
            "start": {},
            "epoch": None,
            # What workers were handed one by one, and where loops of workers began.
            "loaded": {"workers": 0, "starts": {}},
            "begun": {},
            # Rank and number of ranks for which batches were read.
            "ranks": None,
        }
        self._path: Optional[str] = None
        self._owner = os.getpid()
        self._begins = 0
        self._handed: Optional[Start] = None
        _living.add(self)

    def load(self, start: Start) -> None:
        """Begins there from now on. A worker is told its own place, for one loop."""
        info = get_worker_info()
        with self._opened() as record:
            if info is None:
                record.update(generation=record["generation"] + 1, start=start, epoch=None, loaded={"workers": 0, "starts": {}})
            else:
                self._handed = start
                if record["loaded"]["workers"] != info.num_workers:
                    record["loaded"] = {"workers": info.num_workers, "starts": {}}
                record["loaded"]["starts"][str(info.id)] = start

    def set_epoch(self, epoch: int) -> None:
        """Begins with this pass from now on."""
        with self._opened() as record:
            record.update(generation=record["generation"] + 1, epoch=epoch)

    def finish(self, epoch: int, generation: int) -> None:
        """Lets loops begin behind pass `epoch`, unless somebody said otherwise since the loop over it began."""
        with self._opened() as record:
            if record["generation"] == generation:
                record["epoch"] = max(record["epoch"] or 0, epoch + 1)

    def ranks(self, ranks: tuple[int, int]) -> tuple[int, int]:
        """Those for which batches were read first, which are these if none were."""
        with self._opened() as record:
            record["ranks"] = record["ranks"] or list(ranks)
            rank, world_size = record["ranks"]
        return rank, world_size

    def start(self) -> Start:
        """Where a loop of this process would begin now."""
        with self._opened() as record:
            return _start(record)

    def begin(self) -> Beginning:
        """Begins a loop."""
        info = get_worker_info()
        if info is None:
            with self._opened() as record:
                return Beginning(self, record["generation"], _start(record))
        handed, self._handed = self._handed, None
        if self._path is None and self._owner == os.getpid():
            # A dataset that the worker made: its neighbours have others, and each reads whole passes.
            return Beginning(self, self._record["generation"], handed or _start(self._record))
        if self._path is None:
            raise RuntimeError(f"this worker shares nothing with its loader: no file could be made in {_folder()}")
        if self._begins > 0:
            self._refresh()
        # What was known when the worker was forked is what its neighbours knew: the loop may be at its end before the last of them begins.
        seen, self._begins = self._record, self._begins + 1
        return Beginning(self, seen["generation"], handed, (f"{info.seed - info.id}/{self._begins}", info.id, seen))

    def agree(self, loop: str, worker: int, seen: dict[str, Any]) -> Start:
        """Where this loop of several workers begins: the first of them says it."""
        with self._opened() as record:
            agreed = record["begun"].pop(loop, None)
            # A generator that was seeded anew gives loops the same name. What was said since the first worker began is not for this loop.
            if agreed is None or worker in agreed["workers"]:
                known = record if record["generation"] == seen["generation"] else seen
                agreed = {"generation": seen["generation"], "workers": [], "start": _start(known)}
            agreed["workers"].append(worker)
            record["begun"][loop] = agreed
            for old in list(record["begun"])[:-_KEPT]:
                del record["begun"][old]
            return agreed["start"]

    def share(self) -> None:
        """Lets a process that is about to be made see the record."""
        self._settle()
        if self._path is None:
            file, self._path = tempfile.mkstemp(prefix="cm3flow-passes-", dir=_folder())
            with open(file, "wb") as opened:
                opened.write(_written(self._record))
            weakref.finalize(self, _remove, self._path, os.getpid())
        else:
            self._refresh()

    def __getstate__(self) -> dict[str, Any]:
        is_spawned = get_spawning_popen() is not None
        if is_spawned and get_worker_info() is None:
            self.share()
        with self._opened() as record:
            copied = json.loads(json.dumps(record))
        return {"_record": copied, "_path": self._path if is_spawned else None, "_owner": self._owner, "_begins": 0, "_handed": self._handed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _living.add(self)

    def _refresh(self) -> None:
        with self._opened():
            pass

    def _settle(self) -> None:
        """Parts with the process that this one comes from, unless it is a worker of it."""
        if get_worker_info() is None and self._owner != os.getpid():
            self._record = {**self._record, "begun": {}, "ranks": None}
            self._path, self._owner = None, os.getpid()

    @contextmanager
    def _opened(self) -> Iterator[dict[str, Any]]:
        """The record as it is now; changes are kept."""
        self._settle()
        if self._path is None:
            yield self._record
            return
        with open(self._path, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            before = file.read()
            # Behind the first line may be what is left of a longer record.
            self._record = json.loads(before.split(b"\n", 1)[0])
            yield self._record
            after = _written(self._record)
            if not before.startswith(after):
                os.pwrite(file.fileno(), after, 0)


class Beginning:
    """A loop that is about to begin. Where, is settled when its first batch is asked for, among all its workers."""

    def __init__(self, passes: Passes, generation: int, start: Optional[Start], loop: Optional[tuple[str, int, dict[str, Any]]] = None) -> None:
        self._passes = passes
        self._generation = generation
        self._start = start
        self._loop = loop

    @property
    def planned(self) -> Start:
        """Where it begins as far as is known."""
        return self._start if self._start is not None or self._loop is None else _start(self._loop[2])

    def start(self) -> Start:
        if self._start is None and self._loop is not None:
            self._start = self._passes.agree(*self._loop)
        assert self._start is not None
        return self._start

    def finish(self, epoch: int) -> None:
        """Says that the pass was read."""
        self._passes.finish(epoch, self._generation)


def _folder() -> str:
    # Memory, where PyTorch's workers have theirs too, and where no file is removed for its age.
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()


def _start(record: dict[str, Any]) -> Start:
    start: Start = dict(record["start"])
    handed = list(record["loaded"]["starts"].values())
    if handed:
        last = [each["last"] for each in handed if "last" in each]
        coming = [each["next"] for each in handed if "next" in each]
        if last:
            # The loop goes on behind the furthest batch that a worker gave, and is at its end if nothing is left behind that.
            start = {"state": max(last, key=_position), "or_next": True}
        elif coming:
            start = {"state": min(coming, key=_position), "or_next": True}
        else:
            start = dict(handed[0])
    if record["epoch"] is not None:
        start.pop("or_next", None)
        start["epoch"] = record["epoch"]
    return start


def _position(state: dict[str, Any]) -> int:
    return state["position"]


def _written(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _remove(path: str, owner: int) -> None:
    # A forked process has the finalizers of the one that it comes from.
    if owner == os.getpid() and os.path.exists(path):
        os.remove(path)


def _share_all() -> None:
    if get_worker_info() is None:
        for passes in list(_living):
            passes.share()


os.register_at_fork(before=_share_all)
