"""Trainers of others learn from our shards: Hugging Face transformers, alone and data-parallel, and Lightning."""

import json
import subprocess
import sys
from pathlib import Path

import lightning
import pytest
import torch
from cm3flow import PackedDataset
from torch.utils.data import DataLoader

PROGRAM = str(Path(__file__).with_name("chameleon.py"))


def losses(*command):
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def assert_falling(steps):
    for modality in ("text", "image"):
        first, last = ([step[modality] for step in part] for part in (steps[:3], steps[-3:]))
        assert sum(last) < 0.8 * sum(first), (modality, first, last)


def test_chameleon_of_transformers_learns_both_modalities(uri):
    steps = losses(PROGRAM, uri, "--workers", "2")
    assert_falling(steps)


def test_two_ranks_learn_what_one_with_the_whole_batch_sees(uri):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    parallel = losses(*launcher, PROGRAM, uri, "--batch-size", "4")
    assert_falling(parallel)
    alone = losses(PROGRAM, uri, "--batch-size", "8", "--steps", "1")
    assert parallel[0]["position"] == alone[0]["position"] == 8
    assert parallel[0]["image"] == pytest.approx(alone[0]["image"], rel=1e-2)


class Bigrams(lightning.LightningModule):
    """Predicts a token from the one before it."""

    def __init__(self, vocabulary_size):
        super().__init__()
        self.table = torch.nn.Embedding(vocabulary_size, vocabulary_size)
        self.positions = []
        self.stands = None

    def training_step(self, batch):
        self.positions.append(batch.state["position"])
        self.stands = batch.state
        weights = batch.loss_weights()[:, 1:]
        logits = self.table(batch.tokens[:, :-1])
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.tokens[:, 1:].flatten(), reduction="none")
        return (losses * weights.flatten()).sum() / weights.sum()

    def on_save_checkpoint(self, checkpoint):
        checkpoint["reader"] = self.stands

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_goes_on_from_its_checkpoint(uri, tmp_path):
    size = PackedDataset(uri, 1).describe()["packs"]["vocabulary"]["size"]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "default_root_dir": tmp_path}

    def fit(dataset, steps):
        model = Bigrams(size)
        trainer = lightning.Trainer(max_steps=steps, enable_checkpointing=False, **quiet)
        trainer.fit(model, DataLoader(dataset, batch_size=None, num_workers=2))
        return model, trainer

    model, trainer = fit(PackedDataset(uri, 4), 5)
    assert model.positions == [4, 8, 12, 16, 20]
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    dataset = PackedDataset(uri, 2)
    dataset.load_state_dict(torch.load(tmp_path / "some.ckpt", weights_only=False)["reader"])
    assert fit(dataset, 3)[0].positions == [22, 24, 26]
