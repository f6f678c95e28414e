"""What the command line measures a model by: accuracy where there are labels, else agreement with its float outputs."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from paddleslim_ng.cli.data_argument import (
    digits_for,
    folder_for,
    image_batches,
    read_data_arrays,
    read_label_array,
    single_input,
)
from paddleslim_ng.cli.shared_arguments import add_normalization
from paddleslim_ng.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from paddleslim_ng.core import VarWrapper
    from paddleslim_ng.prune import Evaluator
    from paddleslim_ng.runtime import InferenceModel

__all__ = ['ABOUT_DATA', 'EvaluationData', 'Metric', 'add_data_arguments', 'metric_for', 'read_evaluation_data']

ABOUT_DATA = """\
--data is one of
  digits       the validation part of scikit-learn's handwritten digits with its labels, in the size of the model
  FILE.npy     an array [N, ...] for a model with one input; with labels, --labels LABELS.npy holds N whole numbers
  FILE.npz     arrays by the names of the inputs, of numpy.savez; labels as above
  FOLDER       images, resized and cropped as for evaluation; with labels, --labels LIST.txt has lines "path label"

The larger the metric, the better. `top1` is the share of samples whose label has the largest score in the first output.
`agreement` needs no labels: 1 less the relative distance of the outputs from those of the model as it is (root mean
square, mean over outputs and batches). The loss is (metric before - after) / before: without labels that distance,
never negative; with labels the share of the accuracy that is lost, negative where pruning gains. Without --metric,
labels decide.
"""
_METRICS = ('top1', 'agreement')
# No variables of a model have such names.
_LABEL, _BATCH = '#label', '#batch'


def add_data_arguments(parser: argparse._ActionsContainer, *, required: bool) -> None:
    """Declare ``--data`` and what belongs to it."""
    parser.add_argument('--data', required=required, metavar='DATA', help='what the metric is measured on; see above')
    parser.add_argument('--labels', metavar='FILE', help='LABELS.npy for arrays, LIST.txt for a folder')
    parser.add_argument('--metric', choices=_METRICS, help='top1, or agreement (default: top1 where there are labels)')
    parser.add_argument('--batch-size', type=int, default=32, metavar='N', help='samples in a batch (default: 32)')
    parser.add_argument('--batches', type=int, metavar='N', help='batches to read (default: all)')
    add_normalization(parser)


class EvaluationData(NamedTuple):
    """What was read before Paddle was imported.

    Attributes:
        arrays: an array, or arrays by input; None where ``--data`` names something else.
        labels: [N] whole numbers, or None.
    """

    arrays: Any
    labels: npt.NDArray[Any] | None


class Metric(NamedTuple):
    """A metric on data.

    Attributes:
        name: ``'top1'`` or ``'agreement'``.
        evaluator: that measures it.
        feed: the first batch, inputs of the model only.
        samples: how many there are.
    """

    name: str
    evaluator: Evaluator
    feed: dict[str, npt.NDArray[Any]]
    samples: int

    def measure(self, program: Any, scope: Any) -> float:
        """Return the metric of a program."""
        return float(self.evaluator.evaluate(program, scope))


def read_evaluation_data(arguments: argparse.Namespace) -> EvaluationData:
    """Check the arguments of data, and read arrays.

    Raises:
        ConfigError: arguments do not go together.
        DataError: a file is missing or damaged, or holds something else.
    """
    for option in ('batch_size', 'batches'):
        if getattr(arguments, option) is not None and getattr(arguments, option) < 1:
            raise ConfigError(f'--{option.replace("_", "-")} must be at least 1, not {getattr(arguments, option)}')
    data, labels = arguments.data, arguments.labels
    if data is None:
        given = [name for name in ('labels', 'metric', 'batches') if getattr(arguments, name) is not None]
        if given:
            raise ConfigError(f'--{given[0]} belongs to --data')
        return EvaluationData(None, None)
    of_arrays = Path(data).suffix in ('.npy', '.npz')
    if labels and data == 'digits':
        raise ConfigError('the digits have labels of their own: leave --labels out')
    if labels and of_arrays != (Path(labels).suffix == '.npy'):
        raise ConfigError(
            '--labels is a file .npy where --data is arrays, and a list "path label" where it is a folder'
        )
    if arguments.metric == 'top1' and data != 'digits' and not labels:
        raise ConfigError('--metric top1 needs --labels')
    arrays, numbers = read_data_arrays(data), read_label_array(labels)
    if numbers is not None:
        parts = list(arrays.values()) if isinstance(arrays, dict) else [arrays]
        counts = [len(part) for part in parts if part.ndim]
        if any(count != len(numbers) for count in counts):
            raise DataError(f'{labels!r} holds {len(numbers)} labels, and {data!r} {counts[0]} samples')
    return EvaluationData(arrays, numbers)


def metric_for(
    arguments: argparse.Namespace, model: InferenceModel, data: EvaluationData, shapes: Mapping[str, Sequence[int]]
) -> Metric:
    """Return the metric that the arguments ask for; where it is the agreement, the model is run on all the data.

    Args:
        arguments: those of :func:`add_data_arguments`, with ``--data``.
        model: as it is before pruning.
        data: what :func:`read_evaluation_data` returned.
        shapes: ``{input: whole shape}`` where the model leaves sizes open.

    Raises:
        ConfigError: the model does not take such data.
        DataError: there are no data, or outputs are not finite.
    """
    from paddleslim_ng.core import GraphWrapper
    from paddleslim_ng.prune import Evaluator
    from paddleslim_ng.quant import read_feeds

    graph = GraphWrapper(model.program)
    inputs = [graph.var(name) for name in model.feeds]
    source, labels = (data.arrays, data.labels) if data.arrays is not None else _images(arguments, inputs, shapes)
    read = read_feeds(inputs, source, batch_size=arguments.batch_size, batch_nums=arguments.batches)
    feeds = [dict(feed) for feed in islice(read, arguments.batches)]
    first = dict(feeds[0])
    name = arguments.metric or ('agreement' if labels is None else 'top1')
    sizes = [len(next(iter(feed.values()))) for feed in feeds]
    metric: Any = name
    if name == 'agreement':
        metric = _agreement(model, feeds)
    start = 0
    for batch, (feed, size) in enumerate(zip(feeds, sizes)):
        feed.update(_extra(name, labels, batch, start, size))
        start += size
    evaluator = Evaluator(feeds, metric, [GraphWrapper.name_of(item) for item in model.fetches], label=_LABEL)
    return Metric(name, evaluator, first, start)


def _images(
    arguments: argparse.Namespace, inputs: Sequence[VarWrapper], shapes: Mapping[str, Sequence[int]]
) -> tuple[Any, npt.NDArray[Any] | None]:
    """Return a source of images, and their labels where they have some."""
    image = single_input(inputs)
    if arguments.data == 'digits':
        part = digits_for(image, shapes).validation
        return part.images, part.labels.reshape(-1)
    images = folder_for(arguments, image, shapes, arguments.labels)
    return image_batches(images, arguments.batch_size), images.labels.reshape(-1) if arguments.labels else None


def _extra(name: str, labels: npt.NDArray[Any] | None, batch: int, start: int, size: int) -> dict[str, Any]:
    """Return what the metric needs beside the inputs of a batch."""
    import numpy as np

    if name == 'top1' and labels is not None:
        return {_LABEL: labels[start : start + size]}
    return {_BATCH: np.full(size, batch, np.int64)}


def _agreement(model: InferenceModel, feeds: Sequence[Mapping[str, Any]]) -> Any:
    """Return a metric of outputs and feed: how near they are to those of a model."""
    import numpy as np

    from paddleslim_ng.core import Executor

    runner, expected = Executor(), []
    for number, feed in enumerate(feeds, start=1):
        outputs = runner.run(model.program, dict(feed), model.fetches, scope=model.scope)
        expected.append([np.asarray(output).astype(np.float64) for output in outputs])
        if not all(np.isfinite(output).all() and np.any(output) for output in expected[-1]):
            raise DataError(f'an output of the model is zero or not finite on batch {number} of the data')

    def agreement(outputs: Sequence[npt.NDArray[Any]], feed: Mapping[str, npt.NDArray[Any]]) -> float:
        wanted = expected[int(feed[_BATCH][0])]
        distances = [np.linalg.norm(got - want) / np.linalg.norm(want) for got, want in zip(outputs, wanted)]
        return 1.0 - float(np.mean(distances))

    agreement.__qualname__ = 'agreement with the outputs'
    return agreement
