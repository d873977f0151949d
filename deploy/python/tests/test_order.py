"""The order is the same for any number of ranks and workers, however often a reader is stopped and started again."""

import itertools
import json
import random

import numpy as np
import pytest
import torch
from cm3flow import PackedDataset
from conftest import run, write_job
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader


def take(batches, count):
    return [batch for _, batch in zip(range(count), batches)]


def tokens(batches):
    return torch.cat([batch.tokens for batch in batches]).tolist()


def loader(dataset, workers, kind=DataLoader):
    return kind(dataset, batch_size=None, num_workers=workers, **({"prefetch_factor": 2} if workers else {}))


def test_any_number_of_workers_gives_the_same_order(uri):
    dataset = PackedDataset(uri, 4, seed=5)
    alone = tokens(take(dataset, 20))
    for workers in range(4):
        assert tokens(take(loader(dataset, workers), 20)) == alone
    assert tokens(take(PackedDataset(uri, 4, seed=6), 20)) != alone


def test_ranks_share_global_batches(uri):
    alone = tokens(take(PackedDataset(uri, 6), 8))
    ranks = [take(PackedDataset(uri, 2, rank=rank, world_size=3), 8) for rank in range(3)]
    assert tokens([batch for step in zip(*ranks) for batch in step]) == alone


