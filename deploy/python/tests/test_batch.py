"""What batches derive from their tables agrees with walking through the tables token by token."""

import numpy as np
import pytest
import torch
from cm3flow import Modality, PackedDataset, Role


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
