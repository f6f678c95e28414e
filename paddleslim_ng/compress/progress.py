"""The bar that shows how far an epoch is."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

from paddleslim_ng.compress.context import Context

__all__ = ['progress_bar']


def progress_bar(context: Context, total: int | None, done: int, shown: bool | None) -> tqdm[Any]:
    """Return the bar of the running epoch, which the first rank alone shows.

    Args:
        context: knows the epoch and the rank.
        total: batches of the epoch, None where that is not known.
        done: those that are done.
        shown: whether to show it; on terminals alone where None.
    """
    silent = shown is False or context.ranks.rank != 0
    return tqdm(
        desc=f'epoch {context.epoch_id + 1}/{context.epoch}',
        total=total,
        initial=done,
        unit='batch',
        disable=True if silent else (False if shown else None),
        leave=False,
    )
