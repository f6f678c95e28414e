"""Data that is already on the machine: readers, loaders and feeds. Nothing is ever downloaded."""

from __future__ import annotations

from paddleslim_ng.data.dataset import ArrayDataset, Splits, stratified_split
from paddleslim_ng.data.digits import digits
from paddleslim_ng.data.image_list import ImageList
from paddleslim_ng.data.mnist import mnist, read_idx
from paddleslim_ng.data.readers import BatchReader, data_loader, make_feed

__all__ = [
    'ArrayDataset',
    'BatchReader',
    'ImageList',
    'Splits',
    'data_loader',
    'digits',
    'make_feed',
    'mnist',
    'read_idx',
    'stratified_split',
]
