"""What batches derive from their tables agrees with walking through the tables token by token."""

import pickle
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace

import cm3flow.dataset
import numpy as np
import pytest
import torch
from cm3flow import Modality, PackedDataset, Role
from torch.utils.data import DataLoader

PARTS = ("tokens", "segments", "segment_weights", "documents")


@pytest.fixture(scope="module")
def batch(uri):
    return next(iter(PackedDataset(uri, 8)))


def walked(batch):
    """Weight, modality, role (None for padding) of each token, and the numbers of documents."""
    rows = [[None] * batch.seq_len for _ in range(len(batch))]
    for (row, start, length, modality, role), weight in zip(batch.segments.tolist(), batch.segment_weights.tolist()):
        for place in range(start, start + length):
            rows[row][place] = (weight, modality, role)
    return rows


def test_tables_spread_over_tokens(batch):
    weights, labels = batch.loss_weights(), batch.labels()
    modalities, roles = batch.modalities(), batch.roles()
    for row, places in enumerate(walked(batch)):
        for place, covered in enumerate(places):
            _, modality, role = covered or (0, -1, -1)
            assert (modalities[row, place], roles[row, place]) == (modality, role)
            counts = place > 0 and covered is not None and places[place - 1] is not None
            expected = covered[0] if counts else 0
            assert weights[row, place] == expected
            assert labels[row, place] == (batch.tokens[row, place] if expected > 0 else -100)
    assert {Modality.TEXT, Modality.IMAGE} < set(modalities.unique().tolist()) and Role.TARGET in roles


def test_documents_are_kept_apart_in_every_form(batch):
    starts = {(row, start) for row, start in batch.documents.tolist()}
    ids, positions, mask = batch.document_ids(), batch.positions(), batch.attention_mask()
    cu_seqlens, longest = batch.cu_seqlens()
    assert cu_seqlens.dtype == torch.int32 and cu_seqlens[0] == 0 and cu_seqlens[-1] == len(batch) * batch.seq_len
    flat = torch.repeat_interleave(torch.arange(len(cu_seqlens) - 1), cu_seqlens.diff()).view(len(batch), -1)
    for row in range(len(batch)):
        document = position = 0
        for place in range(batch.seq_len):
            if (row, place) in starts:
                document, position = document + 1, 0
            assert (ids[row, place], positions[row, place]) == (document, position)
            position += 1
        same = ids[row][:, None] == ids[row][None, :]
        assert (mask[row, 0] == (same & torch.ones_like(same).tril())).all()
        assert ((flat[row][:, None] == flat[row][None, :]) == same).all()
    assert longest == int(cu_seqlens.diff().max())


def test_block_masks_are_the_dense_mask(batch):
    mask = batch.block_mask()
    dense = torch.stack([
        torch.stack([mask.mask_mod(torch.tensor(row), torch.tensor(0), torch.tensor(q), torch.arange(batch.seq_len)) for q in range(0, 128, 9)])
        for row in range(len(batch))
    ])
    assert (dense == batch.attention_mask()[:, 0, ::9]).all()


def test_arrays_and_tensors_agree(uri, batch):
    arrays = next(iter(PackedDataset(uri, 8, tensors=False)))
    for name in ("loss_weights", "labels", "modalities", "document_ids", "positions", "attention_mask"):
        array, tensor = getattr(arrays, name)(), getattr(batch, name)()
        assert isinstance(array, np.ndarray) and (torch.from_numpy(array) == tensor).all(), name
    moved = batch.to("cpu", non_blocking=True)
    assert moved.state == batch.state and (moved.tokens == batch.tokens).all()


def assert_same(found, wanted):
    assert (found.state, len(found), found.seq_len) == (wanted.state, len(wanted), wanted.seq_len)
    for name in PARTS:
        part, expected = getattr(found, name), getattr(wanted, name)
        assert type(part) is type(expected) and part.dtype == expected.dtype and (part == expected).all(), name


@pytest.mark.parametrize("tensors", [True, False])
def test_batches_of_workers_are_those_that_are_read_here(uri, tensors):
    here = list(PackedDataset(uri, 3, tensors=tensors, end="drop"))
    sent = list(DataLoader(PackedDataset(uri, 3, tensors=tensors, end="drop"), batch_size=None, num_workers=2))
    assert len(here) == len(sent) > 4
    for found, wanted in zip(sent, here):
        assert_same(found, wanted)


def test_what_a_worker_reads_travels_as_bytes_of_stored_ids(uri, monkeypatch):
    read = next(iter(PackedDataset(uri, 8)))
    monkeypatch.setattr(cm3flow.dataset, "get_worker_info", lambda: SimpleNamespace(id=0, num_workers=1))
    batch = next(iter(PackedDataset(uri, 8)))
    message = bytes(ForkingPickler.dumps(batch))
    tables = sum(part.numpy().nbytes for part in (batch.segments, batch.segment_weights, batch.documents))
    assert b"storage" not in message and len(message) < 2 * 8 * batch.seq_len + tables + 1000
    assert_same(pickle.loads(message), read)
    assert_same(batch, read)


def test_what_a_worker_changes_travels_too(uri, monkeypatch):
    monkeypatch.setattr(cm3flow.dataset, "get_worker_info", lambda: SimpleNamespace(id=0, num_workers=1))
    changed = next(iter(PackedDataset(uri, 8)))
    changed.tokens[0, 0] = -100
    assert pickle.loads(ForkingPickler.dumps(changed)).tokens[0, 0] == -100
    replaced = next(iter(PackedDataset(uri, 8)))
    replaced.tokens = replaced.tokens[:, :16] + 1
    assert_same(pickle.loads(ForkingPickler.dumps(replaced)), replaced)
    replaced.segment_weights = replaced.segment_weights.to(torch.bfloat16)
    assert_same(pickle.loads(ForkingPickler.dumps(replaced)), replaced)
    views = next(iter(PackedDataset(uri, 8, dtype="uint16")))
    sent = pickle.loads(ForkingPickler.dumps(views))
    assert all((row == view).all() for row, view in zip(sent.tokens, views.tokens, strict=True))
