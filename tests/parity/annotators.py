"""Small annotators as TorchScript modules, and what they make of a few pictures: `make parity-golden` writes them into golden/.

Each returns its values in another form, as published networks do: a list of maps of which the last one counts, a tensor without channels at half of
the size, a dictionary.
"""

import numpy as np
import torch
from safetensors.torch import save_file

from modules import save_module
from pictures import pictures

SIDE = 32


def luminance(pixels):
    return 0.299 * pixels[:, :1] + 0.587 * pixels[:, 1:2] + 0.114 * pixels[:, 2:]


class Slopes(torch.nn.Module):
    """Slopes of brightness to the right and downwards, by Sobel."""

    def __init__(self):
        super().__init__()
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
        self.weight = torch.nn.Parameter(torch.stack([across, across.T]).unsqueeze(1))

    def forward(self, pixels):
        grey = torch.nn.functional.pad(luminance(pixels), (1, 1, 1, 1), mode="replicate")
        return torch.nn.functional.conv2d(grey, self.weight)


class Edges(torch.nn.Module):
    """Takes values normalized by mean and deviation; returns the slopes themselves, a coarse map of edges in 0 to 1, and a fine one."""

    def __init__(self):
        super().__init__()
        self.slopes = Slopes()

    def forward(self, pixels):
        slopes = self.slopes(pixels)
        strength = slopes.square().sum(1, keepdim=True).sqrt()
        coarse = torch.nn.functional.avg_pool2d(strength, 3, 1, 1)
        return [slopes, 1 - torch.exp(-4 * coarse), 1 - torch.exp(-8 * strength)]


class Depth(torch.nn.Module):
    """Takes 0 to 1; what is bright or low in the picture is near. Mean 0 and deviation 1 in each picture, so that of one colour alone nothing is left but 0 / 0."""

    def forward(self, pixels):
        grey = torch.nn.functional.avg_pool2d(luminance(pixels), 2)[:, 0]
        rows = torch.arange(grey.shape[1]) / grey.shape[1]
        near = grey * (0.5 + 0.5 * rows.view(1, -1, 1))
        mean = near.mean((1, 2), keepdim=True)
        deviation = (near - mean).square().mean((1, 2), keepdim=True).sqrt()
        return (near - mean) / deviation


class Normals(torch.nn.Module):
    """Takes -1 to 1; unit vectors in -1 to 1, those of a relief as high as the picture is bright."""

    def __init__(self):
        super().__init__()
        self.slopes = Slopes()

    def forward(self, pixels):
        slopes = self.slopes(pixels)
        vectors = torch.cat([-4 * slopes, torch.ones_like(slopes[:, :1])], 1)
        return {"normal": torch.nn.functional.normalize(vectors, dim=1)}


def levels(values, black, white):
    """[n, c, h, w] or [n, h, w] values to [n, h, w, 3] levels."""
    values = values.double().numpy()
    values = values[:, None] if values.ndim == 3 else values
    shares = np.clip((values - black) / (white - black), 0, 1)
    shares = np.broadcast_to(shares, (len(shares), 3, *shares.shape[2:]))
    return torch.from_numpy(np.floor(shares * 255 + 0.5).astype(np.uint8).transpose(0, 2, 3, 1).copy())


@torch.no_grad()
def write_golden(folder):
    pixels = pictures(SIDE, 0, 3)
    unit = torch.from_numpy(pixels.astype(np.float64) / 255).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    edges, depth, normals = Edges(), Depth(), Normals()
    for module, name in [(edges, "edges"), (depth, "depth"), (normals, "normals")]:
        save_module(module, torch.rand(2, 3, SIDE, SIDE), folder / f"{name}.jit", strict=False)
    near = depth(unit.float())
    least, largest = (near.amin((1, 2)).double().numpy(), near.amax((1, 2)).double().numpy())
    expected = {
        "pixels": torch.from_numpy(pixels),
        "edges": levels(edges(((unit - mean) / std).float())[2], 0.0, 1.0),
        "depth": levels(near, least.reshape(-1, 1, 1, 1), largest.reshape(-1, 1, 1, 1)),
        "normals": levels(normals(((unit - 0.5) / 0.5).float())["normal"], -1.0, 1.0),
    }
    save_file(expected, folder / "annotators.expected.safetensors")
    for name in ["edges.jit", "depth.jit", "normals.jit", "annotators.expected.safetensors"]:
        (folder / name).chmod(0o644)
    print("annotators: " + ", ".join(f"{name} {len(values.unique())} levels" for name, values in expected.items()))
