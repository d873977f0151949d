"""The readers that are compared: how each stores the packs, and how each hands out shuffled batches of int64 tokens.

An entry of `READERS` is a class with `write(tokens, folder)`, with `tokens` as `[packs, seq_len]` uint16, and `open(folder, workers, remote)`, an
iterable of `[batch, seq_len]` int64 tensors; each iteration is one epoch. `modules` are what it imports. `remote` is `None`, or the endpoint of an S3
service whose bucket `bench` is the folder's parent. Each peer stands here twice: as the first example of its documentation has it, and (`-best`) with
what its documentation recommends for speed.
"""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

BATCH = 8
SEQ_LEN = 4096
KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "not-so-secret"}


def collate(rows):
    return torch.from_numpy(np.stack(rows).astype(np.int64))


def loader(dataset, workers, **options):
    """A loader whose workers live on between epochs, so that none of them pays for starting them."""
    return DataLoader(dataset, num_workers=workers, persistent_workers=workers > 0, **options)


def scratch():
    return tempfile.mkdtemp(dir=os.environ.get("BENCH_SCRATCH"))


class Mapped:
    """What another iterable gives, each item changed by a function."""

    def __init__(self, items, change):
        self._items, self._change = items, change

    def __iter__(self):
        return map(self._change, self._items)


