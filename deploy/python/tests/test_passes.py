"""Loops with an end follow each other as the epochs of an endless one do: with any loader, resumed anywhere, left early or not."""

import copy
import itertools
import json
import pickle
import random

import lightning
import pytest
import torch
from cm3flow import PackedDataset
from conftest import run, write_job
from torch.utils.data import DataLoader, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

SIZE = 7


def rows(batches):
    return [tuple(row) for batch in batches for row in batch.tokens.tolist()]


class Passes:
    """The passes of a version, cut out of what a reader without end gives."""

    def __init__(self, uri, epochs=1, count=6):
        self.uri = uri
        variants = PackedDataset(uri, 1).describe()["packs"]["variant_packs"]
        sizes = [sum(variants[epoch % len(variants)] for epoch in range(n * epochs, (n + 1) * epochs)) for n in range(count + 1)]
        self.ends = list(itertools.accumulate(sizes))
        self.rows = rows(batch for _, batch in zip(range(self.ends[-1]), PackedDataset(uri, 1)))

    def begin(self, number):
        return self.ends[number - 1] if number else 0

    def count(self, number, end="drop", size=SIZE):
        packs = self.ends[number] - self.begin(number)
        return packs // size if end == "drop" else -(-packs // size)

    def of(self, number, end="drop", size=SIZE, done=0):
        """Rows of a pass behind its first `done` batches."""
        begin = self.begin(number)
        return self.rows[begin + done * size : begin + self.count(number, end, size) * size]


@pytest.fixture(scope="module")
def passes(uri):
    return Passes(uri)


def loader(dataset, workers, kind=DataLoader, persistent=False, **more):
    return kind(dataset, batch_size=None, num_workers=workers, persistent_workers=persistent, **more)


KINDS = [DataLoader, StatefulDataLoader]
WORKERS = [(0, False), (1, False), (2, False), (2, True), (3, True)]


@pytest.mark.parametrize("end", ["drop", "pad"])
@pytest.mark.parametrize(("workers", "persistent"), WORKERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_behind_a_finished_one_reads_the_next_pass(passes, kind, workers, persistent, end):
    dataset = PackedDataset(passes.uri, SIZE, end=end)
    batches = loader(dataset, workers, kind, persistent)
    for number in range(3):
        assert len(dataset) == len(batches) == passes.count(number, end)
        assert rows(batches) == passes.of(number, end)


def test_no_loop_is_like_another_and_each_holds_every_pack_once(passes):
    dataset = PackedDataset(passes.uri, 1, end="drop")
    first, second = rows(dataset), rows(dataset)
    assert first != second and sorted(first) == sorted(second) and len(set(first)) == len(first)


def test_passes_of_several_epochs_and_variants_go_on_where_the_last_one_ended(folder):
    job = write_job(folder, "two", 120, 40)
    job.write_text(job.read_text() + "[mask]\nvariants = 2\n")
    run(job)
    for epochs in (1, 3):
        passes = Passes(str(folder / "store/versions/two/1.json"), epochs, 4)
        dataset = PackedDataset(passes.uri, 2, end="drop", epochs=epochs)
        for number in (0, 1, 2):
            assert rows(loader(dataset, 2)) == passes.of(number, size=2)
        dataset.set_epoch(1)
        assert len(dataset) == passes.count(1, size=2)
        assert rows(dataset) == passes.of(1, size=2)


@pytest.mark.parametrize(("workers", "persistent"), [*WORKERS, (2, "spawn"), (2, "forkserver")])
def test_an_epoch_that_is_set_is_read_next(passes, workers, persistent):
    method = persistent if isinstance(persistent, str) else None
    dataset = PackedDataset(passes.uri, SIZE, end="drop")
    batches = loader(dataset, workers, persistent=bool(persistent), multiprocessing_context=method)
    for number in (3, 0):
        dataset.set_epoch(number)
        assert len(batches) == passes.count(number)
        assert rows(batches) == passes.of(number)
    # From there on by itself, and what is set while a loop runs holds for the next one.
    iterator = iter(batches)
    first = next(iterator)
    dataset.set_epoch(4)
    assert rows([first, *iterator]) == passes.of(1)
    assert rows(batches) == passes.of(4)
    assert rows(batches) == passes.of(5)


def test_epochs_make_no_difference_without_an_end(passes):
    dataset = PackedDataset(passes.uri, SIZE)
    for workers in (0, 2):
        dataset.set_epoch(2)
        assert rows(batch for _, batch in zip(range(9), loader(dataset, workers))) == passes.rows[: 9 * SIZE]
    assert "epoch" not in dataset.state_dict()


@pytest.mark.parametrize("epoch", [-1, 1.5, "2"])
def test_what_is_no_epoch_is_refused(uri, epoch):
    with pytest.raises((ValueError, TypeError)):
        PackedDataset(uri, SIZE, end="drop").set_epoch(epoch)


@pytest.mark.parametrize("end", ["drop", "pad"])
@pytest.mark.parametrize(("workers", "persistent"), WORKERS)
def test_the_state_of_a_batch_leads_back_into_its_pass(passes, workers, persistent, end):
    draws = random.Random(workers)
    for number in (0, 2):
        dataset = PackedDataset(passes.uri, SIZE, end=end)
        dataset.set_epoch(number)
        states = [json.dumps(batch.state) for batch in loader(dataset, workers)]
        for done in (1, draws.randrange(2, len(states)), len(states)):
            assert len(states[done - 1]) < 1024
            for epochs_are_set in (False, True):
                resumed = PackedDataset(passes.uri, SIZE, end=end)
                resumed.load_state_dict(json.loads(states[done - 1]))
                batches = loader(resumed, workers, persistent=persistent)
                for loop in (number, number + 1, number + 2):
                    if epochs_are_set:
                        resumed.set_epoch(loop)
                    assert rows(batches) == passes.of(loop, end, done=done if loop == number else 0)


def test_a_state_is_not_passed_over_by_an_earlier_epoch(passes):
    dataset = PackedDataset(passes.uri, SIZE, end="drop")
    dataset.set_epoch(2)
    state = next(iter(dataset)).state
    dataset.load_state_dict(state)
    dataset.set_epoch(1)
    with pytest.raises(ValueError, match="stands in epoch 2, and epoch 1 was asked for.*ask for epoch 2"):
        next(iter(dataset))
    dataset.set_epoch(2)
    assert rows(dataset) == passes.of(2, done=1)


def at(batches, done):
    """The state of a stateful loader behind so many batches, or behind its end."""
    if done == 0:
        return batches.state_dict()
    iterator = iter(batches)
    for _ in range(done):
        next(iterator)
    return batches.state_dict()


@pytest.mark.parametrize("end", ["drop", "pad"])
@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (1, False), (1, True), (2, False), (2, True), (3, False), (3, True)])
def test_stateful_loaders_finish_their_pass_and_read_whole_ones_then(passes, workers, persistent, end):
    for number in (0, 1):
        total = passes.count(number, end)
        for done in (0, 1, 5, total - 1, total, "end"):
            dataset = PackedDataset(passes.uri, SIZE, end=end)
            first = loader(dataset, workers, StatefulDataLoader, persistent)
            if number:
                assert rows(first) == passes.of(0, end)
            if done == "end":
                rows(first)
            state = pickle.dumps(first.state_dict() if done == "end" else at(first, done))
            second = loader(PackedDataset(passes.uri, SIZE, end=end), workers, StatefulDataLoader, persistent)
            second.load_state_dict(pickle.loads(state))
            loops = [rows(second) for _ in range(3)]
            # The state behind the end of a loop is that before the next one.
            rest = [] if done == "end" else [passes.of(number, end, done=done)]
            assert loops == [*rest, *(passes.of(loop, end) for loop in range(number + 1, number + 4))][:3], (number, done)