def test_an_epoch_holds_every_pack_once(uri):
    dataset = PackedDataset(uri, 3, end="drop", epochs=1)
    packs = dataset.describe()["packs"]["packs"]
    batches = list(loader(dataset, 2))
    assert len(batches) == len(dataset) == packs // 3
    assert len({tuple(row) for row in tokens(batches)}) == len(batches) * 3
    padded = PackedDataset(uri, 7, end="pad", epochs=1)
    assert len(list(padded)) == len(padded) == -(-packs // 7)


def test_epochs_take_the_variants_of_the_documents_in_turn(folder):
    job = write_job(folder, "varied", 200, 50)
    job.write_text(job.read_text() + "[mask]\nvariants = 3\n")
    run(job)
    uri = str(folder / "store/versions/varied/1.json")
    described = PackedDataset(uri, 1).describe()["packs"]
    variant_packs = described["variant_packs"]
    assert len(variant_packs) == 3 and sum(variant_packs) == described["packs"]
    dataset = PackedDataset(uri, 1, end="drop", epochs=4)
    length = len(dataset)
    batches = [tuple(row) for row in tokens(list(loader(dataset, 2)))]
    assert len(batches) == length == sum(variant_packs) + variant_packs[0]
    epochs, at = [], 0
    for packs in [*variant_packs, variant_packs[0]]:
        epochs.append(set(batches[at : at + packs]))
        at += packs
    assert epochs[3] == epochs[0]
    # A document without a masked span in two variants is the same in both.
    assert all(len(one & other) < len(one) / 2 for one, other in itertools.combinations(epochs[:3], 2))
    half = PackedDataset(uri, 1)
    half.load_state_dict(take(PackedDataset(uri, 1), at // 2)[-1].state)
    assert [tuple(row) for row in tokens(take(half, at - at // 2))] == batches[at // 2 :]


def torture(round_number, sources):
    draws = random.Random(round_number)
    global_batch = 12
    schedule, state, disturbed, position = [], None, [], 0
    for _ in range(3):
        weights = {name: draws.choice([0.5, 1.0, 3.0]) for name in draws.sample(sorted(sources), draws.randint(1, len(sources)))}
        schedule.append((position, weights))
        steps, ranks, workers = draws.randint(1, 5), draws.choice([1, 2, 3, 4]), draws.randint(0, 3)
        rows = []
        for rank in range(ranks):
            dataset = PackedDataset(
                {name: sources[name] for name in weights}, global_batch // ranks, seed=9, weights=weights, rank=rank, world_size=ranks
            )
            if state is not None:
                dataset.load_state_dict(json.loads(json.dumps(state)))
            # The loader has read ahead of what is consumed when it is dropped.
            rows.append(take(loader(dataset, workers), steps))
        states = {json.dumps(batches[-1].state, sort_keys=True) for batches in rows}
        assert len(states) == 1 and len(next(iter(states))) < 1024
        state = rows[0][-1].state
        disturbed += tokens([batch for step in zip(*rows) for batch in step])
        position += steps * global_batch
    whole = PackedDataset(sources, global_batch, seed=9, schedule=schedule)
    assert disturbed == tokens(take(whole, position // global_batch)), f"round {round_number}"


@pytest.mark.parametrize("round_number", range(20))
def test_disturbed_readers_read_what_an_undisturbed_one_reads(uri, other, round_number):
    torture(round_number, {"a": uri, "b": other})


@pytest.mark.parametrize("workers", [0, 2])
def test_stateful_data_loaders_go_on_where_they_stood(uri, workers):
    whole = tokens(take(PackedDataset(uri, 2), 20))
    first = loader(PackedDataset(uri, 2), workers, StatefulDataLoader)
    begun = tokens(take(first, 7))
    state = first.state_dict()
    second = loader(PackedDataset(uri, 2), workers, StatefulDataLoader)
    second.load_state_dict(state)
    assert begun + tokens(take(second, 13)) == whole


def test_a_worker_state_is_refused_by_other_numbers_of_workers(uri):
    dataset = PackedDataset(uri, 2)
    dataset.load_state_dict({"worker": 1, "workers": 2, "state": take(dataset, 1)[0].state})
    with pytest.raises(ValueError, match="worker 1 of 2"):
        next(iter(dataset))


def test_each_iteration_begins_at_the_loaded_state(uri):
    for workers in (0, 2):
        dataset = PackedDataset(uri, 2)
        batches = loader(dataset, workers)
        first = take(batches, 3)
        assert tokens(take(batches, 3)) == tokens(first)
        dataset.load_state_dict(first[-1].state)
        after = tokens(take(batches, 2))
        assert after == tokens(take(PackedDataset(uri, 2), 5))[6:]


def test_views_and_copies_hold_the_same_ids(uri):
    copies = take(PackedDataset(uri, 3, tensors=False), 5)
    for copied, viewed in zip(copies, PackedDataset(uri, 3, dtype="uint16")):
        assert copied.tokens.dtype == np.int64
        for row, view in zip(copied.tokens, viewed.tokens):
            assert view.dtype == np.uint16 and not view.flags.writeable
            assert (row == view).all()


def test_views_outlive_their_reader(uri):
    views = [view for batch in take(PackedDataset(uri, 3, dtype="uint16"), 30) for view in batch.tokens]
    copies = np.concatenate([batch.tokens for batch in take(PackedDataset(uri, 3, tensors=False), 30)])
    assert (np.stack(views) == copies).all()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"split": "test"}, "test"),
        ({"batch_size": 0}, "batch_size"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"end": "stop"}, "end must be"),
        ({"end": "drop", "epochs": 0}, "epochs"),
        ({"schedule": [(3, {"packs": 1.0})]}, "position 0"),
        ({"weights": {"other": 1.0}}, "other"),
        ({"uri": "store/a/1.json"}, "STORE/versions/DATASET"),
        ({"uri": "ftp://host/versions/a"}, "ftp"),
    ],
)
def test_what_makes_no_sense_is_named(uri, arguments, problem):
    with pytest.raises(ValueError, match=problem):
        next(iter(PackedDataset(**{"uri": uri, "batch_size": 2, **arguments})))


def test_a_version_that_is_not_there_is_named(folder):
    with pytest.raises(ValueError, match="has no version 7"):
        next(iter(PackedDataset(folder / "store/versions/a/7.json", 2)))
    assert PackedDataset(folder / "store/versions/a", 2).describe()["packs"]["version"] == 1
