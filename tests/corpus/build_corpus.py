#!/usr/bin/env python3
"""Builds the sample corpus: photos-0000{0,1,2}.tar and LICENSES.tsv.

Needs Python 3.11 and Pillow 13.0.0 (pip install pillow==13.0.0; another
version may encode other JPEG bytes) and, for unpacking, dpkg-deb.

    python3 build_corpus.py [gcompris-qt-data_3.1-2_all.deb] [--out DIR]

Without a path the package is fetched by `apt-get download`.

The photos lie in Qt resource files of the package; the README beside them
there names author, licence and address of each. TABLE below says which photos
are taken and under which licence; the build stops where the README says
anything else. What is said about each photo is read from annotations.jsonl.
The same inputs give the same bytes.
"""

import argparse
import hashlib
import io
import json
import math
import posixpath
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

from PIL import Image, ImageFilter, ImageOps
from PIL import __version__ as PILLOW

PILLOW_PINNED = "13.0.0"
PACKAGE = "gcompris-qt-data=3.1-2"
SHORT_SIDE = 320
QUALITY = 75
SHARDS = 3
MAX_TOTAL = 3_800_000
HERE = Path(__file__).resolve().parent

MONUMENTS = "explore_monuments/resource"
WORLD = "explore_world_animals/resource/animals"
FARM = "explore_farm_animals/resource/animals"
MUSIC = "explore_world_music/resource/music"
CC0 = "CC0-1.0"
PD = "public-domain"
# The README's words for the two licences.
README_LICENSE = {CC0: "CC0-1.0", PD: "Public Domain"}

