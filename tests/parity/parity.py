"""Compares cm3flow's image tokenizers with reference implementations: same random weights, same pixels.

    python parity.py VQ_VALUES            prints a table; exit code 1 if a bound of README.md is broken
    python parity.py VQ_VALUES --only NAME...
    python parity.py --golden             writes golden/, small files that `cargo test` reads

VQ_VALUES is the program of model/examples/vq_values.rs.
"""

import argparse
import collections
import copy
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import annotators
import reference
from modules import save_module
from pictures import pictures

# Codes whose nearest and second nearest vectors differ by less are close calls: rounding may decide them. Those that it decides differently are ties.
RELATIVE_MARGIN = 1e-4
LARGEST_SHARE_OF_CLOSE_CALLS = 1e-2
LARGEST_SHARE_OF_TIES = 1e-3
LARGEST_PIXEL_DIFFERENCE = 1e-4
HERE = pathlib.Path(__file__).parent

CHAMELEON = {
    "resolution": 512,
    "channels": 128,
    "channel_multipliers": [1, 1, 2, 2, 4],
    "residual_blocks": 2,
    "attention_resolutions": [],
    "middle_attention": True,
    "z_channels": 256,
    "embedding_dim": 256,
    "codebook_size": 8192,
    "norm_groups": 32,
    "l2_normalized_codes": False,
}
VQ_16 = CHAMELEON | {
    "resolution": 256,
    "attention_resolutions": [16],
    "embedding_dim": 8,
    "codebook_size": 16384,
    "l2_normalized_codes": True,
}
VQ_8 = VQ_16 | {"channel_multipliers": [1, 2, 2, 4], "attention_resolutions": [32]}
AMUSED = CHAMELEON | {
    "resolution": 256,
    "channel_multipliers": [1, 2, 2, 4, 6],
    "middle_attention": False,
    "z_channels": 64,
    "embedding_dim": 64,
}
TINY = CHAMELEON | {
    "resolution": 32,
    "channels": 8,
    "channel_multipliers": [1, 2],
    "residual_blocks": 1,
    "attention_resolutions": [16],
    "z_channels": 6,
    "embedding_dim": 5,
    "codebook_size": 300,
    "norm_groups": 4,
}

Case = collections.namedtuple("Case", "name kind config images dtype", defaults=[torch.float32])
FULL = [
    Case("transformers ChameleonVQVAE, 512 px", "chameleon", CHAMELEON, 1),
    Case("taming VQGAN (lightning ckpt), 512 px", "taming", CHAMELEON, 1),
    Case("diffusers VQModel (aMUSEd's sizes), 256 px", "diffusers", AMUSED, 4),
    Case("diffusers VQModel with attention, 256 px", "diffusers", AMUSED | {"attention_resolutions": [16], "middle_attention": True}, 4),
    Case("LlamaGen VQ-16, 256 px", "llamagen", VQ_16, 8),
    Case("LlamaGen VQ-8, 256 px", "llamagen", VQ_8, 2),
    Case("TorchScript pair, 256 px", "torchscript", CHAMELEON | {"resolution": 256}, 4),
]
# GroupNorm has 32 groups in transformers, so this one cannot be narrower.
GOLDEN = [
    Case("chameleon", "chameleon", TINY | {"channels": 32, "channel_multipliers": [1, 1], "norm_groups": 32, "attention_resolutions": []}, 2, torch.bfloat16),
    Case("taming", "taming", TINY, 2),
    Case("diffusers", "diffusers", TINY, 2),
    Case("llamagen", "llamagen", TINY | {"l2_normalized_codes": True}, 2, torch.float16),
    Case("torchscript", "torchscript", TINY, 2),
]


def table():
    """Value of each level, f32 in -1 to 1, rounded once."""
    return (np.arange(256, dtype=np.float64) * 2 / 255 - 1).astype(np.float32)


def scaled(pixels):
    """[n, h, w, 3] uint8 to [n, 3, h, w] f32."""
    return torch.from_numpy(table()[pixels]).permute(0, 3, 1, 2).contiguous()