@pytest.mark.parametrize("persistent", [False, True])
def test_a_stateful_loader_that_is_left_early_begins_at_its_state_again(passes, persistent):
    dataset = PackedDataset(passes.uri, SIZE, end="drop")
    dataset.set_epoch(1)
    state = at(loader(dataset, 2, StatefulDataLoader, persistent), 5)
    resumed = loader(PackedDataset(passes.uri, SIZE, end="drop"), 2, StatefulDataLoader, persistent)
    resumed.load_state_dict(state)
    for _ in range(2):
        assert rows(batch for _, batch in zip(range(3), resumed)) == passes.of(1, done=5)[: 3 * SIZE]
    assert rows(resumed) == passes.of(1, done=5)
    assert rows(resumed) == passes.of(2)


def test_states_of_workers_hold_for_global_batches_of_the_same_size(uri):
    state = at(loader(PackedDataset(uri, SIZE, rank=0, world_size=2), 2, StatefulDataLoader), 5)
    resumed = loader(PackedDataset(uri, SIZE), 2, StatefulDataLoader)
    resumed.load_state_dict(state)
    with pytest.raises(ValueError, match="global batches of 14, .* and 7; load the `state` of a batch"):
        next(iter(resumed))


@pytest.mark.parametrize(("workers", "persistent"), WORKERS)
def test_a_loop_that_is_left_early_begins_there_anew(passes, workers, persistent):
    dataset = PackedDataset(passes.uri, SIZE, end="drop")
    batches = loader(dataset, workers, persistent=persistent)
    for _ in range(2):
        assert rows([next(iter(batches))]) == passes.of(0)[:SIZE]
    assert rows(batches) == passes.of(0)
    assert rows(batch for _, batch in zip(range(11), batches)) == passes.of(1)[: 11 * SIZE]
    assert rows(batches) == passes.of(1)
    # The last batch ends a pass, whether or not somebody asks for one more.
    assert rows(batch for _, batch in zip(range(passes.count(2)), batches)) == passes.of(2)
    assert rows(batches) == passes.of(3)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_agree_on_the_pass_however_short_it_is(folder, persistent):
    run(write_job(folder, "short", 24, 24))
    passes = Passes(str(folder / "store/versions/short/1.json"), count=40)
    packs = passes.ends[0]
    # Fewer batches than workers: the first ones are at the end before the last one begins.
    for size in {packs, max(packs // 2, 1), 1}:
        batches = loader(PackedDataset(passes.uri, size, end="drop"), 4, persistent=persistent)
        for number in range(12):
            torch.manual_seed(0)
            assert rows(batches) == passes.of(number, size=size), (size, number)


def test_two_loaders_over_one_dataset_read_what_each_would_read_alone(passes):
    for workers, persistent in [(0, False), (2, False), (2, True)]:
        dataset = PackedDataset(passes.uri, SIZE, end="drop")
        one, other = loader(dataset, workers, persistent=persistent), loader(dataset, workers, persistent=persistent)
        for number in range(2):
            pairs = list(zip(one, other))
            assert rows(pair[0] for pair in pairs) == rows(pair[1] for pair in pairs) == passes.of(number)


def test_copies_count_their_own_loops(passes):
    dataset = PackedDataset(passes.uri, SIZE, end="drop")
    rows(loader(dataset, 2))
    copies = [copy.copy(dataset), copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))]
    for each in copies:
        assert rows(loader(each, 2)) == passes.of(1)
    assert rows(dataset) == passes.of(1)