# key, file in the package's resources, licence. Left out: photos under
# CC BY or CC BY-SA, and germany/aulaPalatina.webp, which the README names
# under another spelling only.
TABLE = [
    ("animals-bison", f"{WORLD}/bison.webp", CC0),
    ("animals-cow", f"{FARM}/cow.webp", PD),
    ("animals-crocodile", f"{WORLD}/crocodile.webp", PD),
    ("animals-dog", f"{FARM}/dog.webp", PD),
    ("animals-duck", f"{FARM}/duck.webp", CC0),
    ("animals-giraffes", f"{WORLD}/giraffe.webp", CC0),
    ("animals-hedgehog", f"{WORLD}/hedgehog.webp", PD),
    ("animals-hens", f"{FARM}/chicken.webp", PD),
    ("animals-horses", f"{FARM}/horse.webp", CC0),
    ("animals-jaguars", f"{WORLD}/jaguar.webp", CC0),
    ("animals-kangaroo", f"{WORLD}/kangaroo.webp", PD),
    ("animals-kitten", f"{FARM}/cat.webp", PD),
    ("animals-koala", f"{WORLD}/koala.webp", PD),
    ("animals-komodo-dragon", f"{WORLD}/dragon.webp", PD),
    ("animals-lemurs", f"{WORLD}/lemur.webp", CC0),
    ("animals-lizard", f"{WORLD}/chameleon.webp", PD),
    ("animals-moose", f"{WORLD}/moose.webp", PD),
    ("animals-narwhals", f"{WORLD}/narwhal.webp", PD),
    ("animals-owl", f"{FARM}/owl.webp", CC0),
    ("animals-panda", f"{WORLD}/panda.webp", PD),
    ("animals-pig", f"{FARM}/pig.webp", PD),
    ("animals-polar-bear", f"{WORLD}/polar_bear.webp", PD),
    ("animals-scarlet-macaw", f"{WORLD}/scarlet_macaw.webp", CC0),
    ("animals-sheep", f"{FARM}/sheep.webp", CC0),
    ("monuments-ajanta-caves", f"{MONUMENTS}/india/ajantaCave.webp", PD),
    ("monuments-arles-amphitheatre", f"{MONUMENTS}/france/arlesAmphitheater.webp", PD),
    ("monuments-bent-pyramid", f"{MONUMENTS}/egypt/bentPyramid.webp", PD),
    ("monuments-berlin-cathedral", f"{MONUMENTS}/germany/berlinCathedral.webp", CC0),
    ("monuments-betatakin", f"{MONUMENTS}/usa/navajo.webp", PD),
    ("monuments-brandenburg-gate", f"{MONUMENTS}/germany/brandenburgGate.webp", PD),
    ("monuments-cabrillo", f"{MONUMENTS}/usa/cabrillo.webp", CC0),
    ("monuments-canyon-de-chelly", f"{MONUMENTS}/usa/canyondeChelly.webp", PD),
    ("monuments-carcassonne", f"{MONUMENTS}/france/citedeCarcassonne.webp", PD),
    ("monuments-castillo-san-marcos", f"{MONUMENTS}/usa/castillodeSanMarcos.webp", PD),
    ("monuments-castle-clinton", f"{MONUMENTS}/usa/castleClinton.webp", PD),
    ("monuments-chambord", f"{MONUMENTS}/france/chateaudeChambord.webp", PD),
    ("monuments-charminar", f"{MONUMENTS}/india/charminar.webp", PD),
    ("monuments-chenonceau", f"{MONUMENTS}/france/chateaudeChenonceau.webp", PD),
    ("monuments-colosseum", f"{MONUMENTS}/wonders/colosseum.webp", PD),
    ("monuments-eiffel-tower", f"{MONUMENTS}/france/eiffelTower.webp", PD),
    ("monuments-fort-sumter", f"{MONUMENTS}/usa/fortSumter.webp", CC0),
    ("monuments-gateway-of-india", f"{MONUMENTS}/india/gatewayofIndia.webp", CC0),
    ("monuments-golden-temple", f"{MONUMENTS}/india/goldenTemple.webp", CC0),
    ("monuments-great-pyramid", f"{MONUMENTS}/egypt/greatPyramidOfGiza.webp", CC0),
    ("monuments-great-stupa", f"{MONUMENTS}/india/greatStupa.webp", PD),
    ("monuments-great-wall", f"{MONUMENTS}/wonders/greatWallofChina.webp", CC0),
    ("monuments-hawa-mahal", f"{MONUMENTS}/india/hawaMahal.webp", PD),
    ("monuments-konark-sun-temple", f"{MONUMENTS}/india/konarkSunTemple.webp", PD),
    ("monuments-lincoln-memorial", f"{MONUMENTS}/usa/lincolnMemorial.webp", CC0),
    ("monuments-machu-picchu", f"{MONUMENTS}/wonders/machuPicchu.webp", CC0),
    ("monuments-meidum-pyramid", f"{MONUMENTS}/egypt/meidumPyramid.webp", PD),
    ("monuments-mont-saint-michel", f"{MONUMENTS}/france/montStMichel.webp", CC0),
    ("monuments-mount-rushmore", f"{MONUMENTS}/usa/mountRushmore.webp", CC0),
    ("monuments-mysore-palace", f"{MONUMENTS}/india/mysorePalace.webp", PD),
    ("monuments-neuschwanstein", f"{MONUMENTS}/germany/neuschwansteinCastle.webp", CC0),
    ("monuments-palais-des-papes", f"{MONUMENTS}/france/palaisdesPapes.webp", CC0),
    ("monuments-petra", f"{MONUMENTS}/wonders/petra.webp", PD),
    ("monuments-pont-du-gard", f"{MONUMENTS}/france/pontduGard.webp", PD),
    ("monuments-qutub-minar", f"{MONUMENTS}/india/qutubMinar.webp", CC0),
    ("monuments-rang-ghar", f"{MONUMENTS}/india/rangGhar.webp", PD),
    ("monuments-red-pyramid", f"{MONUMENTS}/egypt/redPyramid.webp", PD),
    ("monuments-reims-cathedral", f"{MONUMENTS}/france/reimsCathedral.webp", PD),
    ("monuments-rocamadour", f"{MONUMENTS}/france/rocamadour.webp", PD),
    ("monuments-schwerin-palace", f"{MONUMENTS}/germany/schwerinPalace.webp", CC0),
    ("monuments-statue-of-liberty", f"{MONUMENTS}/usa/statueofLiberty.webp", PD),
    ("monuments-trier-baths", f"{MONUMENTS}/germany/trierImperialBaths.webp", PD),
    ("monuments-victoria-memorial", f"{MONUMENTS}/india/victoriaMemorial.webp", CC0),
    ("monuments-washington-birthplace", f"{MONUMENTS}/usa/georgeWashingtonBirthplace.webp", PD),
    ("monuments-worms-cathedral", f"{MONUMENTS}/germany/wormsCathedral.webp", PD),
    ("music-bata-drums", f"{MUSIC}/africa.webp", PD),
    ("music-dutar", f"{MUSIC}/middleeast.webp", CC0),
    ("music-mariachi", f"{MUSIC}/mexico.webp", CC0),
    ("music-opera", f"{MUSIC}/italy.webp", CC0),
    ("music-orchestra", f"{MUSIC}/orchestra.webp", PD),
    ("music-taiko", f"{MUSIC}/japan.webp", PD),
]

# The operations, each with one fixed amount.
BRIGHTEN = 50  # added to each channel value
DARKEN = 80  # taken from each channel value
BLUR_SIGMA = 4.0
HUE_DEGREES = 120
CONTRAST = 40.0  # percent


