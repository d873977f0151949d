"""Exports are read back by the libraries that they are for, pack by pack as the reader and the command give them."""

import io
import json
import subprocess

import numpy as np
import pytest
import webdataset
from conftest import command, run, write_job
from cm3flow import PackedDataset
from streaming import LocalDataset, MDSWriter, StreamingDataset
from streaming.base.util import clean_stale_shared_memory

# Few packs a file, so that there are several.
FILE_BYTES = 65536
SPLITS = ["train", "held_out"]


def told(folder, *arguments):
    done = subprocess.run(command(*arguments, cwd=folder), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def exported(folder, version, form, to):
    size = ["--max-file-bytes", str(FILE_BYTES)]
    return told(folder, "versions", "export", "e.toml", version, "--format", form, "--to", to, "--json", *size)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A folder with the versions 1 and 2 of the dataset `e` in both formats; 2 lacks all documents of the first pack of 1."""
    folder = tmp_path_factory.mktemp("exports")
    run(write_job(folder, "e", 600, 100))
    documents = told(folder, "inspect", "e.toml", "pack", "train/0", "--json")["documents"]
    samples = [argument for document in documents for argument in ("--sample", document["sample_id"])]
    told(folder, "versions", "withdraw", "e.toml", "--near", "off", "--json", *samples)
    for version in ("1", "2"):
        for form in ("mds", "webdataset"):
            export = exported(folder, version, form, f"{form}-{version}")
            assert export["splits"][0]["files"] > 1, "there is more than one file to read"
    return folder


def mds(folder, version, split):
    """Packs of the export as MDS: tokens, segments, weights, documents."""
    dataset = LocalDataset(str(folder / f"mds-{version}"), split=split)
    return [(row["tokens"], row["segments"], row["segment_weights"], row["documents"]) for row in (dataset[i] for i in range(len(dataset)))]


def tars(folder, version, split):
    return sorted(str(tar) for tar in (folder / f"webdataset-{version}").glob(f"{split}-*.tar"))


def web(folder, version, split):
    """The same of the export as WebDataset."""
    packs = []
    for number, sample in enumerate(webdataset.WebDataset(tars(folder, version, split), shardshuffle=False).decode()):
        assert sample["__key__"] == f"{split}-{number:08}"
        segments = sample["json"]["segments"]
        table = np.array([[row[field] for field in ("start", "len", "modality", "role")] for row in segments], dtype=np.uint32)
        weights = np.array([row["loss_weight"] for row in segments], dtype=np.float32)
        packs.append((sample["tokens.npy"], table.reshape(-1, 4), weights, sample["json"]["documents"]))
    return packs


def alike(one, other):
    return all((a == b) if isinstance(a, list) else a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def key(tokens, segments, weights, starts):
    return tokens.tobytes(), segments.astype(np.int32).tobytes(), weights.tobytes(), tuple(starts)


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("split", SPLITS)
def test_both_libraries_give_the_packs_that_the_reader_gives(exports, version, split):
    packs = mds(exports, version, split)
    assert all(alike(one, other) for one, other in zip(packs, web(exports, version, split), strict=True))
    uri = exports / f"store/versions/e/{version}.json"
    dataset = PackedDataset(uri, 1, split=split, dtype="uint16", tensors=False, end="drop", epochs=1)
    expected = [
        key(batch.tokens[0], batch.segments[:, 1:], batch.segment_weights, batch.documents[:, 1].tolist()) for batch in dataset
    ]
    # The reader's order is one of its own.
    assert sorted(key(*pack[:3], [document["start"] for document in pack[3]]) for pack in packs) == sorted(expected)


@pytest.mark.parametrize("version", ["1", "2"])
def test_packs_stand_in_the_order_of_the_version(exports, version):
    for split in SPLITS:
        packs = mds(exports, version, split)
        for place in (0, 1, len(packs) // 2, len(packs) - 1):
            shown = told(exports, "inspect", "e.toml", "pack", f"{split}/{place}", "--version", version, "--tokens", "--json")
            tokens, _, _, documents = packs[place]
            assert tokens.tolist() == shown["token_ids"]
            fields = ("document_id", "sample_id", "task", "start", "len")
            assert documents == [{field: document[field] for field in fields} for document in shown["documents"]]


def test_a_pack_without_documents_is_read_by_both(exports):
    for packs in (mds(exports, "2", "train"), web(exports, "2", "train")):
        tokens, segments, weights, documents = packs[0]
        assert len(set(tokens.tolist())) == 1 and (segments.shape, weights.shape, documents) == ((0, 4), (0,), [])
    assert len(mds(exports, "1", "train")[0][3]) > 0


def test_streaming_copies_and_checks_shards_by_their_hashes(exports, tmp_path):
    clean_stale_shared_memory()
    places = {"remote": str(exports / "mds-1"), "local": str(tmp_path / "copy"), "split": "train", "validate_hash": "xxh64"}
    dataset = StreamingDataset(**places, shuffle=False, batch_size=1)
    expected = mds(exports, "1", "train")
    assert all(np.array_equal(row["tokens"], pack[0]) for row, pack in zip(dataset, expected, strict=True))
    copied = sorted(path.name for path in (tmp_path / "copy/train").iterdir() if path.suffix == ".mds")
    assert copied == sorted(path.name for path in (exports / "mds-1/train").iterdir() if path.suffix == ".mds")


def test_files_are_those_that_the_libraries_write(exports, tmp_path):
    for split in SPLITS:
        folder = exports / f"mds-1/{split}"
        shard = json.loads((folder / "index.json").read_text())["shards"][0]
        columns = dict(zip(shard["column_names"], shard["column_encodings"]))
        again = tmp_path / split
        with MDSWriter(out=str(again), columns=columns, hashes=["xxh64"], size_limit=FILE_BYTES) as out:
            for tokens, segments, weights, documents in mds(exports, "1", split):
                out.write({"tokens": tokens, "segments": segments, "segment_weights": weights, "documents": documents})
        names = sorted(path.name for path in folder.iterdir())
        assert names == sorted(path.name for path in again.iterdir())
        for name in names:
            assert (folder / name).read_bytes() == (again / name).read_bytes(), name
    for sample in webdataset.WebDataset(tars(exports, "1", "train"), shardshuffle=False):
        array = io.BytesIO()
        np.save(array, np.load(io.BytesIO(sample["tokens.npy"])))
        assert array.getvalue() == sample["tokens.npy"]
