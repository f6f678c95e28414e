"""``paddleslim-ng quantize``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleslim_ng.cli.data_argument import digits_for, folder_for, image_batches, read_data_arrays, single_input
from paddleslim_ng.cli.model_argument import load_model, read_shapes
from paddleslim_ng.cli.program import Outcome
from paddleslim_ng.errors import ConfigError, DataError

if TYPE_CHECKING:
    from paddleslim_ng.core import VarWrapper
    from paddleslim_ng.quant import ExportedModel, QuantizedModel
    from paddleslim_ng.quant.data_sources import Feed
    from paddleslim_ng.runtime import InferenceModel

__all__ = ['run']

_log = logging.getLogger('paddleslim_ng')
_BATCHES, _REPEATS = 32, 50
_FOR_DEVICES = ('quantize_linear', 'fake_quantize')


def run(arguments: argparse.Namespace) -> Outcome:
    """Calibrate and quantize a model, and convert and measure what came out."""
    _check(arguments)
    shapes, arrays = read_shapes(arguments.shape), read_data_arrays(arguments.data)
    from paddleslim_ng.core import GraphWrapper
    from paddleslim_ng.quant import quantize_model, read_feeds
    from paddleslim_ng.quant.data_sources import FirstKept

    model = load_model(arguments.model, arguments)
    graph = GraphWrapper(model.program)
    inputs = [graph.var(name) for name in model.feeds]
    source = arrays if arrays is not None else _source(arguments, model, inputs, shapes)
    feeds = read_feeds(inputs, source, batch_size=arguments.batch_size, batch_nums=arguments.batches)
    first = FirstKept(islice(feeds, arguments.batches or _BATCHES))
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
    data = _figures(done, exported, arguments.data_free)
    texts = [str(done)]
    if arguments.to:
        texts.append(_converted(arguments, data))
    if arguments.measure:
        texts.append(_measured(arguments, exported.prefix, model, first.first or {}, data))
    return Outcome('\n\n'.join(texts), data)


def _figures(done: QuantizedModel, exported: ExportedModel, data_free: bool) -> dict[str, Any]:
    """Return what is known of the files that were written, for ``--json``."""
    return {
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
        'data_free': data_free,
    }


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
    image = single_input(inputs)
    if arguments.data == 'digits':
        return digits_for(image, shapes).train.images
    return image_batches(folder_for(arguments, image, shapes), arguments.batch_size)


def _noise(
    arguments: argparse.Namespace, model: InferenceModel, shapes: dict[str, list[int]]
) -> Iterator[dict[str, Any]]:
    from paddleslim_ng.runtime import synthesize_feeds

    for seed in range(arguments.batches or 4):
        yield synthesize_feeds(model.program, model.feeds, batch=arguments.batch_size, seed=seed, shapes=shapes)