def parse_rcc(data):
    """The files of a Qt binary resource, as {path: bytes}."""
    if data[:4] != b"qres":
        raise ValueError("not a Qt binary resource")
    version, tree, content, names = struct.unpack(">4I", data[4:20])
    if version not in (1, 2, 3):
        raise ValueError(f"resource version {version} is unknown")
    node_size = 14 if version == 1 else 22  # from 2 on: and the file's time
    files = {}

    def name(offset):
        at = names + offset
        (length,) = struct.unpack(">H", data[at : at + 2])
        return data[at + 6 : at + 6 + 2 * length].decode("utf-16-be")

    def walk(index, path):
        at = tree + index * node_size
        name_offset, flags = struct.unpack(">IH", data[at : at + 6])
        if index:
            path = f"{path}/{name(name_offset)}"
        if flags & 2:
            count, first = struct.unpack(">II", data[at + 6 : at + 14])
            for child in range(first, first + count):
                walk(child, path)
            return
        (offset,) = struct.unpack(">I", data[at + 10 : at + 14])
        at = content + offset
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 4 + length]
        if flags & 1:
            (size,) = struct.unpack(">I", body[:4])
            body = zlib.decompress(body[4:])
            if len(body) != size:
                raise ValueError(f"{path}: {len(body)} bytes instead of {size}")
        elif flags & 4:
            import zstandard  # not needed for this package

            body = zstandard.ZstdDecompressor().decompressobj().decompress(body)
        files[path] = body

    walk(0, "")
    return files


def read_package(deb):
    """The files of the four activities, by path below src/activities/."""
    wanted = {
        f"./usr/share/gcompris-qt/rcc/{folder.split('/')[0]}.rcc"
        for folder in (MONUMENTS, WORLD, FARM, MUSIC)
    }
    files = {}
    prefix = "/gcompris/src/activities/"
    process = subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE
    )
    with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
        for member in tar:
            if member.name in wanted:
                wanted.remove(member.name)
                for path, body in parse_rcc(tar.extractfile(member).read()).items():
                    files[path.removeprefix(prefix)] = body
    process.stdout.read()
    process.stdout.close()
    if process.wait() != 0:
        raise SystemExit(f"dpkg-deb cannot read {deb}")
    if wanted:
        raise SystemExit(f"not in the package: {sorted(wanted)}")
    return files


def read_credits(files):
    """{path: (licence as the README words it, author, address)}."""
    credits = {}
    for folder in (MONUMENTS, WORLD, FARM, MUSIC):
        text = files[f"{folder}/README"].decode("utf-8")
        for block in text.split("\n\n"):
            fields = {}
            lines = block.strip().splitlines()
            for number, line in enumerate(lines):
                word, _, rest = line.partition(":")
                fields[word] = rest.strip()
                if word == "Files":
                    break
            for listed in lines[number + 1 :]:
                path = posixpath.join(folder, listed.strip())
                credits[path] = (
                    fields["License"],
                    fields["Copyright"],
                    fields.get("Source"),
                )
    return credits


def shrink(data):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    width, height = image.size
    scale = min(1.0, SHORT_SIDE / min(width, height))
    size = (round(width * scale), round(height * scale))
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    return image


def jpeg(image):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY, optimize=True, subsampling="4:2:0")
    return out.getvalue()


def each_value(image, function):
    table = [max(0, min(255, int(function(value)))) for value in range(256)]
    return image.point(table * 3)


def rotate_hue(image):
    """The hue rotation of SVG's feColorMatrix, as image::imageops does it."""
    c = math.cos(math.radians(HUE_DEGREES))
    s = math.sin(math.radians(HUE_DEGREES))
    return image.convert(
        "RGB",
        (
            0.213 + c * 0.787 - s * 0.213,
            0.715 - c * 0.715 - s * 0.715,
            0.072 - c * 0.072 + s * 0.928,
            0,
            0.213 - c * 0.213 + s * 0.143,
            0.715 + c * 0.285 + s * 0.140,
            0.072 - c * 0.072 - s * 0.283,
            0,
            0.213 - c * 0.213 - s * 0.787,
            0.715 - c * 0.715 + s * 0.715,
            0.072 + c * 0.928 + s * 0.072,
            0,
        ),
    )


