"""Reads the same packs by several readers, interleaved, and prints medians as a Markdown table.

    read.py prepare FOLDER                        writes the packs of FOLDER/cm3flow (made by `synthetic_version`) in every reader's format
    read.py compare FOLDER [--workers N] [--rounds N] [--readers a,b] [--remote ENDPOINT] [--raw FILE] [--without-memory]
    read.py table FILE                            prints the table of the results in FILE, of all calls that added to it

Python needs the packages of requirements.txt beside this file, installed as it says, and cm3flow's wheel (`make wheel`).

Each measurement is a process of its own. Locally it reads two epochs: the first warms the page cache, and every pack must come once in it; the second is
timed. Through S3 the one epoch is timed, since readers keep what they fetched. The first batch is timed from opening on, without imports.
CPU is that of the process and its workers in the timed epoch. Memory is what processes and workers hold for themselves or share between them, without
mapped files, at its peak; it is looked at in a run of its own, because looking takes time. ENDPOINT is that of the tests' `s3-service`, with the bucket
`bench` over FOLDER; it counts the requests.
"""

import argparse
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil

SEQ_LEN = 4096
# Time between two looks at memory.
LOOK_S = 0.02


def packs_of(folder):
    return np.memmap(folder / "cm3flow/tokens.u16", dtype=np.uint16, mode="r").reshape(-1, SEQ_LEN)


def prepare(folder):
    from readers import READERS

    for name, reader in READERS.items():
        if not (folder / name).exists():
            (folder / name).mkdir()
            reader().write(np.array(packs_of(folder)), folder / name)
            print("wrote", name, flush=True)


def cpu_seconds():
    """Of this process, its children, and those that ended."""
    times = psutil.Process().cpu_times()
    used = times.user + times.system + times.children_user + times.children_system
    for child in psutil.Process().children(recursive=True):
        times = child.cpu_times()
        used += times.user + times.system
    return used


def opened(name, folder, workers, remote):
    from readers import READERS

    reader = READERS[name]()
    for module in reader.modules:
        importlib.import_module(module)
    began = time.perf_counter()
    batches = reader.open(folder / name, workers, remote)
    return began, batches


def checked(began, batches, folder):
    """Reads an epoch; every pack must come once. Returns seconds until the first batch, and those and CPU seconds of the whole."""
    used, first, check, rows = cpu_seconds(), None, 0, 0
    for batch in batches:
        first = first or time.perf_counter() - began
        check += int(batch[:, :4].sum())
        rows += len(batch)
    took, used = time.perf_counter() - began, cpu_seconds() - used
    packs = packs_of(folder)
    wanted = int(packs[:, :4].astype(np.int64).sum())
    assert (rows, check) == (len(packs), wanted), f"{rows} packs of {len(packs)} came, with sum {check} in place of {wanted}"
    return first, took, used


def timed(batches):
    used, began, tokens = cpu_seconds(), time.perf_counter(), 0
    for batch in batches:
        tokens += batch.numel()
    return time.perf_counter() - began, cpu_seconds() - used


def measure(name, folder, workers, remote):
    began, batches = opened(name, folder, workers, remote)
    first, took, used = checked(began, batches, folder)
    if not remote:
        took, used = timed(batches)
    print(json.dumps({"tokens_per_s": len(packs_of(folder)) * SEQ_LEN / took, "first_ms": first * 1e3, "cpu_s": used}))


def held_mib(process):
    """What a tree of processes holds in memory: pages of its own, and those that it shares, divided by who shares them; no mapped files."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            rollup = Path(f"/proc/{member.pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return total / 1024


def requests(remote):
    with urllib.request.urlopen(f"{remote}/-/requests") as answer:
        return json.load(answer)["requests"]


def run(name, folder, workers, remote, look):
    """One measurement in a process of its own; with its peak of memory if `look`. `None` if it failed."""
    scratch = tempfile.mkdtemp(dir=folder)
    command = [sys.executable, __file__, "measure", str(folder), "--workers", str(workers), "--readers", name]
    command += ["--remote", remote] if remote else []
    before = requests(remote) if remote else 0
    environment = {**os.environ, "BENCH_SCRATCH": scratch, "TMPDIR": scratch}
    with tempfile.TemporaryFile("w+") as errors:
        child = psutil.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        memory = 0
        while look and child.poll() is None:
            memory = max(memory, held_mib(child))
            time.sleep(LOOK_S)
        answer = child.communicate()[0]
        if child.returncode != 0:
            errors.seek(0)
            print(name, "failed:", errors.read().strip().splitlines()[-3:], file=sys.stderr)
            answer = None
    shutil.rmtree(scratch, ignore_errors=True)
    if answer is None:
        return None
    result = {"reader": name, "workers": workers, "remote": bool(remote), **json.loads(answer.splitlines()[-1])}
    if remote:
        result["requests"] = requests(remote) - before
    return {"reader": name, "workers": workers, "remote": bool(remote), "memory_mib": memory} if look else result


def compare(folder, workers, rounds, names, remote, raw, memory):
    results = []
    for number in range(rounds):
        for name in names:
            # Once a call, and before the timed ones: it warms what others left cold.
            wanted = [True, False] if memory and number == 0 else [False]
            for look in wanted:
                result = run(name, folder, workers, remote, look)
                if result:
                    results.append(result)
                    if raw:
                        with open(raw, "a") as out:
                            out.write(json.dumps(result) + "\n")
    table(results)


def table(results):
    print("| reader | M tokens/s (least, most) | first batch, ms | CPU, s | memory, MiB | requests |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in dict.fromkeys(result["reader"] for result in results):
        own = [result for result in results if result["reader"] == name]
        speeds = [result["tokens_per_s"] / 1e6 for result in own if "tokens_per_s" in result]
        if not speeds:
            continue
        middle = {}
        for key in ["first_ms", "cpu_s", "memory_mib", "requests"]:
            values = [result[key] for result in own if key in result]
            middle[key] = statistics.median(values) if values else 0
        print(
            f"| {name} | {statistics.median(speeds):.1f} ({min(speeds):.1f}, {max(speeds):.1f}) | {middle['first_ms']:.0f} | {middle['cpu_s']:.2f} "
            f"| {middle['memory_mib']:.0f} | {middle['requests']:.0f} |"
        )


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("action", choices=["prepare", "compare", "measure", "table"])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--workers", type=int, default=0)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--readers")
    arguments.add_argument("--remote")
    arguments.add_argument("--raw")
    arguments.add_argument("--without-memory", action="store_true")
    arguments = arguments.parse_args()
    if arguments.action == "table":
        table([json.loads(line) for line in arguments.folder.read_text().splitlines()])
        return
    from readers import READERS

    # The limit is one of this machine's memory.
    names = arguments.readers.split(",") if arguments.readers else [name for name in READERS if name != "memmap" or not arguments.remote]
    if arguments.action == "prepare":
        prepare(arguments.folder)
    elif arguments.action == "compare":
        compare(arguments.folder.resolve(), arguments.workers, arguments.rounds, names, arguments.remote, arguments.raw, not arguments.without_memory)
    else:
        measure(names[0], arguments.folder, arguments.workers, arguments.remote)


if __name__ == "__main__":
    main()