class Cm3flow:
    """One reader over all epochs, as training reads: with `end="repeat"` they follow each other. Segments and documents come along."""

    modules = ["cm3flow"]

    def write(self, tokens, folder):
        """Written by `synthetic_version`."""

    def open(self, folder, workers, remote):
        from cm3flow import PackedDataset

        uri, options = f"{folder}/versions/synthetic/1.json", {}
        if remote:
            uri = f"s3://bench/{Path(folder).name}/versions/synthetic/1.json"
            options = {
                "endpoint": remote, "access_key_id": "test", "secret_access_key": "not-so-secret", "region": "us-east-1", "allow_http": "true"
            }
        dataset = PackedDataset(uri, BATCH, seed=1, options=options)
        packs = dataset.describe()["packs"]["packs"]
        return Cm3flowEpochs(DataLoader(dataset, batch_size=None, num_workers=workers) if workers else dataset, packs // BATCH)


class Cm3flowEpochs:
    def __init__(self, batches, per_epoch):
        self._batches, self._per_epoch = iter(batches), per_epoch

    def __iter__(self):
        for _ in range(self._per_epoch):
            yield next(self._batches).tokens


class Memmap:
    """The limit: random rows of one mapped file, a batch at a time, widened by NumPy."""

    modules = ["numpy"]

    def write(self, tokens, folder):
        tokens.tofile(Path(folder) / "tokens.u16")

    def open(self, folder, workers, remote):
        rows = MemmapRows(folder)
        if workers:
            return loader(rows, workers, batch_size=None, sampler=BatchSampler(RandomSampler(rows), BATCH, drop_last=True))
        return Mapped(BatchSampler(RandomSampler(rows), BATCH, drop_last=True), rows.__getitem__)


class MemmapRows:
    def __init__(self, folder):
        self._tokens = np.memmap(Path(folder) / "tokens.u16", dtype=np.uint16, mode="r").reshape(-1, SEQ_LEN)

    def __len__(self):
        return len(self._tokens)

    def __getitem__(self, indices):
        return torch.from_numpy(self._tokens[indices].astype(np.int64))


class Mosaic:
    """Shapes found in each sample, and the default shuffle."""

    modules = ["streaming"]
    column, options = "ndarray", {}

    def write(self, tokens, folder):
        from streaming import MDSWriter

        with MDSWriter(out=str(folder), columns={"tokens": self.column}) as out:
            for row in tokens:
                out.write({"tokens": row})

    def open(self, folder, workers, remote):
        from streaming import StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        places = {"local": str(folder)}
        if remote:
            os.environ.update(S3_ENDPOINT_URL=remote, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="not-so-secret", AWS_DEFAULT_REGION="us-east-1")
            places = {"remote": f"s3://bench/{Path(folder).name}", "local": scratch()}
        dataset = StreamingDataset(**places, shuffle=True, batch_size=BATCH, shuffle_seed=1, **self.options)
        return loader(dataset, workers, batch_size=BATCH, collate_fn=collate_tokens)


def collate_tokens(rows):
    return collate([row["tokens"] for row in rows])


class MosaicBest(Mosaic):
    """Type and shape of the array in the format, and more samples downloaded ahead; its guide calls the defaults of the rest the quickest."""

    column, options = f"ndarray:uint16:{SEQ_LEN}", {"predownload": 8192}


class LitData:
    """An array for each sample."""

    modules = ["litdata"]

    def write(self, tokens, folder):
        import litdata

        self._optimize(litdata, tokens, folder, lambda index, rows: rows[index], chunk_bytes="64MB")

    def _optimize(self, litdata, tokens, folder, row_of, **options):
        # Its processes find the rows in a file.
        plain = Path(folder).parent / "tokens.npy"
        np.save(plain, tokens)
        shutil.rmtree(folder)
        inputs = list(range(len(tokens)))
        litdata.optimize(fn=Row(plain, row_of), inputs=inputs, output_dir=str(folder), num_workers=1, start_method="fork", **options)
        plain.unlink()

    def open(self, folder, workers, remote, **options):
        import litdata

        places = {"input_dir": str(folder)}
        if remote:
            places = {"input_dir": f"s3://bench/{Path(folder).name}", "cache_dir": scratch()}
            places["storage_options"] = {"endpoint_url": remote, "region_name": "us-east-1", **KEYS}
            # It has no option for a service without TLS.
            litdata.streaming.downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
        dataset = litdata.StreamingDataset(**places, shuffle=True, seed=1, **options)
        return litdata.StreamingDataLoader(
            dataset, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0, collate_fn=self.collated
        )

    collated = staticmethod(collate)


class Row:
    """What `litdata.optimize` calls for each index."""

    def __init__(self, path, row_of):
        self._path, self._row_of = path, row_of

    def __call__(self, index):
        return self._row_of(index, np.load(self._path, mmap_mode="r"))


class LitDataBest(LitData):
    """Its loader for language models: tokens without headers, mapped."""

    def write(self, tokens, folder):
        import litdata

        row_of = lambda index, rows: torch.from_numpy(np.array(rows[index]))  # noqa: E731
        self._optimize(litdata, tokens, folder, row_of, chunk_size=SEQ_LEN * 8192, item_loader=litdata.TokensLoader(block_size=SEQ_LEN))

    def open(self, folder, workers, remote):
        import litdata

        return super().open(folder, workers, remote, item_loader=litdata.TokensLoader(block_size=SEQ_LEN), drop_last=False)

    @staticmethod
    def collated(rows):
        # Stacked as they are and then widened at once, which is quicker than the other way round.
        return torch.stack([row.view(torch.int16) for row in rows]).view(torch.uint16).to(torch.int64)


class WebDataset:
    """Arrays that it decodes by their names, batched by the loader."""

    modules = ["webdataset", "boto3"]

    def write(self, tokens, folder):
        import webdataset

        with webdataset.ShardWriter(f"{folder}/%05d.tar", maxsize=64 << 20, verbose=0) as out:
            for number, row in enumerate(tokens):
                out.write({"__key__": f"{number:08}", **self.entry(row)})

    @staticmethod
    def entry(row):
        return {"npy": row}

    def open(self, folder, workers, remote):
        import webdataset

        shards = sorted(str(shard) for shard in Path(folder).glob("*.tar"))
        if remote:
            webdataset.gopen_schemes["s3"] = S3Body(remote)
            shards = [f"s3://bench/{Path(folder).name}/{Path(shard).name}" for shard in shards]
        dataset = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=1, empty_check=False).shuffle(1000)
        return self.batches(dataset, workers)

    @staticmethod
    def batches(dataset, workers):
        return loader(dataset.decode().to_tuple("npy"), workers, batch_size=BATCH, collate_fn=collate_first)


