"""Batches of packs: tokens, what their segments are, and what a trainer derives from these.

Everything here works on NumPy arrays and on tensors alike, and needs no PyTorch as long as nobody asks for tensors.
"""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Any, Optional, Union

import numpy as np


class Modality(IntEnum):
    """What the tokens of a segment are."""

    CONTROL = 0
    TEXT = 1
    IMAGE = 2


class Role(IntEnum):
    """What a segment is for."""

    BOUNDARY = 0
    BREAK = 1
    SENTINEL = 2
    SPAN_END = 3
    RETRIEVED = 4
    CONDITION = 5
    TARGET = 6


def _numpy(values: Any) -> np.ndarray:
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


class Batch:
    """Packs as a trainer takes them.

    tokens: `[rows, seq_len]` int64; with `dtype="uint16"` a list of `rows` read-only arrays of the stored ids (uint16, or uint32 for large
        vocabularies), which lie in the reader's memory.
    segments: `[segments, 5]` int32, columns row, start, len, modality, role; in order. What no segment covers is padding.
    segment_weights: `[segments]` float32, weight of each segment's tokens in the loss.
    documents: `[documents, 2]` int32, columns row, start. A start may be the last token of the document before.
    """

    __slots__ = ("_tokens", "_stored", "segments", "segment_weights", "documents", "_state")

    def __init__(
        self, tokens: Any, segments: Any, segment_weights: Any, documents: Any, state: str, stored: Optional[np.ndarray] = None
    ) -> None:
        # Without tokens, `stored` has their ids, and nobody has looked at them yet.
        self._tokens = tokens
        self._stored = stored
        self.segments = segments
        self.segment_weights = segment_weights
        self.documents = documents
        self._state = state

    @property
    def tokens(self) -> Any:
        if self._stored is not None:
            self.tokens = self._like(self._stored.astype(np.int64))
        return self._tokens

    @tokens.setter
    def tokens(self, tokens: Any) -> None:
        self._tokens, self._stored = tokens, None

    def __reduce__(self) -> Any:
        # Bytes in the message itself: by itself PyTorch would send a file of shared memory, over a connection, for each tensor.
        parts = [_sent(part) for part in (self._tokens, self.segments, self.segment_weights, self.documents)]
        return _received, (parts, self._state, self._stored)

    @property
    def state(self) -> dict[str, Any]:
        """Where all ranks and workers stand once this batch was trained on: give it to `PackedDataset.load_state_dict`."""
        return json.loads(self._state)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Batch(rows={len(self)}, segments={len(self.segments)}, documents={len(self.documents)}, state={self._state})"

    @property
    def seq_len(self) -> int:
        """Tokens of a pack."""
        return int(self._rows[0].shape[0])

    @property
    def _rows(self) -> Any:
        return self._tokens if self._stored is None else self._stored

    def _like(self, values: np.ndarray) -> Any:
        """`values` as what the tables are: an array, or a tensor on their device."""
        if isinstance(self.segments, np.ndarray):
            return values
        import torch

        return torch.from_numpy(values).to(self.segments.device)

    def _spread(self, per_segment: np.ndarray, fill: Any) -> np.ndarray:
        """`[rows, seq_len]`, each token with the value of its segment."""
        segments = _numpy(self.segments)
        dense = np.full(len(self) * self.seq_len, fill, dtype=per_segment.dtype)
        lengths = segments[:, 2].astype(np.int64)
        first = segments[:, 0].astype(np.int64) * self.seq_len + segments[:, 1]
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        dense[np.repeat(first, lengths) + within] = np.repeat(per_segment, lengths)
        return dense.reshape(len(self), self.seq_len)

    def modalities(self) -> Any:
        """`[rows, seq_len]` int64, `Modality` of each token, -1 for padding."""
        return self._like(self._spread(_numpy(self.segments)[:, 3].astype(np.int64), -1))

    def roles(self) -> Any:
        """`[rows, seq_len]` int64, `Role` of each token, -1 for padding."""
        return self._like(self._spread(_numpy(self.segments)[:, 4].astype(np.int64), -1))

    def loss_weights(self) -> Any:
        """`[rows, seq_len]` float32, weight of each token as what is predicted from the token before it.

        Padding has none, nor has the first token of a pack or one behind padding: nothing that belongs to it stands before.
        """
        weights = self._spread(_numpy(self.segment_weights), np.float32(0))
        covered = self._spread(np.ones(len(self.segments), dtype=bool), False)
        weights[:, 1:] *= covered[:, :-1]
        weights[:, 0] = 0
        return self._like(weights)

    def labels(self, ignore: int = -100) -> Any:
        """`[rows, seq_len]` int64, tokens as labels that are not shifted yet, as Hugging Face models take them; `ignore` where no loss applies.

        For weights that are all 0 or 1; others need `loss_weights`.
        """
        tokens = np.stack([_numpy(row) for row in self.tokens]).astype(np.int64)
        return self._like(np.where(_numpy(self.loss_weights()) > 0, tokens, ignore))

    def document_ids(self) -> Any:
        """`[rows, seq_len]` int64, number of each token's document in its pack, from 1. A boundary that two documents share opens the second.

        Padding counts as what comes before it: no loss applies there.
        """
        documents = _numpy(self.documents)
        opens = np.zeros((len(self), self.seq_len), dtype=np.int64)
        np.add.at(opens, (documents[:, 0], documents[:, 1]), 1)
        return self._like(np.cumsum(opens, axis=1))

    def positions(self) -> Any:
        """`[rows, seq_len]` int64, position of each token in its document."""
        starts = self._starts()
        lengths = np.diff(starts)
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
        return self._like(within.reshape(len(self), self.seq_len).astype(np.int64))

    def _starts(self) -> np.ndarray:
        """Where documents and rows begin in the flattened batch, ascending, each once, and its end."""
        documents = _numpy(self.documents).astype(np.int64)
        rows = np.arange(len(self) + 1, dtype=np.int64) * self.seq_len
        return np.union1d(rows, documents[:, 0] * self.seq_len + documents[:, 1])

    def cu_seqlens(self) -> tuple[Any, int]:
        """`cu_seqlens` (int32, over the batch flattened to one row) and `max_seqlen` of flash attention's functions of variable length.

        With `positions` as position ids and `causal=True`, tokens see their own document alone.
        """
        starts = self._starts()
        return self._like(starts.astype(np.int32)), int(np.diff(starts).max())

    def block_mask(self, device: Optional[str] = None) -> Any:
        """The `BlockMask` of `torch.nn.attention.flex_attention`: causal, and within documents."""
        import torch
        from torch.nn.attention.flex_attention import create_block_mask

        ids = self.document_ids()
        ids = torch.from_numpy(ids) if isinstance(ids, np.ndarray) else ids
        ids = ids.to(device or ids.device)

        def sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
            return (query >= key) & (ids[batch, query] == ids[batch, key])

        return create_block_mask(sees, len(self), None, self.seq_len, self.seq_len, device=str(ids.device))

    def attention_mask(self) -> Any:
        """`[rows, 1, seq_len, seq_len]` bool, true where a token sees an earlier one of its document: for models without better means."""
        ids = _numpy(self.document_ids())
        causal = np.tril(np.ones((self.seq_len, self.seq_len), dtype=bool))
        return self._like((ids[:, None, :, None] == ids[:, None, None, :]) & causal)

    def _map(self, change: Any) -> Batch:
        # Views of the reader's memory stay where they are.
        tokens = self.tokens if isinstance(self.tokens, list) else change(self.tokens)
        return Batch(tokens, change(self.segments), change(self.segment_weights), change(self.documents), self._state)

    def pin_memory(self, device: Union[str, None] = None) -> Batch:
        """The batch in pinned memory; what `DataLoader(pin_memory=True)` calls."""
        return self._map(lambda tensor: tensor.pin_memory())

    def to(self, *args: Any, **kwargs: Any) -> Batch:
        """The batch with its tensors moved as `torch.Tensor.to` moves them; what Lightning calls."""
        return self._map(lambda tensor: tensor.to(*args, **kwargs))


def _sent(part: Any) -> tuple[Any, bool]:
    """A part as another process is to have it, and whether it was a tensor."""
    if part is None or isinstance(part, (np.ndarray, list)):
        return part, False
    try:
        return part.numpy(), True
    except (TypeError, RuntimeError):
        # On a device, of a type that NumPy lacks, or with a gradient: PyTorch sends it its own way.
        return part, False


def _received(parts: list[tuple[Any, bool]], state: str, stored: Optional[np.ndarray]) -> Batch:
    if any(was_tensor for _, was_tensor in parts):
        import torch

        parts = [(torch.from_numpy(part) if was_tensor else part, False) for part, was_tensor in parts]
    tokens, segments, weights, documents = (part for part, _ in parts)
    return Batch(tokens, segments, weights, documents, state, stored)
