"""Readers in other processes: forked, spawned, without PyTorch, over S3, beside a run that is still at work."""

import multiprocessing
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from conftest import BUILT, command, run, write_job
from cm3flow import PackedDataset

ROUNDS = 50 if os.environ.get("CM3FLOW_LONG") == "1" else 5


def first_ids(dataset, count=3):
    return np.concatenate([np.asarray(batch.tokens) for _, batch in zip(range(count), dataset)]).tolist()


def child(dataset, iterator, queue):
    rest = None if iterator is None else np.asarray(next(iterator).tokens).tolist()
    queue.put((first_ids(dataset), rest))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_a_process_that_reads_read_too(uri, method):
    context = multiprocessing.get_context(method)
    for _ in range(ROUNDS):
        dataset = PackedDataset(uri, 2, tensors=False)
        iterator = iter(dataset)
        next(iterator)
        queue = context.Queue()
        # An iterator goes to a forked child alone; there it goes on where its parent stands.
        handed = iterator if method == "fork" else None
        process = context.Process(target=child, args=(dataset, handed, queue))
        process.start()
        ids, rest = queue.get(timeout=60)
        process.join(60)
        assert process.exitcode == 0 and ids == first_ids(dataset)
        here = np.asarray(next(iterator).tokens).tolist()
        assert method != "fork" or rest == here


def test_nothing_happens_before_the_first_batch(tmp_path):
    before = len(os.listdir("/proc/self/task"))
    dataset = PackedDataset(tmp_path / "nowhere/versions/a/1.json", 2)
    iterator = iter(dataset)
    pickle.loads(pickle.dumps(dataset))
    assert len(os.listdir("/proc/self/task")) == before
    with pytest.raises(ValueError, match="nowhere"):
        next(iterator)


def test_local_versions_are_read_without_threads(uri):
    iterator = iter(PackedDataset(uri, 2, tensors=False))
    next(iterator)
    # Records were read on helper threads of the runtime, which end when nothing is left to read; blocks are mapped, and none is fetched.
    opened = len(os.listdir("/proc/self/task"))
    for _ in range(50):
        next(iterator)
    assert len(os.listdir("/proc/self/task")) <= opened


def test_numpy_is_enough(uri):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from cm3flow import PackedDataset\n"
        f"batch = next(iter(PackedDataset({uri!r}, 2)))\n"
        "print(type(batch.tokens).__name__, batch.loss_weights().sum() > 0, 'torch' in sys.modules and sys.modules['torch'] is not None)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ndarray", "True", "False"]


def test_damage_is_named(folder, tmp_path):
    subprocess.run(["cp", "-r", str(folder / "store"), str(tmp_path)], check=True)
    for shard in (tmp_path / "store/shards").iterdir():
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"shard [0-9a-f]{64}, block \d+: .* digest"):
        for batch in PackedDataset(tmp_path / "store/versions/a/1.json", 2, end="drop"):
            pass


@pytest.fixture(scope="module")
def service(folder):
    process = subprocess.Popen([str(BUILT / "s3-service"), "--folder", str(folder), "--latency-ms", "5"], stdout=subprocess.PIPE, text=True)
    yield process.stdout.readline().strip()
    process.terminate()
    process.wait()


def test_a_remote_store_gives_the_same_order(uri, service):
    options = {
        "endpoint": service, "access_key_id": "test", "secret_access_key": "not-so-secret", "region": "us-east-1", "allow_http": "true"
    }
    for limits in ({}, {"prefetch_bytes": 0, "cache_bytes": 0}):
        remote = PackedDataset("s3://store/versions/a/1.json", 4, tensors=False, options=options, end="drop", epochs=2, **limits)
        local = PackedDataset(uri, 4, tensors=False, end="drop", epochs=2)
        assert first_ids(remote, 1000) == first_ids(local, 1000)
        assert sum(remote.stalls()["batches"]) > 0
    with pytest.raises(OSError, match="(?i)access|signature|denied"):
        next(iter(PackedDataset("s3://store/versions/a/1.json", 4, options={**options, "secret_access_key": "wrong"})))


def test_a_run_is_followed_while_it_is_at_work(tmp_path):
    job = write_job(tmp_path, "live", 600, 50)
    (tmp_path / "store").mkdir()
    address = tmp_path / "store/versions/live/1.json"
    follower = PackedDataset(address, 4, tensors=False, follow=True, follow_look_seconds=0.05, end="drop")
    running = subprocess.Popen(command("run", job.name, cwd=tmp_path), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    began_before_the_end, followed = False, []
    for batch in follower:
        began_before_the_end |= not address.exists()
        followed.append(batch.tokens)
    assert running.wait() == 0 and began_before_the_end
    published = [batch.tokens for batch in PackedDataset(address, 4, tensors=False, end="drop")]
    assert (np.concatenate(followed) == np.concatenate(published)).all()


def test_a_run_that_dies_is_an_error(tmp_path):
    (tmp_path / "store").mkdir()
    run(write_job(tmp_path, "dead", 20, 10))
    follower = PackedDataset(
        tmp_path / "store/versions/dead/2.json", 1, follow=True, follow_look_seconds=0.05, follow_silence_seconds=0.5
    )
    with pytest.raises(RuntimeError, match="has stopped after 0 windows"):
        next(iter(follower))