def collate_first(rows):
    return collate([row[0] for row in rows])


class S3Body:
    """Opens an object of the service as a stream; by default it would call a command for each."""

    def __init__(self, endpoint):
        self._endpoint = endpoint

    def __call__(self, url, mode="rb", bufsize=8192):
        import boto3

        client = boto3.client("s3", endpoint_url=self._endpoint, region_name="us-east-1", **KEYS)
        bucket, key = url.removeprefix("s3://").split("/", 1)
        return client.get_object(Bucket=bucket, Key=key)["Body"]


class WebDatasetBest(WebDataset):
    """Plain bytes, and batches that are made where samples are read."""

    @staticmethod
    def entry(row):
        return {"u16": row.tobytes()}

    @staticmethod
    def batches(dataset, workers):
        dataset = dataset.map(tokens_of).batched(BATCH, collation_fn=collate, partial=True)
        return loader(dataset, workers, batch_size=None)


def tokens_of(sample):
    return np.frombuffer(sample["u16"], dtype=np.uint16)


class HuggingFace:
    """A table that is mapped, or downloaded and then mapped; rows are looked up one by one through the indices of the shuffle."""

    modules = ["datasets"]

    def write(self, tokens, folder):
        from datasets import Dataset, Features, Sequence, Value

        features = Features({"tokens": Sequence(Value("uint16"), length=tokens.shape[1])})
        Dataset.from_dict({"tokens": list(tokens)}, features=features).save_to_disk(str(folder))

    def open(self, folder, workers, remote):
        from datasets import load_from_disk

        if remote:
            os.environ["HF_DATASETS_CACHE"] = scratch()
            dataset = load_from_disk(f"s3://bench/{Path(folder).name}", storage_options=storage_options(remote))
        else:
            dataset = load_from_disk(str(folder))
        return Epochs(loader(dataset.shuffle(seed=1).with_format("torch"), workers, batch_size=BATCH, drop_last=True))


def storage_options(remote):
    return {"key": "test", "secret": "not-so-secret", "client_kwargs": {"endpoint_url": remote, "region_name": "us-east-1"}}


class Epochs(Mapped):
    def __init__(self, batches):
        super().__init__(batches, lambda batch: batch["tokens"].to(torch.int64))


class HuggingFaceBest(HuggingFace):
    """An iterable dataset, which reads in order and shuffles shards and a buffer: of the table, or streamed from Parquet if it lies elsewhere."""

    def write(self, tokens, folder):
        super().write(tokens, folder)
        from datasets import load_from_disk

        dataset = load_from_disk(str(folder))
        for number in range(16):
            dataset.shard(16, number).to_parquet(f"{folder}/parquet/{number:05}.parquet")

    def open(self, folder, workers, remote):
        from datasets import load_dataset, load_from_disk

        if remote:
            files = f"s3://bench/{Path(folder).name}/parquet/*.parquet"
            dataset = load_dataset("parquet", data_files=files, split="train", streaming=True, storage_options=storage_options(remote))
        else:
            dataset = load_from_disk(str(folder)).to_iterable_dataset(num_shards=64)
        dataset = dataset.shuffle(seed=1, buffer_size=1000).with_format("numpy")
        return loader(dataset, workers, batch_size=BATCH, collate_fn=collate_tokens)


READERS = {
    "cm3flow": Cm3flow,
    "memmap": Memmap,
    "mosaicml-streaming": Mosaic,
    "mosaicml-streaming-best": MosaicBest,
    "litdata": LitData,
    "litdata-best": LitDataBest,
    "webdataset": WebDataset,
    "webdataset-best": WebDatasetBest,
    "datasets": HuggingFace,
    "datasets-best": HuggingFaceBest,
}
