"""Writes TorchScript modules."""

import io
import zipfile

import torch


def save_module(module, example, path, strict=True):
    """Traces a module and writes it without what names the files that it was written from. A dictionary is returned only if not `strict`."""
    written = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, example, strict=strict), written)
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                target.writestr(entry, source.read(entry))
