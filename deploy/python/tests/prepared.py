"""What loaders that Accelerate prepared, and the Trainer of transformers, read of a version. For `accelerate launch` or alone.

Writes what this process read as JSON into a file of its own in a folder: rows by scenario, or the error that came instead.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from cm3flow import PackedDataset
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

SIZE = 4


def batch_of(items):
    """Batches of the dataset as the batch of a trainer."""
    tokens = torch.cat([item.tokens for item in items])
    return {"input_ids": tokens, "labels": torch.cat([item.labels() for item in items]), "position": items[-1].state["position"]}


def tensors_of(items):
    batch = batch_of(items)
    del batch["position"]
    return batch


def loops(loader, count):
    """Rows of so many loops, and the positions behind their steps."""
    read = [[batch if isinstance(batch, dict) else batch_of([batch]) for batch in loader] for _ in range(count)]
    rows = [[row for batch in batches for row in batch["input_ids"].tolist()] for batches in read]
    return {"rows": rows, "positions": [[batch.get("position") for batch in batches] for batches in read], "length": len(loader)}


def prepared(uri, size=1, workers=0, packs=SIZE, end="drop", state=None, joined=batch_of, **settings):
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**settings))
    dataset = PackedDataset(uri, packs, end=end)
    if state is not None:
        dataset.load_state_dict(state)
    more = {} if size is None else {"collate_fn": joined}
    return accelerator.prepare(DataLoader(dataset, batch_size=size, num_workers=workers, **more))


class Rows(torch.nn.Module):
    """A model that remembers what it was trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.rows = []

    def forward(self, input_ids, labels):
        self.rows.extend(input_ids.tolist())
        return {"loss": self.weight.sum()}


def trained(uri, folder, size=1, packs=SIZE, workers=0, epochs=2, **more):
    model = Rows()
    arguments = TrainingArguments(
        output_dir=folder, use_cpu=True, per_device_train_batch_size=size, num_train_epochs=epochs, dataloader_num_workers=workers,
        save_strategy="no", report_to="none", disable_tqdm=True, logging_strategy="no", **more,
    )
    trainer = Trainer(model, arguments, train_dataset=PackedDataset(uri, packs, end="drop"), data_collator=tensors_of)
    trainer.train()
    return {"rows": model.rows, "steps": trainer.state.global_step}


def scenarios(uri, folder):
    apart = {"dispatch_batches": False}
    yield "plain", lambda: loops(prepared(uri, **apart), 3)
    yield "batches", lambda: loops(prepared(uri, joined=lambda items: items[0], **apart), 1)
    yield "workers", lambda: loops(prepared(uri, workers=2, **apart), 2)
    yield "padded", lambda: loops(prepared(uri, end="pad", **apart), 1)
    yield "joined", lambda: loops(prepared(uri, size=4, packs=1, **apart), 2)
    yield "joined by workers", lambda: loops(prepared(uri, size=4, packs=1, workers=2, **apart), 1)
    yield "split", lambda: loops(prepared(uri, size=2, split_batches=True, **apart), 2)
    yield "stateful", lambda: loops(prepared(uri, workers=2, use_stateful_dataloader=True, **apart), 2)
    yield "no batch size", lambda: loops(prepared(uri, size=None, **apart), 1)
    yield "dispatched", lambda: loops(prepared(uri, joined=tensors_of), 1)
    yield "dispatched by workers", lambda: loops(prepared(uri, joined=tensors_of, workers=2), 1)
    yield "dispatched and split", lambda: loops(prepared(uri, size=2, joined=tensors_of, split_batches=True), 1)

    def resumed():
        loader = prepared(uri, **apart)
        list(loader)
        state = next(iter(PackedDataset(uri, SIZE, end="drop"))).state
        state["position"], state["counters"] = 8 * SIZE, {"packs": 8 * SIZE}
        return loops(prepared(uri, state=state, **apart), 2)

    yield "resumed", resumed
    yield "trainer", lambda: trained(uri, folder, accelerator_config=apart)
    yield "trainer with workers", lambda: trained(uri, folder, workers=2, accelerator_config=apart)
    yield "trainer that joins", lambda: trained(uri, folder, size=4, packs=1, accelerator_config=apart)
    yield "trainer by default", lambda: trained(uri, folder)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("uri")
    arguments.add_argument("folder", type=Path)
    arguments = arguments.parse_args()
    torch.set_num_threads(1)
    read = {}
    for name, scenario in scenarios(arguments.uri, arguments.folder):
        try:
            read[name] = scenario()
        except Exception as error:
            read[name] = {"error": f"{type(error).__name__}: {error}"}
            print(name, read[name]["error"], file=sys.stderr)
    (arguments.folder / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(read))


if __name__ == "__main__":
    main()
