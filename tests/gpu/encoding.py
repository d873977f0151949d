"""Codes and speed of cm3flow's encoding on a GPU, against its own codes on the CPU and against PyTorch, eager and compiled.

    python encoding.py VQ_VALUES [--device cuda] [--sides 256 512] [--images 128] [--batch 32] [--repeats 5] [--pairs 5]

Chameleon's network with drawn weights. Encoding alone is timed, from bytes of all the images on the host to their codes on the host, bf16, same
weights, pictures and batches on all sides, in turns; all that PyTorch does between the copies is compiled. Speeds are medians, ratios are medians
of the ratios of a turn. The ceiling is a product of square bf16 matrices on this card.
"""

import argparse
import json
import logging
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "parity"))

import parity  # noqa: E402
import reference  # noqa: E402
from pictures import pictures  # noqa: E402

# The compiler warns of shapes that it cannot bound.
logging.getLogger("torch.utils._sympy.interp").setLevel(logging.ERROR)

MATRIX = 8192
CHECKED = 4


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(device, repeats, work):
    """Median seconds of `work`, the first call not counted."""
    work()
    taken = []
    for _ in range(repeats):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def ceiling(device, side):
    """Floating-point operations a second in a bf16 product of matrices of that side."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds(device, 10, lambda: a @ b)


class Ours:
    def __init__(self, program, folder, fields):
        self.program, self.folder, self.fields = program, folder, fields

    def run(self, pixels, **settings):
        """Codes, and seconds of each timed encoding."""
        save_file({"pixels": torch.from_numpy(pixels)}, self.folder / "inputs.safetensors")
        job = self.fields | {"inputs": str(self.folder / "inputs.safetensors"), "threads": torch.get_num_threads()} | settings
        (self.folder / "job.json").write_text(json.dumps(job))
        subprocess.run([self.program, self.folder / "job.json", self.folder / "out.safetensors"], check=True)
        out = load_file(self.folder / "out.safetensors")
        return out["codes"], out["seconds"]


@torch.no_grad()
def compared(side, arguments):
    device = arguments.device
    config = parity.CHAMELEON | {"resolution": side}
    network = reference.Vqgan(config).eval()
    parity.drawn_weights(network, 1)
    parity.drawn_codebook(network, network, config, 2)
    pixels = pictures(side, 0, arguments.images)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "weights.safetensors")
        ours = Ours(arguments.program, folder, {"network": config, "weights": str(folder / "weights.safetensors")})
        few = {"batch_size": CHECKED}
        on_cpu, _ = ours.run(pixels[:CHECKED], device="cpu", **few)
        for precision in ["float32", "bfloat16"]:
            there, _ = ours.run(pixels[:CHECKED], device=device, precision=precision, **few)
            again, _ = ours.run(pixels[:CHECKED], device=device, precision=precision, **few)
            same = "the same" if torch.equal(again, there) else "OTHERS"
            print(f"{side} px: codes on {device} in {precision} equal to the CPU's in float32: {(there == on_cpu).float().mean():.4%} of {len(on_cpu)}; {same} in another process")
        with FlopCounterMode(display=False) as counter:
            network.latents(torch.zeros(1, 3, side, side))
        # The search for the nearest vector is one more product of matrices.
        cells = (side >> len(config["channel_multipliers"]) - 1) ** 2
        operations = counter.get_total_flops() + 2 * cells * config["codebook_size"] * config["embedding_dim"]

        model = network.to(device, torch.bfloat16, memory_format=torch.channels_last)
        table = torch.from_numpy(parity.table()).to(device)

        def codes(levels):
            x = table[levels.int()].permute(0, 3, 1, 2).to(torch.bfloat16)
            return model.codes(model.latents(x).float())

        def encode(tokenizer):
            batches = range(0, arguments.images, arguments.batch)
            return torch.cat([tokenizer(torch.from_numpy(pixels[first : first + arguments.batch]).to(device)) for first in batches]).cpu()

        model.quantize.float()
        # Compiled for this one size: what serves several is slower.
        torch.compiler.reset()
        compiled = torch.compile(codes, dynamic=False)
        turns = []
        for _ in range(arguments.pairs):
            _, taken = ours.run(pixels, device=device, precision="bfloat16", batch_size=arguments.batch, timed=arguments.repeats)
            eager = seconds(device, arguments.repeats, lambda: encode(codes))
            turns.append((taken.median().item(), eager, seconds(device, arguments.repeats, lambda: encode(compiled))))
    us, eager, fast = (arguments.images / statistics.median(column) for column in zip(*turns))
    share = us * operations / ceiling(device, arguments.matrix)
    over_eager, over_fast = (statistics.median(turn[which] / turn[0] for turn in turns) for which in (1, 2))
    return f"| {side} px | {us:.1f} | {share:.1%} | {eager:.1f} | {over_eager:.2f} | {fast:.1f} | {over_fast:.2f} |"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("program", help="the program vq_values")
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--sides", type=int, nargs="+", default=[256, 512])
    arguments.add_argument("--images", type=int, default=128)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--pairs", type=int, default=5)
    arguments.add_argument("--matrix", type=int, default=MATRIX, help="side of the matrices of the ceiling")
    arguments = arguments.parse_args()
    if arguments.device == "cuda":
        print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)
    rows = [compared(side, arguments) for side in arguments.sides]
    print("| pictures | cm3flow, images/s | share of the ceiling | eager, images/s | times eager | compiled, images/s | times compiled |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
