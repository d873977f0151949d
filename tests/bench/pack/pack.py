"""Packs the same lengths with cm3flow, seqpacker and TRL: fill, tokens left out, and speed.

    python pack.py PACK_LENGTHS [--documents 100000 1000000] [--runs 7]

PACK_LENGTHS is the program of stages/examples/pack_lengths.rs. Python needs the packages of requirements.txt beside this file. Packs hold 4,096
tokens. Sides take turns; the table has medians of seconds of packing alone and of the ratios of runs that stand beside each other. cm3flow and
seqpacker get lengths and give the members of each pack; TRL is given a table of token columns, as its users give it, and writes the packed one.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy as np

SEQ_LEN = 4096
IMAGE = 1024


def lengths(kind, count):
    """Lengths in tokens of `count` documents, none above SEQ_LEN."""
    draw = np.random.default_rng(1)
    captions = np.clip(draw.lognormal(2.7, 0.4, (count, 4)).astype(int), 4, 60)
    if kind == "pairs":
        found = IMAGE + 4 + captions[:, 0]
    elif kind == "retrieval":
        # Of up to three neighbours, as many as fit beside the document itself.
        neighbours = draw.integers(0, 3, count)
        found = np.full(count, 4) + sum(np.where(neighbours >= number, IMAGE + 2 + captions[:, number], 0) for number in range(4))
    elif kind == "sft":
        # Captions and questions with one image, edits and conditions with two, text alone.
        images = draw.choice([0, 1, 2], count, p=[0.25, 0.55, 0.2])
        text = np.clip(draw.lognormal(3.6, 0.8, count).astype(int), 8, 1500)
        found = images * (IMAGE + 2) + text + 3
    else:
        found = draw.lognormal(5.5, 1.1, count).astype(int) + 3
    return np.clip(found, 2, SEQ_LEN).astype(np.uint32)


def ours(program, path):
    answer = json.loads(subprocess.run([program, path, str(SEQ_LEN)], check=True, capture_output=True).stdout)
    return answer["seconds"], answer["packs"], answer["placed"], answer["least"]


def seqpacker(sizes):
    import seqpacker

    listed = sizes.tolist()
    began = time.perf_counter()
    result = seqpacker.pack_sequences(listed, capacity=SEQ_LEN, strategy="obfd")
    seconds = time.perf_counter() - began
    bins = result.bins
    return seconds, len(bins), sum(len(members) for members in bins)


def trl(table):
    from trl import pack_dataset

    began = time.perf_counter()
    packed = pack_dataset(table, SEQ_LEN, strategy="bfd")
    return time.perf_counter() - began, len(packed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--documents", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--without-trl", action="store_true")
    arguments = parser.parse_args()
    print("| lengths | documents | least packs | cm3flow: packs, fill | seqpacker: packs | TRL: packs | cm3flow, ms | seqpacker / cm3flow, time | TRL / cm3flow, time |")
    print("|---|---:|---:|---|---:|---:|---:|---:|---:|")
    for count in arguments.documents:
        for kind in ["pairs", "retrieval", "sft", "log-normal text"]:
            compare(arguments, kind, count)


def compare(arguments, kind, count):
    sizes = lengths(kind, count)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "lengths.bin"
        sizes.tofile(path)
        runs = [(ours(arguments.program, path), seqpacker(sizes)) for _ in range(arguments.runs)]
    mine, theirs = runs[0]
    assert mine[2] == theirs[2] == count, "a side leaves documents out"
    seconds = statistics.median(run[0][0] for run in runs)
    ratio = statistics.median(run[1][0] / run[0][0] for run in runs)
    trl_packs, trl_ratio = "", ""
    if not arguments.without_trl:
        trl_seconds, trl_packs = trl_once(sizes)
        trl_ratio = f"{trl_seconds / seconds:.0f}"
    fill = int(sizes.sum()) / (mine[1] * SEQ_LEN)
    print(
        f"| {kind} | {count:,} | {mine[3]:,} | {mine[1]:,}, {100 * fill:.2f} % | {theirs[1]:,} | {trl_packs} | {1000 * seconds:.1f} | {ratio:.1f} | {trl_ratio} |",
        flush=True,
    )


def trl_once(sizes):
    """Seconds and packs of TRL, once: it copies the tokens too, which takes by far the most of its time."""
    import pyarrow as pa
    from datasets import Dataset

    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    tokens = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.zeros(offsets[-1], np.int32)))
    return trl(Dataset(pa.table({"input_ids": tokens})))


if __name__ == "__main__":
    main()
