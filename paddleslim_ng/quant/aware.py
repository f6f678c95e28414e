"""Quantization-aware training: fake quantizers inserted into training and evaluation programs of either IR."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import paddle

from paddleslim_ng.core import GraphWrapper, VarWrapper, clone_program, load_array, store_array
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.core.teachers import distillation_of, teacher_of
from paddleslim_ng.errors import ConfigError, nearest_names
from paddleslim_ng.quant.aware_records import Record, note, note_skipped
from paddleslim_ng.quant.aware_targets import aware_targets
from paddleslim_ng.quant.aware_types import ACTIVATION_QUANTIZERS, WEIGHT_QUANTIZERS, AwareQuantizer, QuantizerRequest
from paddleslim_ng.quant.building import bits_of
from paddleslim_ng.quant.custom_functions import CustomFunction, Function
from paddleslim_ng.quant.function_placement import Functions, PlacedTensor, PlacedTensors, place_functions
from paddleslim_ng.quant.learned_quantizers import Learner
from paddleslim_ng.quant.quantization_delay import DelayedQuantizer, QuantizationDelay
from paddleslim_ng.quant.scale_optimizer import optimize_scales
from paddleslim_ng.quant.scale_states import ScaleUse, check_scales, remember_scales, store_initial
from paddleslim_ng.quant.straight_through import quantize_reads
from paddleslim_ng.quant.targets import Targets

if TYPE_CHECKING:
    from paddleslim_ng.quant.aware_config import AwareConfig

__all__ = ['quant_aware']

_log = logging.getLogger('paddleslim_ng')


def quant_aware(
    program: Any,
    place: Any,
    config: Any = None,
    scope: Any = None,
    for_test: bool = False,
    weight_quantize_func: Function | None = None,
    act_quantize_func: Function | None = None,
    weight_preprocess_func: Function | None = None,
    act_preprocess_func: Function | None = None,
    optimizer_func: Callable[[], Any] | None = None,
    executor: Any = None,
    return_program: bool = False,
) -> Any:
    """Let a program train, or evaluate, with the rounding of integers simulated.

    Every weight and activation that a quantizable operator reads is rounded to its grid first. Gradients pass straight
    through; they are zero where an activation is cut off. Training updates the scales of activations, which stand in
    the scope; evaluation programs read them there, whichever of the two is quantized first.

    Args:
        program: a program of either IR, or a GraphWrapper, before or after ``minimize``; it stays as it is.
        place: device of the scales.
        config: any of PaddleSlim's keys; see :class:`~paddleslim_ng.quant.aware_config.AwareConfig`.
        scope: parameters; Paddle's global scope where None. It gets the scales.
        for_test: the program evaluates: operators of the backward pass and of the optimizer are dropped, and scales are
            only read. ``clone_program(quantized, for_test=True)`` of a quantized training program gives the same.
        weight_quantize_func: a function of a Paddle variable or value that takes the place of the quantizer of weights;
            see :mod:`~paddleslim_ng.quant.custom_functions`. No integers stand behind it, so what reads its results
            stays in float where files are made.
        act_quantize_func: the same for activations.
        weight_preprocess_func: a function that weights pass before they are quantized; what reads them stays in float
            where files are made.
        act_preprocess_func: a function that activations pass before they are quantized, such as
            :func:`~paddleslim_ng.quant.pact`; it becomes a part of the network.
        optimizer_func: returns the Paddle optimizer of learned scales and of parameters of these functions, with a
            constant learning rate, for a program that has been minimized;
            :func:`~paddleslim_ng.quant.scale_optimizer.default_optimizer` where None. Before ``minimize`` it is not
            needed: the program's optimizer trains them as it trains weights.
        executor: accepted for PaddleSlim's users; nothing has to be run.
        return_program: accepted for PaddleSlim's users; a program is returned either way.

    Returns:
        A new program with the names of the old one; run it with :class:`paddleslim_ng.Executor`, which finds what is
        to be fetched in it. Before ``minimize``, look the loss up in it: ``slim.core.lookup(quantized, loss)``. What
        stays in float is logged and kept: :func:`paddleslim_ng.quant.spec_of` tells.

    Raises:
        ConfigError: an unknown key or value; the nearest names are listed. Or a table of widths lacks a tensor.
        GraphError: nothing can be quantized, the program is quantized already or trains in half precision, a gradient
            operator cannot be told, the scope lacks a weight, or training and evaluation programs have other names.
        DataError: a weight that is not finite.

    In case of an error, program and scope are as they were.

    Example:
        >>> train = slim.quant.quant_aware(train_program, place, {'weight_bits': 4})
        >>> test = slim.quant.quant_aware(test_program, place, {'weight_bits': 4}, for_test=True)
        >>> slim.Executor().run(train, feed, [loss])
    """
    from paddleslim_ng.quant.aware_config import read_config

    settings = read_config(config)
    scope = scope if scope is not None else paddle.static.global_scope()
    source = program.program if isinstance(program, GraphWrapper) else program
    targets = aware_targets(source, settings)
    graph = GraphWrapper(clone_program(source, for_test=for_test))
    _check_tables(graph, settings)
    functions = Functions(weight_quantize_func, act_quantize_func, weight_preprocess_func, act_preprocess_func)
    placed = place_functions(graph, targets, functions)
    quantizers = _insert(graph, placed, targets.skipped, settings, scope, training=not for_test)
    kept = _train_scales(graph, [*placed.built, *quantizers], optimizer_func, place)
    use = ScaleUse(list(targets.weights), [str(item.scale_name) for item in quantizers if item.count_name is not None])
    check_scales(scope, use, training=not for_test)
    store_initial(scope, [*placed.built, *quantizers], place, training=not for_test)
    for name, value in kept.items():
        store_array(scope, name, value, place)
    remember_scales(scope, use, training=not for_test)
    _report(graph, targets)
    return graph.program


def _insert(
    graph: GraphWrapper,
    placed: PlacedTensors,
    skipped: Mapping[str, str],
    config: AwareConfig,
    scope: Any,
    *,
    training: bool,
) -> list[AwareQuantizer]:
    made, notes = [], []
    delay = QuantizationDelay(config.quant_delay) if training and config.quant_delay else None
    for tensor in placed.tensors:
        x = graph.var(tensor.name)
        quantizer = _quantizer(x, tensor, config, scope, training)
        if delay is not None:
            quantizer = DelayedQuantizer(quantizer, delay)
        y = quantize_reads(graph, x, tensor.readers, quantizer)
        bits = quantizer.bits if tensor.has_integers else None
        kind = 'weight' if tensor.is_weight else 'activation'
        notes.append((y, Record(x.name(), kind, bits, quantizer.axis, quantizer.scale_name, quantizer.count_name)))
        made.append(quantizer)
    makers = _makers(graph, [y for y, _ in notes])
    for maker, (_, record) in zip(makers, notes):
        note(maker, record)
    note_skipped(makers[0], skipped)
    if delay is not None:
        delay.count(graph)
    return made


def _train_scales(
    graph: GraphWrapper, quantizers: Sequence[AwareQuantizer], optimizer_func: Callable[[], Any] | None, place: Any
) -> dict[str, Any]:
    """Update what quantizers learn where the program has been minimized; return what the scope has to hold for that."""
    e = Expressions(Insertion(graph, role='backward'))
    gradients: dict[str, VarWrapper] = {}
    with matching_ir(graph.program):
        for quantizer in quantizers:
            if isinstance(quantizer, Learner):
                gradients.update(quantizer.parameter_gradients(e))
    return optimize_scales(graph, gradients, optimizer_func, place) if gradients else {}


def _quantizer(x: VarWrapper, tensor: PlacedTensor, config: AwareConfig, scope: Any, training: bool) -> AwareQuantizer:
    if tensor.quantize is not None:
        role = 'weight_quantize_func' if tensor.is_weight else 'act_quantize_func'
        return CustomFunction(tensor.quantize, x, role)
    value = load_array(scope, x.name()) if x.is_parameter() else None
    argument = 'weight_bits' if tensor.is_weight else 'activation_bits'
    bits = bits_of(getattr(config, argument), tensor.name, argument)
    request = QuantizerRequest(x.name(), x.shape(), bits, tensor.axis, training, value, config, not x.raw.stop_gradient)
    if tensor.is_weight:
        return WEIGHT_QUANTIZERS[config.weight_quantize_type](request)
    return ACTIVATION_QUANTIZERS[config.activation_quantize_type](request)


def _check_tables(graph: GraphWrapper, config: AwareConfig) -> None:
    """Refuse widths of tensors that do not exist."""
    for argument in ('weight_bits', 'activation_bits'):
        given = getattr(config, argument)
        for name in given if isinstance(given, Mapping) else ():
            if not graph.has_var(name):
                near = nearest_names(name, [var.name() for var in graph.vars()])
                raise ConfigError(f'{argument} names {name!r}, which is no tensor of the program{near}')


def _makers(graph: GraphWrapper, results: list[VarWrapper]) -> list[Any]:
    """Return Paddle's operators that make some results, which the wrapped program does not know yet."""
    if graph.ir == 'pir':
        return [var.raw.get_defining_op() for var in results]
    makers = {name: op for op in graph.program.global_block().ops for name in op.desc.output_arg_names()}
    return [makers[var.name()] for var in results]


def _report(graph: GraphWrapper, targets: Targets) -> None:
    _log.info('%d operators are quantized', len(targets.operators))
    owners = {output: owner for output in targets.skipped if (owner := _owner(graph, output))}
    for owner, count in Counter(owners.values()).items():
        _log.info('%d operators of %s stay in float', count, owner)
    for output, reason in targets.skipped.items():
        if output not in owners:
            _log.warning('the operator that makes %r stays in float: %s', output, reason)


def _owner(graph: GraphWrapper, output: str) -> str | None:
    """Return what the maker of a tensor belongs to beside the network."""
    for maker in graph.var(output).inputs() if graph.has_var(output) else ():
        for kind, name in (('merged teacher', teacher_of(maker)), ('distillation loss', distillation_of(maker))):
            if name is not None:
                return f'the {kind} {name!r}'
    return None
