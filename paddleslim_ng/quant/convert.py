"""From a program trained quantized to one that computes with integers, in place of PaddleSlim's ``convert``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper, VarWrapper, clone_program, store_array
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.core.new_parameters import add_parameter
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.quant.aware_checks import check_trained
from paddleslim_ng.quant.aware_records import recorded
from paddleslim_ng.quant.aware_spec import float_program, spec_of
from paddleslim_ng.quant.export_checks import compare
from paddleslim_ng.quant.formats import check_format
from paddleslim_ng.quant.local_agreement import check_operators
from paddleslim_ng.quant.placement import float_weights, own_scope, place_tensors
from paddleslim_ng.quant.quantizers import quantize
from paddleslim_ng.quant.simulate import simulate
from paddleslim_ng.quant.spec import QuantizationSpec
from paddleslim_ng.runtime.feeds import data_inputs, synthesize_feeds
from paddleslim_ng.runtime.inference_outputs import results_of
from paddleslim_ng.runtime.model_loading import InferenceModel

__all__ = ['convert']

Arrays = dict[str, npt.NDArray[Any]]


def convert(
    program: Any,
    place: Any,
    config: Any = None,
    scope: Any = None,
    save_int8: bool = False,
    *,
    feed: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Any:
    """Turn a program that was trained quantized into one whose weights are integers, and check that it computes alike.

    Legacy programs get the operators that Paddle Lite and Paddle Inference know: ``quantize_linear`` and its inverse,
    or ``fake_quantize_range_abs_max`` with integers in float32 (``onnx_format=False``, or more than 8 bits). On PIR,
    where Paddle's ``dequantize_linear`` is wrong, integers are scaled by plain arithmetic. Save the result with
    ``save_inference_model``; :func:`paddleslim_ng.quant.export_aware` writes files from either IR for every runtime.

    Args:
        program: what ``quant_aware(..., for_test=True)`` returned, or a trained program, whose evaluation part is
            taken; it stays as it is.
        place: device of the integers.
        config: as for ``quant_aware``; what contradicts the program is an error.
        scope: weights and scales; Paddle's global scope where None. It gets the integers, under ``<weight>@integers``
            (as float32: ``<weight>@integers.float32``), and the float weights stay.
        save_int8: return the program twice, in a tuple, the second one with integers stored as int8 in any case.
        feed: arrays for the comparison; made up where missing. Give real ones where made-up ones do not suit.

    Returns:
        A new program in test mode with the names of the old one, or a pair of them.

    Raises:
        GraphError: the program is not quantized, or a scale was never updated by training; the tensors are named.
        ConfigError: a ``config`` that contradicts the program.
        DataError: a weight that is not finite, or a feed that the program cannot run on.
        EquivalenceError: the result computes something else. The scope is as it was then.

    Example:
        >>> integers = slim.quant.convert(test_program, place)
        >>> paddle.static.save_inference_model('model', [image], [logits], executor, program=integers)
    """
    from paddleslim_ng.quant.aware_config import read_config

    scope = scope if scope is not None else paddle.static.global_scope()
    settings = read_config(config)
    graph = GraphWrapper(clone_program(getattr(program, 'program', program), for_test=True))
    spec = spec_of(graph, scope)
    _check_config(settings, graph)
    widest = max(tensor.bits for tensor in spec.tensors.values())
    linear = settings.onnx_format and widest <= 8
    names = ['decomposed' if graph.ir == 'pir' else 'quantize_linear' if linear else 'fake_quantize']
    if save_int8:
        names.append('quantize_linear' if names == ['fake_quantize'] and widest <= 8 else names[0])
    arrived = {**synthesize_feeds(graph), **(feed or {})}
    made = {name: _converted(graph.program, spec, name, scope, arrived) for name in dict.fromkeys(names)}
    for _, arrays in made.values():
        for name, array in arrays.items():
            store_array(scope, name, array, place)
    results = [made[name][0] for name in names]
    return tuple(results) if save_int8 else results[0]


def _check_config(settings: Any, graph: GraphWrapper) -> None:
    for key, kind in (('weight_bits', 'weight'), ('activation_bits', 'activation')):
        widths = {item.record.bits for item in recorded(graph) if item.record.kind == kind}
        if key in settings.model_fields_set and widths and widths != {getattr(settings, key)}:
            raise ConfigError(f'config[{key!r}] is {getattr(settings, key)}, and the program was quantized to {widths}')


def _converted(quantized: Any, spec: QuantizationSpec, form: str, scope: Any, feed: Arrays) -> tuple[Any, Arrays]:
    """Return a program in some form, and the arrays that it needs besides those in the scope, after checking both."""
    writer = check_format(form, spec)
    bare = float_program(quantized)
    program = clone_program(bare)
    graph = GraphWrapper(program)
    with matching_ir(program):
        placed = place_tensors(graph, spec)
        integers = {name: quantize(array, spec.tensors[name]) for name, array in float_weights(placed, scope).items()}
        arrays = writer.write(graph, placed, integers)
        if graph.ir == 'legacy':
            arrays = _renamed(GraphWrapper(program), integers, arrays, form)
    after = GraphWrapper(program)
    _check(quantized, bare, InferenceModel(program, [], [], own_scope(after, scope, arrays)), spec, scope, feed)
    return program, arrays


def _renamed(graph: GraphWrapper, integers: Arrays, arrays: Arrays, form: str) -> Arrays:
    """Let a legacy program find what it needs under names of its own, so that the float weights can stay.

    Integers in float32, and what goes with them, have other names than integers in int8.
    """
    block = graph.program.global_block()
    changed = {}
    for name, array in arrays.items():
        fresh = f'{name}@integers' if name in integers else name
        fresh = f'{fresh}.float32' if form == 'fake_quantize' else fresh
        changed[fresh] = array
        if fresh != name:
            add_parameter(graph, fresh, array.shape, str(array.dtype))
            for op in block.ops:
                op.desc._rename_input(name, fresh)
                op.desc._rename_output(name, fresh)
            block._remove_var(name)
    return changed


def _check(
    quantized: Any, bare: Any, converted: InferenceModel, spec: QuantizationSpec, scope: Any, feed: Arrays
) -> None:
    part = GraphWrapper(bare)
    feeds = [var.name() for var in data_inputs(part)]
    outputs = _outputs(part)

    def model(program: Any, own: Any) -> InferenceModel:
        return InferenceModel(program, feeds, outputs, own)

    check_trained(quantized, spec, scope, {name: feed[name] for name in feeds})
    found = model(converted.program, converted.scope)
    operators = check_operators(model(*simulate(bare, spec, scope)), found, part, feed, spec)
    compare(model(bare, scope), model(quantized, scope), found, feed, spec, operators)


def _outputs(graph: GraphWrapper) -> list[str]:
    """Return the names of the results in floating point that no operator reads."""
    results: list[VarWrapper] = [var for op in graph.ops() for var in results_of(op)]
    return [var.name() for var in results if not var.outputs() and var.dtype() == 'float32' and not var.persistable()]