def drawn_weights(module, seed):
    """Weights under which latents differ from place to place: those that PyTorch starts with, with norms and biases that are not trivial."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if "norm" in name:
            tensor.normal_(1.0 if name.endswith("weight") else 0.0, 0.3, generator=generator)
        elif name.endswith("bias"):
            tensor.normal_(0.0, 0.1, generator=generator)
        elif tensor.dim() > 1:
            tensor.normal_(0.0, tensor[0].numel() ** -0.5, generator=generator)


def drawn_codebook(model, module, config, seed):
    """Vectors between the latents of pictures that are not compared, so that many different codes occur; latents are centred first."""
    per_image = (config["resolution"] >> len(config["channel_multipliers"]) - 1) ** 2
    count = max(2, 2048 // per_image)
    latents = torch.cat([model.latents(scaled(pictures(config["resolution"], 1000 + index, 1))) for index in range(count)])
    rows = latents.permute(0, 2, 3, 1).flatten(0, 2)
    mean, deviation = rows.mean(0), rows.std(0)
    conv = module.quant_conv
    conv.weight.div_(deviation[:, None, None, None])
    conv.bias.sub_(mean).div_(deviation)
    rows = (rows - mean) / deviation
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randint(len(rows), (config["codebook_size"],), generator=generator) for _ in range(2))
    share = torch.rand(config["codebook_size"], 1, generator=generator) * 0.5
    module.quantize.embedding.weight.copy_(rows[first] * (1 - share) + rows[second] * share)


def scale_decoder(model, module, config):
    """Scales the last layer so that a decoded picture just fits into -1 to 1: the bound on pixels is meant on that scale."""
    if hasattr(module, "decoder"):
        largest = model.decode(model.codes(model.latents(scaled(pictures(config["resolution"], 1000, 1))))).abs().max()
        module.decoder.conv_out.weight.div_(largest)
        module.decoder.conv_out.bias.div_(largest)


class Encode(torch.nn.Module):
    """What a TorchScript encoder returns: codes, and something besides."""

    def __init__(self, vqgan):
        super().__init__()
        self.vqgan = copy.deepcopy(vqgan)
        del self.vqgan.decoder

    def forward(self, pixels):
        latents = self.vqgan.latents(pixels)
        return self.vqgan.codes(latents).to(torch.int32), latents


class Decode(torch.nn.Module):
    def __init__(self, vqgan):
        super().__init__()
        self.vqgan = copy.deepcopy(vqgan)
        del self.vqgan.encoder

    def forward(self, codes):
        return self.vqgan.decode(codes)


class ModelCheckpoint:
    """Stands for the objects that Lightning puts into its checkpoints, of classes that no reader of weights can import."""

    def __init__(self):
        self.best, self.paths = torch.tensor(1.0), {"last": pathlib.PurePosixPath("last.ckpt")}


def save(case, module, folder):
    """Writes the weights as the original implementation does. Returns the fields of the job that name them."""
    tensors, config = module.state_dict(), case.config
    if case.kind == "torchscript":
        side, grid = config["resolution"], config["resolution"] >> len(config["channel_multipliers"]) - 1
        pixels, codes = torch.zeros(2, 3, side, side), torch.zeros(2, grid, grid, dtype=torch.int64)
        save_module(Encode(module), pixels, folder / "encoder.jit")
        save_module(Decode(module), codes, folder / "decoder.jit")
        modules = {"side_px": side, "grid": grid, "codebook_size": config["codebook_size"]}
        return {"modules": [modules, str(folder / "encoder.jit"), str(folder / "decoder.jit")]}
    tensors = {name: tensor.to(case.dtype).contiguous() for name, tensor in tensors.items()}
    if case.kind == "chameleon":
        path = folder / f"{case.kind}.safetensors"
        save_file({f"model.vqmodel.{name}": tensor for name, tensor in tensors.items()} | {"lm_head.weight": torch.zeros(2, 2)}, path)
    elif case.kind == "diffusers":
        path = folder / f"{case.kind}.safetensors"
        save_file(tensors, path)
    elif case.kind == "llamagen":
        path = folder / f"{case.kind}.pt"
        renamed = reference.llamagen_names(tensors, len(config["channel_multipliers"]))
        if case in GOLDEN:
            renamed["quantize.codebook_used"] = torch.zeros(8)
        torch.save({"model": renamed, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "steps": 7, "args": argparse.Namespace(seed=0)}, path)
    else:
        path = folder / f"{case.kind}.ckpt"
        extras = {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.zeros(2, 3, 4, 4), "loss.num_batches_tracked": torch.tensor(3)}
        lightning = {
            "epoch": 3,
            "global_step": 70,
            "pytorch-lightning_version": "1.0.8",
            "callbacks": {ModelCheckpoint: {"best_model_score": torch.tensor(0.5), "callback": ModelCheckpoint()}},
            "optimizer_states": [{"state": {0: {"step": 70, "exp_avg": torch.zeros(3)}}, "param_groups": [{"betas": (0.5, 0.9)}]}],
            "lr_schedulers": [],
            "state_dict": collections.OrderedDict(tensors | extras),
        }
        torch.save(lightning, path)
    return {"network": config, "weights": str(path)}


def margins(model, latents, vectors):
    """By how much the second nearest vector of each latent is farther than the nearest, as a share of its own distance (not squared); in f64."""
    rows = latents.permute(0, 2, 3, 1).flatten(0, 2).double()
    vectors = vectors.double()
    if model.normalised:
        rows, vectors = torch.nn.functional.normalize(rows, dim=-1), torch.nn.functional.normalize(vectors, dim=-1)
    nearest = torch.cat([torch.cdist(part, vectors, compute_mode="donot_use_mm_for_euclid_dist").topk(2, largest=False).values for part in rows.split(256)])
    return (1 - nearest[:, 0] / nearest[:, 1]).float()


def prepared(case, folder):
    """Runs the reference. Returns the fields of the job that name the weights, and pixels, codes, margins and decoded pixels."""
    model = {"chameleon": reference.Chameleon, "diffusers": reference.Diffusers}.get(case.kind, reference.Vqgan)(case.config)
    module = getattr(model, "module", model)
    module.eval()
    drawn_weights(module, 1)
    drawn_codebook(model, module, case.config, 2)
    scale_decoder(model, module, case.config)
    for tensor in module.state_dict().values():
        tensor.copy_(tensor.to(case.dtype))
    fields = save(case, module, folder)
    pixels = pictures(case.config["resolution"], 0, case.images)
    latents = torch.cat([model.latents(scaled(pixels[index : index + 1])) for index in range(case.images)])
    codes = model.codes(latents)
    out = {"pixels": torch.from_numpy(pixels), "codes": codes.to(torch.int32).contiguous()}
    out["margins"] = margins(model, latents, module.quantize.embedding.weight)
    decoded = [model.decode(part) for part in codes.split(1)]
    if decoded[0] is not None:
        out["decoded"] = torch.cat(decoded).contiguous()
    janus = None
    if case.kind == "llamagen" and case not in GOLDEN:
        janus = reference.janus_differs_by(model, case.config, scaled(pixels[:1]))
    return fields, out, janus


def compared(case, program, threads):
    """One line of the table, and whether its bounds hold."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        fields, expected, janus = prepared(case, folder)
        given = ["pixels"] + ["codes"] * ("decoded" in expected)
        save_file({name: expected[name] for name in given}, folder / "inputs.safetensors")
        job = fields | {"inputs": str(folder / "inputs.safetensors"), "batch_size": 1, "threads": threads}
        (folder / "job.json").write_text(json.dumps(job))
        subprocess.run([program, folder / "job.json", folder / "out.safetensors"], check=True)
        found = load_file(folder / "out.safetensors")
    codes = expected["codes"].flatten()
    clear = expected["margins"] > RELATIVE_MARGIN
    equal = found["codes"] == codes
    wrong, ties, close = int((~equal & clear).sum()), int((~equal & ~clear).sum()), int((~clear).sum())
    pixels = (found["decoded"] - expected["decoded"]).abs().max().item() if "decoded" in expected else None
    holds = wrong == 0 and ties < LARGEST_SHARE_OF_TIES * len(codes) and close < LARGEST_SHARE_OF_CLOSE_CALLS * len(codes)
    holds = holds and (pixels is None or pixels <= LARGEST_PIXEL_DIFFERENCE)
    largest = f"{pixels:.1e}" if pixels is not None else "no decoder"
    line = f"| {case.name} | {len(codes)} | {equal.double().mean().item():.2%} | {wrong} | {ties} of {close} | {len(codes.unique())} | {largest} |"
    if janus:
        print(f"  {case.name}: JanusVQVAE of transformers with these weights differs by {janus[0]:.1e} in latents, {janus[1]:.1e} in pixels", file=sys.stderr)
        holds = holds and janus[0] < LARGEST_PIXEL_DIFFERENCE and janus[1] < LARGEST_PIXEL_DIFFERENCE
    return line, holds


