"""The readers that are compared: how each stores the packs, and how each hands out shuffled batches of int64 tokens, as its documentation says.

An entry has `write(tokens, folder)`, with `tokens` as `[packs, seq_len]` uint16, and `batches(folder, workers, remote)`, an iterable of
`[batch, seq_len]` int64 tensors over one epoch. `remote` is `None`, or the endpoint of an S3 service whose bucket `bench` is the folder's parent.
"""

import io
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

BATCH = 8
KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "not-so-secret"}


def widened(row):
    return torch.from_numpy(row.astype(np.int64))


def collate(rows):
    return torch.from_numpy(np.stack(rows).astype(np.int64))


class Cm3flow:
    def write(self, tokens, folder):
        """Written by `synthetic_version`."""

    def batches(self, folder, workers, remote):
        from cm3flow import PackedDataset

        uri, options = f"{folder}/versions/synthetic/1.json", {}
        if remote:
            uri = f"s3://bench/{Path(folder).name}/versions/synthetic/1.json"
            options = {
                "endpoint": remote, "access_key_id": "test", "secret_access_key": "not-so-secret", "region": "us-east-1", "allow_http": "true"
            }
        dataset = PackedDataset(uri, BATCH, seed=1, end="drop", options=options)
        loader = DataLoader(dataset, batch_size=None, num_workers=workers) if workers else dataset
        return (batch.tokens for batch in loader)


class Memmap:
    """The limit: random rows of one mapped file, widened by NumPy."""

    def write(self, tokens, folder):
        tokens.tofile(Path(folder) / "tokens.u16")

    def batches(self, folder, workers, remote):
        tokens = np.memmap(Path(folder) / "tokens.u16", dtype=np.uint16, mode="r").reshape(-1, 4096)
        order = np.random.default_rng(1).permutation(len(tokens))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            yield torch.from_numpy(tokens[order[start : start + BATCH]].astype(np.int64))


class Mosaic:
    def write(self, tokens, folder):
        from streaming import MDSWriter

        with MDSWriter(out=str(folder), columns={"tokens": f"ndarray:uint16:{tokens.shape[1]}"}) as out:
            for row in tokens:
                out.write({"tokens": row})

    def batches(self, folder, workers, remote):
        from streaming import StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        places = {"local": str(folder)}
        if remote:
            os.environ.update(S3_ENDPOINT_URL=remote, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="not-so-secret")
            places = {"remote": f"s3://bench/{Path(folder).name}", "local": tempfile.mkdtemp(dir=os.environ["BENCH_SCRATCH"])}
        dataset = StreamingDataset(**places, shuffle=True, batch_size=BATCH, shuffle_seed=1)
        loader = DataLoader(dataset, batch_size=BATCH, num_workers=workers, collate_fn=lambda rows: collate([row["tokens"] for row in rows]))
        return iter(loader)


class LitData:
    def write(self, tokens, folder):
        import litdata

        plain = Path(folder).parent / "tokens.npy"
        np.save(plain, tokens)
        global row_of

        def row_of(index):
            return np.load(plain, mmap_mode="r")[index]

        shutil.rmtree(folder)
        litdata.optimize(fn=row_of, inputs=list(range(len(tokens))), output_dir=str(folder), chunk_bytes="64MB", num_workers=1)
        plain.unlink()

    def batches(self, folder, workers, remote):
        import litdata

        places = {"input_dir": str(folder)}
        if remote:
            places = {
                "input_dir": f"s3://bench/{Path(folder).name}", "cache_dir": tempfile.mkdtemp(dir=os.environ["BENCH_SCRATCH"]),
                "storage_options": {"endpoint_url": remote, **KEYS},
            }
        dataset = litdata.StreamingDataset(**places, shuffle=True, seed=1)
        return iter(litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers, collate_fn=collate))


class WebDataset:
    def write(self, tokens, folder):
        import webdataset

        with webdataset.ShardWriter(f"{folder}/%05d.tar", maxsize=64 << 20, verbose=0) as out:
            for number, row in enumerate(tokens):
                out.write({"__key__": f"{number:08}", "npy": row})

    def batches(self, folder, workers, remote):
        import webdataset

        shards = sorted(str(shard) for shard in Path(folder).glob("*.tar"))
        if remote:
            import boto3

            def opened(url, mode="rb", bufsize=8192):
                client = boto3.client("s3", endpoint_url=remote, region_name="us-east-1", **KEYS)
                bucket, key = url.removeprefix("s3://").split("/", 1)
                return client.get_object(Bucket=bucket, Key=key)["Body"]

            webdataset.gopen_schemes["s3"] = opened
            shards = [f"s3://bench/{Path(folder).name}/{Path(shard).name}" for shard in shards]
        dataset = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=1, empty_check=False).shuffle(1000)
        dataset = dataset.map(lambda sample: np.lib.format.read_array(io.BytesIO(sample["npy"])))
        return iter(DataLoader(dataset.batched(BATCH, collation_fn=collate, partial=False), batch_size=None, num_workers=workers))


class HuggingFace:
    def write(self, tokens, folder):
        from datasets import Array2D, Dataset, Features, Sequence, Value

        features = Features({"tokens": Sequence(Value("uint16"), length=tokens.shape[1])})
        Dataset.from_dict({"tokens": list(tokens)}, features=features).save_to_disk(str(folder))

    def batches(self, folder, workers, remote):
        from datasets import load_from_disk

        if remote:
            options = {"key": "test", "secret": "not-so-secret", "client_kwargs": {"endpoint_url": remote}}
            dataset = load_from_disk(f"s3://bench/{Path(folder).name}", storage_options=options)
        else:
            dataset = load_from_disk(str(folder))
        dataset = dataset.shuffle(seed=1).with_format("numpy")
        loader = DataLoader(dataset, batch_size=BATCH, num_workers=workers, drop_last=True, collate_fn=lambda rows: collate([row["tokens"] for row in rows]))
        return iter(loader)


READERS = {
    "cm3flow": Cm3flow, "memmap": Memmap, "mosaicml-streaming": Mosaic, "litdata": LitData, "webdataset": WebDataset, "datasets": HuggingFace
}
