"""Accelerate shards a loader once more than the dataset does; every pack is read once all the same, or an error says what to do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cm3flow import PackedDataset
from prepared import SIZE

PROGRAM = str(Path(__file__).with_name("prepared.py"))


def rows(batches):
    return [row for batch in batches for row in batch.tokens.tolist()]


@pytest.fixture(scope="module", params=[1, 2])
def ranks(request, uri, tmp_path_factory):
    """What each process of a launch got."""
    folder = tmp_path_factory.mktemp("prepared")
    # For several processes without MPI it wants to hear of GPUs; the program says that it is on the CPU.
    several = ["--multi_gpu", "--main_process_port", "0"] if request.param > 1 else ["--cpu"]
    launch = ["-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [sys.executable, *launch, *several, "--num_processes", str(request.param), PROGRAM, uri, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    files = sorted(folder.glob("*.json"))
    assert done.returncode == 0 and len(files) == request.param, done.stderr[-4000:]
    return [json.loads(file.read_text()) for file in files]


def whole(uri, ranks, end="drop", size=SIZE, loops=3):
    """Rows of the loops that all ranks share, in the order of their positions."""
    dataset = PackedDataset(uri, size * len(ranks), end=end)
    return [rows(dataset) for _ in range(loops)]


def together(parts, size=SIZE):
    """Rows of the ranks in the order of their positions."""
    cut = [[part[at : at + size] for at in range(0, len(part), size)] for part in parts]
    assert len({len(part) for part in cut}) == 1
    return [row for step in zip(*cut) for batch in step for row in batch]


@pytest.mark.parametrize(
    ("name", "loops", "end"),
    [("plain", 3, "drop"), ("batches", 1, "drop"), ("workers", 2, "drop"), ("padded", 1, "pad"), ("split", 2, "drop"), ("stateful", 2, "drop")],
)
def test_a_prepared_loader_reads_every_pack_once(uri, ranks, name, loops, end):
    if name == "split" and len(ranks) == 1:
        pytest.skip("one process splits nothing")
    expected = whole(uri, ranks, end)
    for loop in range(loops):
        got = together([rank[name]["rows"][loop] for rank in ranks])
        assert got == expected[loop]
        if end == "drop":
            assert len(set(map(tuple, got))) == len(got)
        # States hold for all ranks.
        assert len({tuple(rank[name]["positions"][loop]) for rank in ranks}) == 1
        assert {rank[name]["length"] for rank in ranks} == {len(ranks[0][name]["positions"][loop])} or name == "split"


def test_batches_that_the_loader_joins_are_filled_up_at_the_end_as_accelerate_does(uri, ranks):
    expected = whole(uri, ranks, size=1)
    for loop in range(2):
        got = [rank["joined"]["rows"][loop] for rank in ranks]
        own = [expected[loop][number :: len(ranks)] for number in range(len(ranks))]
        for part, of_rank in zip(got, own):
            added = -len(of_rank) % 4 if len(ranks) > 1 else 0
            assert part == of_rank + of_rank[:added]
    for rank in ranks:
        assert "joins 4 batches of each of 2 workers" in rank["joined by workers"]["error"]


def test_a_state_goes_on_under_accelerate(uri, ranks):
    expected = whole(uri, ranks)
    for loop in range(2):
        got = together([rank["resumed"]["rows"][loop] for rank in ranks])
        assert got == expected[loop][(8 if loop == 0 else 0) * SIZE :]


def test_what_cannot_be_read_rightly_says_what_to_do(uri, ranks):
    for rank in ranks:
        if len(ranks) > 1:
            for name in ("dispatched", "dispatched by workers", "dispatched and split", "trainer by default"):
                assert "set dispatch_batches=False" in rank[name]["error"]
            assert "batch_size=1" in rank["no batch size"]["error"]
        else:
            assert rank["dispatched"]["rows"] == whole(uri, ranks)[:1]
            assert rank["trainer by default"] == rank["trainer"]


@pytest.mark.parametrize("name", ["trainer", "trainer with workers", "trainer that joins"])
def test_the_trainer_of_transformers_reads_every_pack_once_an_epoch(uri, ranks, name):
    size = 1 if name == "trainer that joins" else SIZE
    expected = whole(uri, ranks, size=size, loops=2)
    got = [rank[name]["rows"] for rank in ranks]
    if name == "trainer that joins":
        own = [[row for loop in expected for row in filled(loop[number :: len(ranks)], len(ranks) > 1)] for number in range(len(ranks))]
        assert got == own
    else:
        assert together(got) == expected[0] + expected[1]
        assert {rank[name]["steps"] for rank in ranks} == {len(got[0]) // SIZE}


def filled(part, is_sharded):
    return part + part[: -len(part) % 4] if is_sharded else part
