"""Writes a configuration and weights for `run.sh`: the sample corpus several times over, Chameleon's network with drawn weights.

    python corpus.py FOLDER REPEAT

Every copy of a photo says behind its end marker which one it is, so that none is a duplicate that would be left out.
"""

import io
import pathlib
import sys
import tarfile

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "parity"))

import parity  # noqa: E402
import reference  # noqa: E402

COPIES_PER_SHARD = 5
CONFIG = """[dataset]
name = "gpu"
seed = 1
[runtime]
device = "cuda"
[[source]]
name = "photos"
format = "webdataset"
url = "photos-*.tar"
[tokenize.image]
kind = "vq"
preset = "chameleon"
weights = "weights.safetensors"
precision = "bfloat16"
batch_size = 16
[tokenize.text]
vocabulary_size = 1024
[pack]
seq_len = 4096
"""


def append(target, tar, copy):
    """Appends the members of `tar` under names of this copy."""
    with tarfile.open(tar) as source:
        for member in source:
            content = source.extractfile(member).read()
            if member.name.endswith(".jpg"):
                content += f"copy {copy}".encode()
            member.name, member.size = f"{copy:03}-{member.name}", len(content)
            target.addfile(member, io.BytesIO(content))


def main():
    folder, repeat = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    corpus = pathlib.Path(__file__).parents[1] / "corpus"
    for number in range(0, repeat, COPIES_PER_SHARD):
        with tarfile.open(folder / f"photos-{number:03}.tar", "w") as target:
            for copy in range(number, min(number + COPIES_PER_SHARD, repeat)):
                for tar in sorted(corpus.glob("photos-*.tar")):
                    append(target, tar, copy)
    network = reference.Vqgan(parity.CHAMELEON)
    parity.drawn_weights(network, 1)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "weights.safetensors")
    (folder / "chameleon.toml").write_text(CONFIG)


if __name__ == "__main__":
    with torch.no_grad():
        main()