def write_golden():
    folder = HERE / "golden"
    folder.mkdir(exist_ok=True)
    for case in GOLDEN:
        fields, expected, _ = prepared(case, folder)
        save_file(expected, folder / f"{case.name}.expected.safetensors")
        file = {"chameleon": "chameleon.safetensors", "diffusers": "diffusers.safetensors", "llamagen": "llamagen.pt", "taming": "taming.ckpt"}
        described = {"modules": fields["modules"][0]} if "modules" in fields else {"network": case.config, "weights": file[case.kind]}
        (folder / f"{case.name}.json").write_text(json.dumps(described, indent=2) + "\n")
        for written in folder.iterdir():
            written.chmod(0o644)
        unclear = int((expected["margins"] <= RELATIVE_MARGIN).sum())
        print(f"{case.name}: {len(expected['codes'].unique())} different codes of {expected['codes'].numel()}, {unclear} close calls")
    annotators.write_golden(folder)


@torch.no_grad()
def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("program", nargs="?", help="the program vq_values")
    arguments.add_argument("--golden", action="store_true", help="write golden/ instead")
    arguments.add_argument("--only", nargs="+", default=[""], help="cases whose names hold one of these")
    arguments = arguments.parse_args()
    if arguments.golden:
        return write_golden()
    if arguments.program is None:
        sys.exit("name the program vq_values, or ask for --golden")
    print("| reference | codes | equal | unequal | ties of close calls | different codes | largest pixel difference |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    broken = []
    for case in FULL:
        if not any(part in case.name for part in arguments.only):
            continue
        began = time.monotonic()
        line, holds = compared(case, arguments.program, torch.get_num_threads())
        print(line, flush=True)
        print(f"  {case.name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        broken += [] if holds else [case.name]
    if broken:
        sys.exit(f"bounds are broken by: {'; '.join(broken)}")


if __name__ == "__main__":
    main()
