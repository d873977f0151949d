"""Ranks are those of the process group at the first batch, and contradictions are errors."""

import json
import multiprocessing
import queue
import time

import pytest
import torch
from cm3flow import PackedDataset
from torch.utils.data import DataLoader

SIZE = 3


def rows(batches):
    return [row for batch in batches for row in batch.tokens.tolist()]


def loader(dataset, workers, method=None):
    return DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=method)


def error_of(action):
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def rank_of_two(rank, meeting, uri, sent, results):
    """One of two processes; `sent` is a dataset that the one that made it sent along."""
    made = {"here": PackedDataset(uri, SIZE, end="drop"), "sent": sent}
    read = PackedDataset(uri, SIZE, end="drop")
    next(iter(read))
    through_workers = PackedDataset(uri, SIZE, end="drop")
    next(iter(loader(through_workers, 1)))
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    got = {}
    for name, dataset in made.items():
        got[name] = [rows(loader(dataset, workers)) for workers in (0, 2)]
        got[f"{name}, length"] = len(dataset)
    got["spawned"] = rows(batch for _, batch in zip(range(5), loader(PackedDataset(uri, SIZE), 1, "spawn")))
    got["shared"] = rows(PackedDataset(uri, SIZE, end="drop", ranks_per_batch=2))
    got["given"] = rows(PackedDataset(uri, SIZE, end="drop", rank=rank, world_size=2))
    got["given and shared"] = rows(PackedDataset(uri, SIZE, end="drop", rank=0, world_size=1, ranks_per_batch=2))
    for name, arguments in {
        "alone": {"rank": 0, "world_size": 1},
        "exchanged": {"rank": 1 - rank, "world_size": 2},
        "three": {"rank": rank, "world_size": 3},
        "parts": {"ranks_per_batch": 3},
    }.items():
        got[name] = error_of(lambda: next(iter(loader(PackedDataset(uri, SIZE, **arguments), 0))))
        got[f"{name}, worker"] = error_of(lambda: next(iter(loader(PackedDataset(uri, SIZE, **arguments), 1))))
    got["read before"] = error_of(lambda: next(iter(read)))
    got["read before by workers"] = error_of(lambda: next(iter(loader(through_workers, 1))))
    results.put((rank, json.dumps(got)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(uri, tmp_path_factory):
    """What two processes got."""
    context = multiprocessing.get_context("spawn")
    meeting, results = tmp_path_factory.mktemp("ranks") / "meeting", context.Queue()
    sent = PackedDataset(uri, SIZE, end="drop")
    # Whoever sends it may have read from it.
    next(iter(sent))
    processes = [context.Process(target=rank_of_two, args=(rank, meeting, uri, sent, results)) for rank in range(2)]
    for process in processes:
        process.start()
    got, until = {}, time.monotonic() + 240
    while len(got) < 2 and time.monotonic() < until:
        try:
            rank, text = results.get(timeout=1)
            got[rank] = json.loads(text)
        except queue.Empty:
            assert all(process.exitcode in (None, 0) for process in processes)
    for process in processes:
        process.join(60)
    return [got[rank] for rank in range(2)]


def steps(ranks):
    """Rows of all ranks in the order of their positions."""
    cut = [[rank[at : at + SIZE] for at in range(0, len(rank), SIZE)] for rank in ranks]
    return [row for step in zip(*cut) for batch in step for row in batch]


@pytest.mark.parametrize("name", ["here", "sent"])
def test_a_dataset_may_be_older_than_the_process_group(uri, two, name):
    alone = PackedDataset(uri, 2 * SIZE, end="drop")
    for loop in range(2):
        assert steps([got[name][loop] for got in two]) == rows(alone)
        assert len(set(map(tuple, two[0][name][loop] + two[1][name][loop]))) == 2 * len(two[0][name][loop])
    assert two[0][f"{name}, length"] == two[1][f"{name}, length"] == len(alone)


def test_workers_that_are_spawned_know_the_ranks_of_their_trainer(uri, two):
    assert steps([got["spawned"] for got in two]) == rows(batch for _, batch in zip(range(5), PackedDataset(uri, 2 * SIZE)))


def test_ranks_may_read_the_same_batches_if_that_is_said(uri, two):
    for name in ("shared", "given and shared"):
        assert two[0][name] == two[1][name] == rows(PackedDataset(uri, SIZE, end="drop"))
    assert steps([got["given"] for got in two]) == rows(PackedDataset(uri, 2 * SIZE, end="drop"))


def test_contradictions_say_what_to_do(two):
    for rank, got in enumerate(two):
        for name, given in {"alone": "rank 0 of 1", "exchanged": f"rank {1 - rank} of 2", "three": f"rank {rank} of 3"}.items():
            for where in (name, f"{name}, worker"):
                assert f"say {given}, but the process group says rank {rank} of 2" in got[where] and "ranks_per_batch" in got[where], got[where]
        assert "ranks_per_batch = 3 does not divide the 2 ranks" in got["parts"]
        for name in ("read before", "read before by workers"):
            assert f"read as rank 0 of 1, and now this process is rank {rank} of 2" in got[name] and "init_process_group" in got[name]
