"""``paddleslim-ng quantize``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleslim_ng.cli.model_argument import load_model, read_arrays, read_shapes
from paddleslim_ng.cli.program import Outcome
from paddleslim_ng.errors import ConfigError, DataError

if TYPE_CHECKING:
    from paddleslim_ng.core import VarWrapper
    from paddleslim_ng.quant.data_sources import Feed
    from paddleslim_ng.runtime import InferenceModel

__all__ = ['run']

_log = logging.getLogger('paddleslim_ng')
_BATCHES, _REPEATS = 32, 50
_FOR_DEVICES = ('quantize_linear', 'fake_quantize')


def run(arguments: argparse.Namespace) -> Outcome:
    """Calibrate and quantize a model, and convert and measure what came out."""
    _check(arguments)
    shapes, arrays = read_shapes(arguments.shape), _arrays(arguments.data)
    from paddleslim_ng.core import GraphWrapper
    from paddleslim_ng.quant import quantize_model, read_feeds

    model = load_model(arguments.model, arguments)
    graph = GraphWrapper(model.program)
    inputs = [graph.var(name) for name in model.feeds]
    source = arrays if arrays is not None else _source(arguments, model, inputs, shapes)
    feeds = read_feeds(inputs, source, batch_size=arguments.batch_size, batch_nums=arguments.batches)
    first = _FirstKept(islice(feeds, arguments.batches or _BATCHES))
    done = quantize_model(
        model,
        first,
        arguments.output,
        algo=arguments.algo,
        hist_percent=arguments.percentile,
        weight_bits=arguments.weight_bits,
        activation_bits=arguments.activation_bits,
        weight_quantize_type='abs_max' if arguments.per_tensor else 'channel_wise_abs_max',
        fold=not arguments.no_fold,
        format=arguments.format,
        quantizable_op_type=arguments.types.split(',') if arguments.types else None,
        is_full_quantize=arguments.full,
        skip_tensor_list=arguments.skip,
    )
    exported = done.exported
    if exported is None:
        raise DataError('nothing was written')
    data = {
        'file': exported.program_file,
        'bytes': exported.file_bytes,
        'float_bytes': exported.float_bytes,
        'format': exported.format,
        'operators': len(done.spec.operators),
        'skipped': dict(done.spec.skipped),
        'images': done.statistics.images,
        'distinct': dict(exported.distinct),
        'relative_difference': exported.agreement.relative_difference,
        'from_float': exported.agreement.from_float,
        'data_free': arguments.data_free,
    }
    texts = [str(done)]
    if arguments.to:
        texts.append(_converted(arguments, data))
    if arguments.measure:
        texts.append(_measured(arguments, exported.prefix, model, first.feed, data))
    return Outcome('\n\n'.join(texts), data)


class _FirstKept:
    """Iterates over feeds, and keeps the first one."""

    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds = feeds
        self.feed: Feed = {}

    def __iter__(self) -> Iterator[Feed]:
        for feed in self._feeds:
            self.feed = self.feed or dict(feed)
            yield feed


def _check(arguments: argparse.Namespace) -> None:
    """Refuse arguments of no use before anything is run."""
    for option in ('batch_size', 'batches', 'repeats'):
        if getattr(arguments, option) is not None and getattr(arguments, option) < 1:
            raise ConfigError(f'--{option.replace("_", "-")} must be at least 1, not {getattr(arguments, option)}')
    if arguments.target is not None and not arguments.to:
        raise ConfigError('--target belongs to --to lite')
    if arguments.repeats is not None and not arguments.measure:
        raise ConfigError('--repeats belongs to --measure')
    if arguments.to and arguments.format not in _FOR_DEVICES:
        raise ConfigError(f'Paddle Lite takes --format {" or ".join(_FOR_DEVICES)}, not {arguments.format}')


def _converted(arguments: argparse.Namespace, data: dict[str, Any]) -> str:
    """Convert for Paddle Lite, without running the file: its integers are compared by ``--measure``."""
    from paddleslim_ng.deploy import to_lite

    path, interpreter = Path(arguments.output), arguments.interpreter
    found = to_lite(path, path, arguments.target or 'arm', 'int8', check=False, interpreter=interpreter)
    data['lite'] = {
        'file': found.file,
        'bytes': found.file_bytes,
        'kernels': found.nb.counts(),
        'int8_kernels': len(found.nb.int8_kernels),
        'warnings': found.warnings,
    }
    return found.report


def _measured(
    arguments: argparse.Namespace, prefix: Path, original: InferenceModel, feed: Feed, data: dict[str, Any]
) -> str:
    """Time the result beside the float model, on real inputs."""
    from paddleslim_ng.deploy import measure

    found = measure(
        {'quantized': prefix},
        feed,
        original=original,
        repeats=arguments.repeats or _REPEATS,
        interpreter=arguments.interpreter,
    )
    data['measured'] = found.as_dict()
    return str(found)


def _arrays(path: str | None) -> Any:
    """Read arrays from a file, before Paddle is imported."""
    if path is None or Path(path).suffix not in ('.npy', '.npz'):
        return None
    if path.endswith('.npz'):
        return read_arrays(path)
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f'cannot read an array from {path!r}: {error}') from error


def _source(
    arguments: argparse.Namespace, model: InferenceModel, inputs: list[VarWrapper], shapes: dict[str, list[int]]
) -> Any:
    """Return what calibrates where no arrays are given."""
    if arguments.data_free:
        _log.warning(
            'data-free: the ranges of all activations are guessed from normal noise. Expect the accuracy to suffer; '
            'give --data with a few dozen real inputs for a model that is to be used'
        )
        return _noise(arguments, model, shapes)
    if len(inputs) != 1:
        raise ConfigError(f'the model has the inputs {model.feeds}: give --data FILE.npz with an array for each')
    return _images(arguments, inputs[0], shapes)


def _noise(
    arguments: argparse.Namespace, model: InferenceModel, shapes: dict[str, list[int]]
) -> Iterator[dict[str, Any]]:
    from paddleslim_ng.runtime import synthesize_feeds

    for seed in range(arguments.batches or 4):
        yield synthesize_feeds(model.program, model.feeds, batch=arguments.batch_size, seed=seed, shapes=shapes)


def _images(arguments: argparse.Namespace, image: VarWrapper, shapes: dict[str, list[int]]) -> Any:
    channels, side = _size(image, shapes)
    from paddleslim_ng.data import ImageList, digits

    if arguments.data == 'digits':
        if channels != 1:
            raise ConfigError(f'the digits have one channel, and the model takes {channels}')
        return digits(size=side).train.images
    folder = ImageList.of_folder(arguments.data, size=side, channels=channels, mean=arguments.mean, std=arguments.std)

    def batches() -> Iterator[Any]:
        import numpy as np

        for start in range(0, len(folder), arguments.batch_size):
            stop = min(start + arguments.batch_size, len(folder))
            yield [np.stack([folder[index][0] for index in range(start, stop)])]

    return batches


def _size(image: VarWrapper, shapes: dict[str, list[int]]) -> tuple[int, int]:
    """Return how many channels and pixels the images have that a model takes."""
    shape = shapes.get(image.name(), list(image.shape()))
    if len(shape) != 4 or shape[1] not in (1, 3) or shape[2] != shape[3] or shape[2] < 1:
        raise ConfigError(
            f'the model takes {list(image.shape())} as {image.name()!r}: images need [N, 1 or 3, side, side]; name '
            f'open sizes with --shape {image.name()}=N,C,H,W, or give arrays'
        )
    return shape[1], shape[2]
