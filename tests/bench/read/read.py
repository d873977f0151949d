"""Reads the same packs by several readers, interleaved, and prints medians as a Markdown table.

    read.py prepare FOLDER                        writes the packs of FOLDER/cm3flow (made by `synthetic_version`) in every reader's format
    read.py compare FOLDER [--workers N] [--rounds N] [--readers a,b] [--remote ENDPOINT]

Each measurement is a process of its own: two epochs, the first of which warms the page cache and is left out locally. Through S3 the first epoch is
what counts, since readers keep what they fetched.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from readers import READERS

SEQ_LEN = 4096


def prepare(folder):
    tokens = np.fromfile(folder / "cm3flow/tokens.u16", dtype=np.uint16).reshape(-1, SEQ_LEN)
    for name, reader in READERS.items():
        if not (folder / name).exists():
            (folder / name).mkdir()
            reader().write(tokens, folder / name)
            print("wrote", name, flush=True)


def cpu_seconds():
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def epoch(reader, folder, workers, remote):
    began, used, first, tokens, check = time.perf_counter(), cpu_seconds(), None, 0, 0
    for batch in reader.batches(folder, workers, remote):
        first = first or time.perf_counter() - began
        tokens += batch.numel()
        check ^= int(batch[0, 0])
    took = time.perf_counter() - began
    return {"tokens_per_s": tokens / took, "first_ms": first * 1e3, "cpu_s": cpu_seconds() - used, "tokens": tokens}


def measure(name, folder, workers, remote):
    reader = READERS[name]()
    epochs = [epoch(reader, folder / name, workers, remote) for _ in range(1 if remote else 2)]
    memory = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    print(json.dumps({**epochs[-1], "memory_mib": memory}))


def compare(folder, workers, rounds, names, remote):
    found = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            scratch = tempfile.mkdtemp(dir=folder)
            command = [sys.executable, __file__, "measure", str(folder), "--workers", str(workers), "--readers", name]
            command += ["--remote", remote] if remote else []
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "BENCH_SCRATCH": scratch, "TMPDIR": scratch})
            shutil.rmtree(scratch, ignore_errors=True)
            if done.returncode != 0:
                print(name, "failed:", done.stderr.strip().splitlines()[-1:], file=sys.stderr)
                continue
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    print("| reader | M tokens/s (least, most) | first batch, ms | CPU, s | memory, MiB |\n| --- | ---: | ---: | ---: | ---: |")
    for name, results in found.items():
        if results:
            speeds = [result["tokens_per_s"] / 1e6 for result in results]
            first, cpu, memory = (statistics.median(result[key] for result in results) for key in ("first_ms", "cpu_s", "memory_mib"))
            print(f"| {name} | {statistics.median(speeds):.1f} ({min(speeds):.1f}, {max(speeds):.1f}) | {first:.0f} | {cpu:.2f} | {memory:.0f} |")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("action", choices=["prepare", "compare", "measure"])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--workers", type=int, default=0)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--readers", default=",".join(READERS))
    arguments.add_argument("--remote")
    arguments = arguments.parse_args()
    names = arguments.readers.split(",")
    if arguments.action == "prepare":
        prepare(arguments.folder)
    elif arguments.action == "compare":
        compare(arguments.folder.resolve(), arguments.workers, arguments.rounds, names, arguments.remote)
    else:
        measure(names[0], arguments.folder, arguments.workers, arguments.remote)


if __name__ == "__main__":
    main()