def edit(image, operation):
    if operation == "fliph":
        return ImageOps.mirror(image)
    if operation == "flipv":
        return ImageOps.flip(image)
    if operation == "rotate180":
        return image.transpose(Image.Transpose.ROTATE_180)
    if operation == "grayscale":
        return image.convert("L", (0.2126, 0.7152, 0.0722, 0)).convert("RGB")
    if operation == "invert":
        return ImageOps.invert(image)
    if operation == "brighten":
        return each_value(image, lambda value: value + BRIGHTEN)
    if operation == "darken":
        return each_value(image, lambda value: value - DARKEN)
    if operation == "blur":
        return image.filter(ImageFilter.GaussianBlur(BLUR_SIGMA))
    if operation == "huerotate":
        return rotate_hue(image)
    if operation == "contrast":
        factor = ((100.0 + CONTRAST) / 100.0) ** 2
        return each_value(
            image, lambda value: ((value / 255.0 - 0.5) * factor + 0.5) * 255.0
        )
    raise SystemExit(f"unknown operation {operation}")


def read_annotations():
    annotations = {}
    with open(HERE / "annotations.jsonl", encoding="utf-8") as lines:
        for line in lines:
            said = json.loads(line)
            annotations[said.pop("key")] = said
    keys = {key for key, _, _ in TABLE}
    if set(annotations) != keys:
        raise SystemExit(f"table and annotations differ: {keys ^ set(annotations)}")
    return annotations


def sample(key, license, author, source, data, said):
    """The members of one sample, as [(name, bytes)]."""
    picture = jpeg(shrink(data))
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    width, height = image.size
    members = []
    record = {"credit": author, "license": license, "source": source}
    for field in ("boxes", "captions", "questions"):
        if said.get(field):
            record[field] = said[field]
    for box in record.get("boxes", []):
        if not (0 <= box["x0"] < box["x1"] <= width):
            raise SystemExit(f"{key}: box outside the picture: {box}")
        if not (0 <= box["y0"] < box["y1"] <= height):
            raise SystemExit(f"{key}: box outside the picture: {box}")
    for index, wish in enumerate(said.get("edits", [])):
        name = f"edit{index}.jpg"
        members.append((f"{key}.{name}", jpeg(edit(image, wish["operation"]))))
        record.setdefault("edits", []).append({"image": name, **wish})
    members.append((f"{key}.jpg", picture))
    text = json.dumps(
        record, ensure_ascii=False, sort_keys=True, separators=(",", ":")
    )
    members.append((f"{key}.json", text.encode("utf-8")))
    return members


def hashed(key):
    return hashlib.sha256(key.encode("ascii")).hexdigest()


def shards():
    """The keys of each tar: every topic dealt out evenly, then mixed."""
    dealt = sorted((key.split("-")[0], hashed(key), key) for key, _, _ in TABLE)
    return [
        sorted((key for _, _, key in dealt[number::SHARDS]), key=hashed)
        for number in range(SHARDS)
    ]


def write_tar(path, members):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o644
            entry.mtime = 0
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            tar.addfile(entry, io.BytesIO(data))


def build(deb, out):
    if PILLOW != PILLOW_PINNED:
        print(f"note: Pillow {PILLOW}, not {PILLOW_PINNED}", file=sys.stderr)
    files = read_package(deb)
    credits = read_credits(files)
    annotations = read_annotations()
    samples = {}
    rows = []
    for key, path, license in sorted(TABLE):
        stated, author, source = credits[path]
        if stated != README_LICENSE[license] or not source:
            raise SystemExit(f"{path}: the README says {stated!r}, {source!r}")
        rows.append((key, license, author, source, path))
        samples[key] = sample(
            key, license, author, source, files[path], annotations[key]
        )
    total = 0
    for number, keys in enumerate(shards()):
        path = out / f"photos-{number:05}.tar"
        write_tar(path, [member for key in keys for member in samples[key]])
        total += path.stat().st_size
        print(f"{path.name}: {len(keys)} samples, {path.stat().st_size} bytes")
    if total > MAX_TOTAL:
        raise SystemExit(f"the tars have {total} bytes, more than {MAX_TOTAL}")
    with open(out / "LICENSES.tsv", "w", encoding="utf-8", newline="\n") as table:
        table.write("key\tlicense\tauthor\tsource\tpackage_file\n")
        for row in rows:
            table.write("\t".join(row) + "\n")


def main():
    parser = argparse.ArgumentParser(description="Builds the sample corpus.")
    parser.add_argument("deb", nargs="?", type=Path, help="the package's .deb file")
    parser.add_argument("--out", type=Path, default=HERE, help="where to write")
    args = parser.parse_args()
    if args.deb:
        build(args.deb, args.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True)
        (deb,) = Path(folder).glob("*.deb")
        build(deb, args.out)


if __name__ == "__main__":
    main()
