"""Times encoding alone: cm3flow's network against transformers' `ChameleonVQVAE` in eager mode, on the CPU.

    python encode.py VQ_VALUES [--threads 2] [--pairs 7] [--images 2]

Same weights, pixels and threads. Each side warms up, then both take turns; the table has the median of each and of the ratios of the pairs.
VQ_VALUES is the program of model/examples/vq_values.rs. Python needs the packages of tests/parity/requirements.txt.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "parity"))

import parity  # noqa: E402
import reference  # noqa: E402
from pictures import pictures  # noqa: E402


def theirs(model, pixels):
    """Seconds of one encoding from bytes to codes."""
    began = time.perf_counter()
    codes = model.codes(model.latents(parity.scaled(pixels)))
    return time.perf_counter() - began, codes.flatten()


def ours(program, job, folder):
    """Seconds of one encoding, the second of a process of its own."""
    (folder / "job.json").write_text(json.dumps(job))
    subprocess.run([program, folder / "job.json", folder / "out.safetensors"], check=True)
    out = load_file(folder / "out.safetensors")
    return out["seconds"].median().item(), out["codes"]


@torch.no_grad()
def timed(side, arguments):
    config = parity.CHAMELEON | {"resolution": side}
    model = reference.Chameleon(config)
    model.module.eval()
    parity.drawn_weights(model.module, 1)
    pixels = pictures(side, 0, arguments.images)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        fields = parity.save(parity.Case("", "chameleon", config, arguments.images), model.module, folder)
        save_file({"pixels": torch.from_numpy(pixels)}, folder / "inputs.safetensors")
        job = fields | {"inputs": str(folder / "inputs.safetensors"), "batch_size": arguments.images, "threads": arguments.threads, "timed": 1}
        theirs(model, pixels)
        pairs = [(ours(arguments.program, job, folder)[0], theirs(model, pixels)[0]) for _ in range(arguments.pairs)]
    ours_median, theirs_median = (statistics.median(side) for side in zip(*pairs))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"| {side} px | {arguments.images / ours_median:.2f} | {arguments.images / theirs_median:.2f} | {ratio:.2f} |", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("program", help="the program vq_values")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--pairs", type=int, default=7)
    arguments.add_argument("--images", type=int, default=2, help="images of one batch")
    arguments.add_argument("--sides", type=int, nargs="+", default=[256, 512])
    arguments = arguments.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| pictures | cm3flow, images/s | transformers eager, images/s | median of ratios |")
    print("| --- | ---: | ---: | ---: |")
    for side in arguments.sides:
        timed(side, arguments)


if __name__ == "__main__":
    main()
