"""Packs the same lengths with cm3flow, seqpacker and TRL: packs, tokens left out, and speed.

    python pack.py PACK_LENGTHS [--documents 100000 1000000] [--runs 7] [--trl-runs 3]

PACK_LENGTHS is the program of stages/examples/pack_lengths.rs. Python needs the packages of requirements.txt beside this file. Packs hold 4,096
tokens, and no document is longer. Sides take turns; the table has medians of seconds and of the ratios of runs that stand beside each other. cm3flow and
seqpacker get lengths and give the members of each pack. TRL is called as its trainer calls it, `pack_dataset(…, strategy="bfd")` over a table of
documents: with its default, which packs each 1,000 documents by themselves, and with all of them at once, as the others do. Its documents have their
lengths, but ids that take no memory (Arrow's type `null`), so that it is timed without the copy of the tokens that it makes as well.
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


def trl(sizes, at_once):
    import pyarrow as pa
    from datasets import Dataset, disable_progress_bars
    from trl import pack_dataset

    disable_progress_bars()
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    table = Dataset(pa.table({"input_ids": pa.LargeListArray.from_arrays(pa.array(offsets), pa.nulls(int(offsets[-1])))}))
    began = time.perf_counter()
    packed = pack_dataset(table, SEQ_LEN, strategy="bfd", map_kwargs={"batch_size": len(sizes)} if at_once else None)
    seconds = time.perf_counter() - began
    kept = packed.with_format("arrow")[:]["seq_lengths"].combine_chunks().flatten()
    assert (len(kept), int(kept.to_numpy().sum())) == (len(sizes), int(sizes.sum())), "TRL leaves something out"
    return seconds, len(packed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--documents", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--trl-runs", type=int, default=3)
    arguments = parser.parse_args()
    print(
        "| lengths | documents | least packs | cm3flow: packs, fill | seqpacker: packs | TRL: packs | TRL by 1,000: packs | cm3flow, ms "
        "| seqpacker / cm3flow, time | TRL / cm3flow | TRL by 1,000 / cm3flow |"
    )
    print("|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    for count in arguments.documents:
        for kind in ["pairs", "retrieval", "sft", "log-normal text"]:
            compare(arguments, kind, count)


def compare(arguments, kind, count):
    sizes = lengths(kind, count)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "lengths.bin"
        sizes.tofile(path)
        runs = [(ours(arguments.program, path), seqpacker(sizes)) for _ in range(arguments.runs)]
        slow = [(ours(arguments.program, path), trl(sizes, True), trl(sizes, False)) for _ in range(arguments.trl_runs)]
    mine, theirs = runs[0]
    assert mine[2] == theirs[2] == count, "a side leaves documents out"
    seconds = statistics.median(run[0][0] for run in runs)
    ratio = statistics.median(run[1][0] / run[0][0] for run in runs)
    fill = int(sizes.sum()) / (mine[1] * SEQ_LEN)
    line = f"| {kind} | {count:,} | {mine[3]:,} | {mine[1]:,}, {100 * fill:.2f} % | {theirs[1]:,} "
    line += "".join(f"| {slow[0][side][1]:,} " if slow else "| " for side in (1, 2)) + f"| {1000 * seconds:.1f} | {ratio:.1f} "
    line += "".join(f"| {statistics.median(run[side][0] / run[0][0] for run in slow):,.0f} " if slow else "| " for side in (1, 2))
    print(line + "|", flush=True)


if __name__ == "__main__":
    main()
