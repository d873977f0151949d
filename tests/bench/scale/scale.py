"""Times whole runs over synthetic samples with codes given, of two sizes: does memory or time per sample grow with the corpus?

    python scale.py CM3FLOW FOLDER [--samples 20000 200000] [--repeats 3] [--window-units 4] [--bank-rows 4000] [--no-retrieval]

Each sample has 64 codes and a caption; every hundredth is a copy of an earlier one, so that deduplication has something to find. Samples lie in
lists of 20,000, and units have 1,000. Windows have four units and the bank 4,000 rows by default, so that either size fills both. Sizes take turns.
The table has medians: peak memory of the process, time per sample, and both as ratios to the first size. FOLDER is where lists and stores go; stores
are removed.
"""

import argparse
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import time

LIST_SAMPLES = 20_000
CODES = 64
CONFIG = """
[dataset]
name = "scale"
store = "store-{samples}"
[[source]]
name = "synthetic"
format = "jsonl"
url = "lists-{samples}/*.jsonl"
unit_samples = 1000
[runtime]
workers = 2
threads = 1
[window]
units = {window_units}
[tokenize.image]
kind = "given"
side_px = 128
grid = 8
codebook_size = 1024
[tokenize.text]
vocabulary_size = 1000
[fit]
max_samples = 2000
[retrieve]
documents = {documents}
bank_rows = {bank_rows}
[pack]
seq_len = 1024
"""

COLOURS = ["red", "green", "blue", "grey", "yellow", "black", "white"]
THINGS = ["kite", "boat", "door", "clock tower", "bowl of plums", "lamp", "meadow", "bridge", "horse", "bus", "tree"]
PLACES = ["by the sea", "in a garden", "under a bridge", "on a table", "in the rain", "at night", "behind a fence"]


def row(number):
    """A line of a list: of sample `number`, or of the one that it is a copy of."""
    if number % 100 == 99:
        number = random.Random(number).randrange(number)
        return row(number if number % 100 != 99 else number - 1)
    draw = random.Random(f"sample {number}")
    codes = [draw.randrange(1024) for _ in range(CODES)]
    caption = f"a {draw.choice(COLOURS)} {draw.choice(THINGS)} {draw.choice(PLACES)}, and a {draw.choice(COLOURS)} {draw.choice(THINGS)}"
    return f'{{"codes": {codes}, "caption": "{caption}"}}\n'


def write_lists(folder, samples):
    lists = folder / f"lists-{samples}"
    lists.mkdir(parents=True, exist_ok=True)
    for first in range(0, samples, LIST_SAMPLES):
        path = lists / f"{first:09}.jsonl"
        if not path.exists():
            path.write_text("".join(row(number) for number in range(first, min(first + LIST_SAMPLES, samples))))


def run(arguments, samples):
    """Seconds and peak memory in MiB of one run into an empty store."""
    folder, documents = arguments.folder, 0 if arguments.no_retrieval else 2
    store = folder / f"store-{samples}"
    shutil.rmtree(store, ignore_errors=True)
    config = folder / f"scale-{samples}.toml"
    settings = {"samples": samples, "documents": documents, "window_units": arguments.window_units, "bank_rows": arguments.bank_rows}
    config.write_text(CONFIG.format(**settings))
    began = time.perf_counter()
    with open(folder / f"scale-{samples}.log", "w") as log:
        child = subprocess.Popen([arguments.program, "run", config], stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    if status != 0:
        sys.exit(f"the run of {samples} samples failed: {folder}/scale-{samples}.log")
    shutil.rmtree(store)
    return seconds, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--samples", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--window-units", type=int, default=4)
    parser.add_argument("--bank-rows", type=int, default=4000)
    parser.add_argument("--no-retrieval", action="store_true")
    arguments = parser.parse_args()
    for samples in arguments.samples:
        write_lists(arguments.folder, samples)
    runs = {samples: [] for samples in arguments.samples}
    for _ in range(arguments.repeats):
        for samples in arguments.samples:
            runs[samples].append(run(arguments, samples))
            seconds, memory = runs[samples][-1]
            print(f"{samples}: {seconds:.1f} s, {memory:.0f} MiB", file=sys.stderr, flush=True)
    print("| samples | peak memory, MiB | s per 1,000 samples | memory, ratio | time per sample, ratio |")
    print("|---:|---:|---:|---:|---:|")
    medians = {}
    for samples, of_size in runs.items():
        medians[samples] = [statistics.median(values) for values in zip(*of_size)]
        seconds, memory = medians[samples]
        first_seconds, first_memory = medians[arguments.samples[0]]
        per_sample = seconds / samples
        time_ratio = per_sample / (first_seconds / arguments.samples[0])
        print(f"| {samples:,} | {memory:.0f} | {1000 * per_sample:.2f} | {memory / first_memory:.2f} | {time_ratio:.2f} |")


if __name__ == "__main__":
    main()
