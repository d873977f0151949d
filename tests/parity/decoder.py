"""Counts what another decoder than ours changes: values of prepared pictures, and codes.

Every picture of the sample corpus is prepared four ways: decoded and fitted by cm3flow; decoded by Pillow (libjpeg-turbo) and fitted by
cm3flow; decoded and fitted by Pillow as in Chameleon's image tokenizer; and, for scale, by cm3flow with every level of the square one
higher. All are encoded by one tokenizer, that of the configuration.

    python tests/parity/decoder.py [--config tests/corpus/photos.toml] [--prepared target/debug/prepared]

Needs Pillow and NumPy, and `cargo build --package cm3flow-tests --bin prepared`. If the configuration has no tokenizer pinned in its
store yet, one is fitted first.
"""

import argparse
import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

TESTS = Path(__file__).resolve().parent.parent


def pictures() -> dict[str, bytes]:
    """Pictures of the sample corpus by name."""
    found = {}
    for path in sorted((TESTS / "corpus").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if Path(member.name).suffix in (".jpg", ".jpeg", ".png", ".webp"):
                    found[f"{path.stem}-{member.name.replace('/', '-').replace('.', '-')}"] = tar.extractfile(member).read()
    return found


def decoded(file: bytes) -> Image.Image:
    """The picture as Pillow decodes it, upright. The corpus has no transparency."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")


def square(picture: Image.Image, side: int) -> Image.Image:
    """Resized and cut as in Chameleon's image tokenizer; rows first, which Pillow 13 does not do of itself for tall pictures."""
    scale = side / min(picture.size)
    width, height = [round(scale * length) for length in picture.size]
    picture = picture.resize((width, picture.height), Image.LANCZOS).resize((width, height), Image.LANCZOS)
    left, top = [(length - side) // 2 for length in picture.size]
    return picture.crop((left, top, left + side, top + side))


class Arm:
    """One way of preparing, and what came out of it."""

    def __init__(self, folder: Path, files: dict[str, bytes], prepared: str, config: str):
        source, out = folder / "in", folder / "out"
        source.mkdir(parents=True)
        for name, file in files.items():
            (source / name).write_bytes(file)
        subprocess.run([prepared, config, source, out], check=True)
        self.squares = {path.stem: np.fromfile(path, np.uint8) for path in sorted(out.glob("*.rgb"))}
        self.codes = {path.stem: np.fromfile(path, "<u4") for path in sorted(out.glob("*.codes"))}


def compared(ours: Arm, other: Arm) -> str:
    """A line of the table: shares of values and codes that differ."""
    assert ours.squares.keys() == other.squares.keys()
    apart = np.concatenate([np.abs(ours.squares[name].astype(int) - other.squares[name]) for name in ours.squares])
    codes = np.concatenate([ours.codes[name] != other.codes[name] for name in ours.codes])
    above = [f"{100 * np.mean(apart > level):8.3f} %" for level in (0, 1, 2)]
    return f"{above[0]} {above[1]} {above[2]} {apart.max():5d} {100 * codes.mean():8.3f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(TESTS / "corpus" / "photos.toml"))
    parser.add_argument("--prepared", default=str(TESTS.parent / "target" / "debug" / "prepared"))
    arguments = parser.parse_args()
    files = pictures()
    with tempfile.TemporaryDirectory() as folder:

        def arm(name: str, files: dict[str, bytes]) -> Arm:
            return Arm(Path(folder) / name, files, arguments.prepared, arguments.config)

        def png(picture: Image.Image) -> bytes:
            out = io.BytesIO()
            picture.save(out, "PNG", compress_level=1)
            return out.getvalue()

        ours = arm("ours", {f"{name}.jpg": file for name, file in files.items()})
        side = round((next(iter(ours.squares.values())).size / 3) ** 0.5)
        arms = {
            "decoded by Pillow": arm("decoded", {f"{name}.png": png(decoded(file)) for name, file in files.items()}),
            "decoded and fitted by Pillow": arm("pillow", {f"{name}.rgb": square(decoded(file), side).tobytes() for name, file in files.items()}),
            "every level one higher": arm(
                "brighter", {f"{name}.rgb": np.minimum(levels.astype(int) + 1, 255).astype(np.uint8).tobytes() for name, levels in ours.squares.items()}
            ),
        }
    count = sum(codes.size for codes in ours.codes.values())
    print(f"{len(files)} pictures at {side} px, {count} codes of {arguments.config}")
    print(f"{'against ours':30} {'values > 0':>10} {'> 1':>10} {'> 2':>10} {'most':>5} {'codes':>10}")
    for name, other in arms.items():
        print(f"{name:30} {compared(ours, other)}")


if __name__ == "__main__":
    main()
