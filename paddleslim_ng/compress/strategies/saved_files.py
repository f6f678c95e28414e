"""The files that quantization leaves behind: in float, with integers, for Paddle Lite."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.readers import Feed, Reader
from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.deploy import to_lite
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.quant.inference_part import inference_part
from paddleslim_ng.quant.targets import TARGETS
from paddleslim_ng.runtime import InferenceModel, data_inputs, save_inference_model

__all__ = [
    'ModelPaths',
    'evaluation_feeds',
    'evaluation_model',
    'first_feed',
    'search_folder',
    'train_feeds',
    'write_models',
]


@dataclass(frozen=True)
class ModelPaths:
    """Which models are written, and where; None leaves one out.

    Attributes:
        float_model: path without suffix, weights in float.
        int8: path without suffix, weights stored as integers.
        mobile: file for Paddle Lite.
        inference: path without suffix, for Paddle Inference.
    """

    float_model: str | None = None
    int8: str | None = None
    mobile: str | None = None
    inference: str | None = None


@contextmanager
def search_folder(paths: ModelPaths) -> Iterator[Path]:
    """Give a search a folder that outlasts its interruptions: beside the first file that will be written.

    It is removed when the search is done; a temporary one serves where no file will be written.
    """
    first = next((path for path in astuple(paths) if path is not None), None)
    if first is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    kept = Path(f'{first}.search')
    kept.mkdir(parents=True, exist_ok=True)
    yield kept
    shutil.rmtree(kept)


def evaluation_model(
    context: Context, program: Any, inputs: Sequence[str] | None, outputs: Sequence[str] | None
) -> InferenceModel:
    """Return the part of an evaluation program, in float, that an inference model consists of.

    Args:
        context: the job.
        program: the evaluation program without fake quantizers.
        inputs: names; those that layers with weights depend on where None.
        outputs: names; what the network computes from the inputs before losses and metrics where None, and what is
            fetched for evaluation where that cannot be told.

    Raises:
        GraphError: a name is unknown, or an input that is needed is not among them.
    """
    graph = GraphWrapper(program)
    feeds = list(inputs) if inputs is not None else _inputs_of_layers(graph)
    if outputs is not None:
        return inference_part(program, feeds, list(outputs), context.scope)
    try:
        return inference_part(program, feeds, None, context.scope)
    except GraphError:
        names = [name for _, name in context.eval_fetch_list]
        if not names:
            raise
        every = [var.name() for var in data_inputs(graph)] if inputs is None else feeds
        return inference_part(program, every, names, context.scope)


def _inputs_of_layers(graph: GraphWrapper) -> list[str]:
    """Return the inputs that a layer with weights depends on; all inputs where there is none."""
    inputs = data_inputs(graph)
    needed: set[str] = set()
    pending = [op for op in graph.ops() if _has_weights(op)]
    seen: set[int] = set()
    while pending:
        op = pending.pop()
        if op.idx() in seen:
            continue
        seen.add(op.idx())
        needed.update(var.name() for var in op.all_inputs())
        pending.extend(maker for var in op.all_inputs() for maker in var.inputs())
    return [var.name() for var in inputs if var.name() in needed] or [var.name() for var in inputs]


def _has_weights(op: Any) -> bool:
    row = TARGETS.get(op.type())
    if row is None or row.weight is None:
        return False
    return any(var.is_parameter() or var.persistable() for var in op.inputs(row.weight))


def train_feeds(context: Context, model: InferenceModel, count: int | None = None) -> Iterator[Feed]:
    """Yield the first batches of training, as feeds of an evaluation model; those of evaluation where none trains.

    Raises:
        ConfigError: there is no reader, or a reader does not give an input of the model.
    """
    if context.train_reader is None:
        return evaluation_feeds(context, model, count)
    return _feeds(context.train_reader, context.train_program, dict(context.eval_feed_list), model, count)


def evaluation_feeds(context: Context, model: InferenceModel, count: int | None = None) -> Iterator[Feed]:
    """Yield the first batches of evaluation, as feeds of an evaluation model."""
    if context.eval_reader is None:
        raise ConfigError('there is neither a train_reader nor an eval_reader to take data from')
    return _feeds(context.eval_reader, context.eval_program, dict(context.eval_feed_list), model, count)


def _feeds(
    reader: Reader, program: Any, names: dict[str, str], model: InferenceModel, count: int | None
) -> Iterator[Feed]:
    known = {name: names.get(label, name) for label, name in reader.feed_list}
    lacking = sorted(set(model.feeds) - set(known.values()))
    if lacking:
        raise ConfigError(f'{reader.role} does not give the inputs {lacking} of the model that is saved')
    reader.set_epoch(0)
    for feed in islice(reader.feeds(program), count):
        yield {known[name]: array for name, array in feed.items() if known.get(name) in model.feeds}


def first_feed(context: Context, model: InferenceModel) -> Feed | None:
    """Return the first batch of evaluation, to compare models on, or of training; None where no reader has it."""
    readers = [(context.eval_reader, context.eval_program), (context.train_reader, context.train_program)]
    for reader, program in readers:
        if reader is None or reader.is_exhaustible():
            continue
        names = dict(context.eval_feed_list)
        if set(model.feeds) <= {names.get(label, name) for label, name in reader.feed_list}:
            return next(iter(_feeds(reader, program, names, model, 1)), None)
    return None


def write_models(
    paths: ModelPaths, model: InferenceModel, export: Callable[[str], Any], feed: Feed | None, place: Any
) -> dict[str, Any]:
    """Write the models that are asked for; each is reloaded and compared with what it is made of.

    Args:
        paths: where.
        model: in float.
        export: writes the model of integers to a path without suffix, and proves it.
        feed: to compare on; made up where None.
        place: device.

    Returns:
        What became of each, by ``'float'``, ``'int8'``, ``'inference'`` and ``'mobile'``.

    Raises:
        EquivalenceError: a file does not compute what it should.
        DeployError: no Paddle Lite is there, or it refuses the model.
    """
    done: dict[str, Any] = {}
    if paths.float_model is not None:
        done['float'] = save_inference_model(
            model.program, paths.float_model, model.feeds, _names(model.fetches), model.scope, feed=feed
        )
    for kind, path in (('int8', paths.int8), ('inference', paths.inference)):
        if path is not None:
            done[kind] = export(path)
    if paths.mobile is not None:
        with tempfile.TemporaryDirectory() as folder:
            source = done.get('int8') or done.get('inference') or export(str(Path(folder, 'model')))
            done['mobile'] = to_lite(str(source.prefix), paths.mobile, 'arm', 'int8', feed=feed)
    return done


def _names(items: Iterable[Any]) -> list[str]:
    return [GraphWrapper.name_of(item) for item in items]
