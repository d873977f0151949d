"""Which part of the global batches a process reads, as those who train and those who wrap loaders say it."""

from __future__ import annotations

import itertools
import os
import sys
from types import FrameType
from typing import Any, Iterator, NamedTuple, Optional

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]


class Ranks(NamedTuple):
    """A process among those that train together."""

    rank: int
    world_size: int

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size}"


def of_group() -> Optional[Ranks]:
    """Those of the process group, where there is one."""
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
    return None


def of_environment() -> Ranks:
    """Those that the launcher left in the environment, else one of one."""
    return Ranks(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


class Shard:
    """Accelerate's wrapper around a dataset that one loader of each process reads: it wants the batches of all processes and keeps those of its own.

    This dataset gives its process nothing but its own batches, so they stand in for those of the others.
    """

    def __init__(self, wrapper: Any) -> None:
        self.ranks = Ranks(wrapper.process_index, wrapper.num_processes)
        self._drop_last = wrapper.drop_last
        size = wrapper.batch_size
        # Of each group of batches that the wrapper waits for, the part of this process.
        self.own = size // self.ranks.world_size if wrapper.split_batches else size

    @classmethod
    def around(cls, dataset: Any, caller: FrameType) -> Optional[Shard]:
        """The wrapper of `dataset` that `caller` belongs to."""
        wrapper = caller.f_locals.get("self")
        if type(wrapper).__name__ != "IterableDatasetShard" or getattr(wrapper, "dataset", None) is not dataset:
            return None
        return cls(wrapper)

    def fill(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Each group of own batches once for each process. The last one is filled up from the first, as Accelerate does it, or left out."""
        first: list[Any] = []
        while own := list(itertools.islice(batches, self.own)):
            first = first or own
            if len(own) < self.own:
                if self._drop_last:
                    return
                own.extend(itertools.islice(itertools.cycle(first[:]), self.own - len(own)))
            for _ in range(self.ranks.world_size):
                yield from own


def refuse_loaders(dataset: Any) -> None:
    """Refuses loaders of Accelerate that a dataset cannot feed which gives each process its own part.

    # Source
    `GradientState.dataloader_references` of Accelerate: the prepared loaders that are looped over.
    """
    accelerate = sys.modules.get("accelerate.state")
    if accelerate is None or not accelerate.GradientState._shared_state:
        return
    for loader in accelerate.GradientState().dataloader_references:
        read = getattr(loader, "dataset", None)
        if type(loader).__name__ == "DataLoaderDispatcher" and read is dataset and loader.state.num_processes > 1:
            raise RuntimeError(
                "Accelerate reads this dataset in the main process alone and hands its batches out to all, but each process reads its own part of "
                "it: set dispatch_batches=False, in DataLoaderConfiguration for Accelerator or in accelerator_config for TrainingArguments"
            )
        if type(read).__name__ == "IterableDatasetShard" and read.dataset is dataset and read.batch_size is None:
            raise ValueError("Accelerate counts in batches of the loader: give it batch_size=1 and a collate_fn that takes the one batch of its list")
