"""A quantized model cut at its layers, saved in the format of its files, and run by a runtime that executes them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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

__all__ = ['RUNTIMES', 'Runtime', 'opened_runtime', 'run_part']

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


class _Predictors:
    """Paddle Inference, in one process for all models of a comparison."""

    def __init__(self, onednn: bool, precision: str) -> None:
        self._options: dict[str, Any] = {'threads': 1, 'onednn': onednn, 'precision': precision}
        self._process: PredictorProcess | None = None

    def __call__(self, prefix: Path, feeds: Feeds) -> list[list[Array]]:
        suffix = '.pdmodel' if prefix.with_name(f'{prefix.name}.pdmodel').is_file() else '.json'
        program, parameters = (prefix.with_name(prefix.name + end) for end in (suffix, '.pdiparams'))
        if self._process is None:
            self._process = PredictorProcess(program, parameters, **self._options)
        else:
            self._process.load(program=str(program), parameters=str(parameters), **self._options)
        return [self._outputs(self._process, feed) for feed in feeds]

    @staticmethod
    def _outputs(process: PredictorProcess, feed: Mapping[str, Array]) -> list[Array]:
        process.set_inputs({name: feed[name] for name in process.inputs})
        process.run()
        return list(process.outputs().values())

    def close(self) -> None:
        if self._process is not None:
            self._process.close()


RUNTIMES: Final[Mapping[str, tuple[bool, str] | None]] = {
    'executor': None,
    'plain': (False, 'fp32'),
    'onednn': (True, 'fp32'),
    'int8': (True, 'int8'),
}


@contextmanager
def opened_runtime(runtime: Runtime) -> Iterator[RuntimeFunction]:
    """Yield the function of a runtime, whose process ends with the block.

    Raises:
        ConfigError: it is neither a function nor the name of a runtime.
    """
    if callable(runtime):
        yield runtime
        return
    if runtime not in RUNTIMES:
        known = ', '.join(RUNTIMES)
        raise ConfigError(
            f'unknown runtime {runtime!r}; known: {known}, or a function of a path and batches'
            f'{nearest_names(runtime, RUNTIMES)}'
        )
    options = RUNTIMES[runtime]
    if options is None:
        yield _execute
        return
    predictors = _Predictors(*options)
    try:
        yield predictors
    finally:
        predictors.close()


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
