"""A quantized model cut at its layers, saved in the format of its files, and run by a runtime that executes them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Union

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import Executor, GraphWrapper, cut_program
from paddleslim_ng.errors import ConfigError, DataError, nearest_names
from paddleslim_ng.runtime.inference_model import save_inference_model
from paddleslim_ng.runtime.model_loading import InferenceModel, load_inference_model
from paddleslim_ng.runtime.predictor_process import PredictorProcess

__all__ = ['RUNTIMES', 'Runtime', 'check_runtime', 'run_part']

Array = npt.NDArray[Any]
Feeds = Sequence[Mapping[str, Array]]
#: Runs a saved model, given by its path without suffix, on batches; returns the outputs of each in the model's order.
RuntimeFunction = Callable[[Path, Feeds], Sequence[Sequence[Array]]]
Runtime = Union[str, RuntimeFunction]


def _execute(prefix: Path, feeds: Feeds) -> list[list[Array]]:
    model = load_inference_model(prefix, paddle.static.Scope())
    runner = Executor()
    return [
        [np.asarray(item) for item in runner.run(model.program, dict(feed), model.fetches, scope=model.scope)]
        for feed in feeds
    ]


def _predict(onednn: bool, precision: str) -> RuntimeFunction:
    def run(prefix: Path, feeds: Feeds) -> list[list[Array]]:
        suffix = '.pdmodel' if prefix.with_name(f'{prefix.name}.pdmodel').is_file() else '.json'
        files = (prefix.with_name(prefix.name + end) for end in (suffix, '.pdiparams'))
        found = []
        with PredictorProcess(*files, onednn=onednn, precision=precision) as process:
            for feed in feeds:
                process.set_inputs({name: feed[name] for name in process.inputs})
                process.run()
                found.append(list(process.outputs().values()))
        return found

    return run


RUNTIMES: Final[Mapping[str, RuntimeFunction]] = {
    'executor': _execute,
    'plain': _predict(False, 'fp32'),
    'onednn': _predict(True, 'fp32'),
    'int8': _predict(True, 'int8'),
}


def check_runtime(runtime: Runtime) -> RuntimeFunction:
    """Return the function of a runtime.

    Raises:
        ConfigError: it is neither a function nor the name of one.
    """
    if callable(runtime):
        return runtime
    if runtime not in RUNTIMES:
        known = ', '.join(RUNTIMES)
        raise ConfigError(
            f'unknown runtime {runtime!r}; known: {known}, or a function of a path and batches'
            f'{nearest_names(runtime, RUNTIMES)}'
        )
    return RUNTIMES[runtime]


def run_part(
    model: InferenceModel, inputs: Sequence[str], outputs: Sequence[str], feeds: Feeds, runtime: RuntimeFunction
) -> list[list[Array]]:
    """Cut a model to what leads from some tensors to others, save it, and run the file.

    Args:
        model: the quantized model, in the IR of its format.
        inputs: names of the tensors that are fed.
        outputs: names of the tensors that are fetched.
        feeds: batches, with an array for every input.
        runtime: what runs the file.

    Returns:
        For each batch, the outputs in the order of ``outputs``.

    Raises:
        GraphError: an output depends on more than the inputs.
        DataError: the runtime returns another number of outputs.
        DeployError: the runtime cannot run the file.
    """
    part = GraphWrapper(cut_program(model.program, list(inputs), list(outputs)))
    format = 'json' if part.ir == 'pir' else 'pdmodel'
    given = [{name: feed[name] for name in inputs} for feed in feeds]
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder, 'part')
        save_inference_model(part.program, prefix, list(inputs), list(outputs), model.scope, format=format, check=False)
        found = [[np.asarray(array) for array in row] for row in runtime(prefix, given)]
    for row in found:
        if len(row) != len(outputs):
            raise DataError(f'the runtime returned {len(row)} outputs of a model that has {len(outputs)}')
    return found
