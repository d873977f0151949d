"""Versions that the real command makes of codes that are given, and a look into them that shares no code with the reader."""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest

BUILT = Path(os.environ.get("CM3FLOW_BUILT", "../../../target")) / "debug"

SETTINGS = """
[dataset]
name = "{name}"
seed = 3
store = "store"
[runtime]
workers = 2
threads = 1
[window]
units = 2
[tokenize.image]
kind = "given"
side_px = 64
grid = 4
codebook_size = 256
[tokenize.text]
vocabulary_size = 300
[split]
held_out = 0.1
[pack]
seq_len = 128
[shard]
block_bytes = 65536
[[source]]
name = "list"
format = "jsonl"
url = "{name}.jsonl"
unit_samples = {unit}
"""


def write_job(folder: Path, name: str, samples: int, unit: int) -> Path:
    """A job over `samples` samples: a code that stands for the colour comes often, so that there is something to learn."""
    draws = random.Random(name)
    colours = ["red", "green", "blue", "grey", "yellow"]
    rows = []
    for number in range(samples):
        colour = draws.randrange(5)
        codes = [colour * 50 + draws.randrange(4) for _ in range(16)]
        codes[:3] = [number % 256, number // 256 % 256, len(name)]
        rows.append(json.dumps({"codes": codes, "caption": f"a {colours[colour]} thing, number {number} of {name}"}))
    (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    job = folder / f"{name}.toml"
    job.write_text(SETTINGS.format(name=name, unit=unit))
    return job


def command(*arguments: str, cwd: Path) -> list[str]:
    return [str(BUILT / "cm3flow"), *arguments]


def run(job: Path) -> None:
    done = subprocess.run(command("run", job.name, cwd=job.parent), cwd=job.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A store with the datasets `a` and `b`."""
    folder = tmp_path_factory.mktemp("jobs")
    run(write_job(folder, "a", 600, 100))
    run(write_job(folder, "b", 200, 50))
    return folder


@pytest.fixture(scope="session")
def uri(folder) -> str:
    return str(folder / "store/versions/a/1.json")


@pytest.fixture(scope="session")
def other(folder) -> str:
    return str(folder / "store/versions/b/1.json")
