"""Packed image-text token shards for PyTorch, read in an order that can be resumed anywhere."""

from .batch import Batch, Modality, Role
from .dataset import PackedDataset

__all__ = ["Batch", "Modality", "PackedDataset", "Role"]
