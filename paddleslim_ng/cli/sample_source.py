"""Samples to learn from, and others to measure on, as the command line names them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from paddleslim_ng.cli.data_argument import digits_for, folder_for, read_data_arrays, single_input
from paddleslim_ng.cli.evaluation_argument import EvaluationData, read_evaluation_data
from paddleslim_ng.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    from paddleslim_ng.core import VarWrapper

__all__ = ['GivenArrays', 'LearningData', 'Samples', 'learning_data', 'read_given_arrays']

# Where nothing else is given to measure on, one of so many samples is kept for that.
_KEPT = 10


class GivenArrays(NamedTuple):
    """What was read before Paddle was imported.

    Attributes:
        train: an array, or arrays by input, to learn from; None where ``--data`` names something else.
        evaluation: the same of what is measured on, with its labels.
    """

    train: Any
    evaluation: EvaluationData


class Samples:
    """Samples of a model's inputs: a sized collection, an item of which is one array for each input.

    Args:
        rows: a sequence of arrays, one for each input, or images with their labels.
        indices: which samples of these; all where None.
    """

    def __init__(self, rows: Any, indices: Sequence[int] | None = None) -> None:
        self._rows = rows
        self._arrays = isinstance(rows, tuple)
        self._indices = range(len(rows[0]) if self._arrays else len(rows)) if indices is None else indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        index = self._indices[number]
        return tuple(array[index] for array in self._rows) if self._arrays else (self._rows[index][0],)

    def divided(self) -> tuple[Samples, Samples, list[int]]:
        """Return most samples, every tenth, and the numbers of the latter.

        Raises:
            DataError: there are too few.
        """
        kept = [index for index in range(len(self)) if index % _KEPT == 0]
        rest = [index for index in range(len(self)) if index % _KEPT]
        if not rest:
            raise DataError(
                f'--data has {len(self)} samples: too few to learn from and to measure on; give --eval-data'
            )
        return Samples(self._rows, rest), Samples(self._rows, kept), kept


class LearningData(NamedTuple):
    """What a model learns from, and what it is measured on.

    Attributes:
        train: a reader.
        evaluation: batches, ``{input: array}`` each.
        labels: of the samples in ``evaluation``, [N], or None.
    """

    train: Any
    evaluation: list[dict[str, npt.NDArray[Any]]]
    labels: npt.NDArray[Any] | None


def read_given_arrays(arguments: argparse.Namespace) -> GivenArrays:
    """Check the arguments of data, and read arrays.

    Raises:
        ConfigError: arguments do not go together.
        DataError: a file is missing or damaged, or holds something else.
    """
    measured = read_evaluation_data(_measured(arguments))
    train = read_data_arrays(arguments.data) if arguments.eval_data is not None else measured.arrays
    return GivenArrays(train, measured)


def _measured(arguments: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments as commands have them that only measure."""
    data = arguments.data if arguments.eval_data is None else arguments.eval_data
    return argparse.Namespace(**{**vars(arguments), 'data': data, 'metric': None})


def learning_data(
    arguments: argparse.Namespace,
    given: GivenArrays,
    inputs: Sequence[VarWrapper],
    shapes: Mapping[str, Sequence[int]],
) -> LearningData:
    """Return the data that the arguments name.

    Args:
        arguments: of the command.
        given: what :func:`read_given_arrays` returned.
        inputs: of the model.
        shapes: ``{input: whole shape}`` where the model leaves sizes open.

    Raises:
        ConfigError: the model does not take such data.
        DataError: there are too few samples.
    """
    from paddleslim_ng.data import BatchReader, make_feed

    measured = _measured(arguments)
    if arguments.eval_data is not None:
        train, _ = _samples(arguments, given.train, None, inputs, shapes)
        kept, labels = _samples(measured, given.evaluation.arrays, given.evaluation.labels, inputs, shapes)
    elif arguments.data == 'digits':
        parts = digits_for(single_input(inputs), shapes)
        train, kept, labels = Samples((parts.train.images,)), *_labelled_digits(parts)
    else:
        every, known = _samples(measured, given.evaluation.arrays, given.evaluation.labels, inputs, shapes)
        train, kept, numbers = every.divided()
        labels = known[numbers] if known is not None else None
    size = arguments.batch_size
    reader = BatchReader(train, size, shuffle=True, seed=arguments.seed, drop_last=len(train) >= size)
    variables = [var.raw for var in inputs]
    feeds = [make_feed(batch, variables) for batch in islice(BatchReader(kept, size)(), arguments.batches)]
    count = sum(len(feed[inputs[0].name()]) for feed in feeds)
    return LearningData(reader, feeds, labels[:count] if labels is not None else None)


def _samples(
    arguments: argparse.Namespace,
    arrays: Any,
    labels: npt.NDArray[Any] | None,
    inputs: Sequence[VarWrapper],
    shapes: Mapping[str, Sequence[int]],
) -> tuple[Samples, npt.NDArray[Any] | None]:
    """Return the samples that ``--data`` names, and their labels where they have some."""
    if arrays is not None:
        return Samples(_columns(arguments.data, arrays, inputs)), labels
    image = single_input(inputs)
    if arguments.data == 'digits':
        return _labelled_digits(digits_for(image, shapes))
    listed = arguments.labels if labels is None and arguments.labels else None
    images = folder_for(arguments, image, shapes, listed)
    return Samples(images), images.labels.reshape(-1) if listed else None


def _labelled_digits(parts: Any) -> tuple[Samples, npt.NDArray[Any]]:
    return Samples((parts.validation.images,)), parts.validation.labels.reshape(-1)


def _columns(path: str, arrays: Any, inputs: Sequence[VarWrapper]) -> tuple[npt.NDArray[Any], ...]:
    """Return one array for each input of a model.

    Raises:
        ConfigError: a single array for several inputs.
        DataError: one is missing, or they differ in length.
    """
    if not isinstance(arrays, Mapping):
        single_input(inputs)
        return (arrays,)
    lacking = [var.name() for var in inputs if var.name() not in arrays]
    if lacking:
        raise DataError(f'{path!r} has no array for the inputs {lacking}; it has {sorted(arrays)}')
    found = tuple(np.asarray(arrays[var.name()]) for var in inputs)
    lengths = {var.name(): len(array) for var, array in zip(inputs, found)}
    if len(set(lengths.values())) > 1:
        raise DataError(f'{path!r} has arrays of different lengths: {lengths}')
    return found