class Endless(IterableDataset):
    """Loops over a dataset inside of each worker."""

    def __init__(self, make):
        self.make = make
        self.dataset = make()

    def __iter__(self):
        dataset = self.dataset or self.make()
        while True:
            yield from dataset


def test_loops_inside_of_workers_follow_each_other_too(passes):
    expected = list(itertools.chain.from_iterable(passes.of(number) for number in range(3)))
    wanted = len(expected) // SIZE

    def make():
        return PackedDataset(passes.uri, SIZE, end="drop")

    for workers in (0, 1):
        assert rows(batch for _, batch in zip(range(wanted), loader(Endless(make), workers))) == expected
    # Workers that each have something of the last round take turns from then on, so the order of batches holds within rounds alone.
    for wrapped in (Endless(make), Endless(lambda: None)):
        wrapped.make = make
        got = rows(batch for _, batch in zip(range(wanted - 4), loader(wrapped, 2)))
        assert set(got) <= set(expected) and sorted(got)[:5] == sorted(expected)[:5]


def test_a_loop_without_a_batch_is_a_mistake(passes):
    packs = passes.ends[0]
    for workers in (0, 2):
        with pytest.raises(ValueError, match=rf"there are {packs} packs .* takes {packs + 1}; .*end=\"pad\""):
            next(iter(loader(PackedDataset(passes.uri, packs + 1, end="drop"), workers)))
    assert len(list(PackedDataset(passes.uri, packs + 1, end="pad"))) == 1
    # What is left of a pass may well be nothing.
    dataset = PackedDataset(passes.uri, SIZE, end="drop")
    dataset.load_state_dict(list(dataset)[-1].state)
    assert list(dataset) == []


def test_loaders_that_join_batches_of_several_workers_are_refused(passes):
    def together(batches):
        return torch.cat([batch.tokens for batch in batches]).tolist()

    dataset = PackedDataset(passes.uri, 1, end="drop")
    for workers in (0, 1):
        joined = DataLoader(dataset, batch_size=SIZE, collate_fn=together, num_workers=workers)
        assert [tuple(row) for batch in joined for row in batch] == passes.rows[passes.begin(workers) : passes.ends[workers]]
    with pytest.raises(ValueError, match="joins 7 batches of each of 2 workers.*batch_size=None"):
        next(iter(DataLoader(dataset, batch_size=SIZE, collate_fn=together, num_workers=2)))
    one_by_one = DataLoader(dataset, batch_size=1, collate_fn=together, num_workers=2)
    assert [tuple(row) for _, batch in zip(range(9), one_by_one) for row in batch] == passes.of(2, size=1)[:9]
    # What PyTorch refuses by itself.
    with pytest.raises(ValueError, match="sampler"):
        DataLoader(dataset, batch_size=None, sampler=torch.utils.data.DistributedSampler(dataset, 2, 0))
    with pytest.raises(TypeError, match="Batch"):
        next(iter(DataLoader(dataset, batch_size=4)))


class Seen(lightning.LightningModule):
    """Remembers the rows of each epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.epochs = {}

    def training_step(self, batch):
        self.epochs.setdefault(self.current_epoch, []).extend(rows([batch]))
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_epochs_of_lightning_read_a_pass_each(passes, tmp_path, workers, persistent):
    model = Seen()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.fit(model, loader(PackedDataset(passes.uri, SIZE, end="drop"), workers, persistent=persistent))
    assert model.epochs == {number: passes.of(number) for number in range(3)}
