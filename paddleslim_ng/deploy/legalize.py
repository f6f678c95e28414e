"""Rewriting a legacy inference program into one that Paddle Lite's converter accepts and converts rightly.

What Paddle saves leaves out optional outputs and attributes that the converter reads without asking, which kills it,
has one form of a quantized product that Lite's x86 kernels get wrong without an error, and one of biases that is never
fused. Every cure is a pass of its own; none changes what the program computes or which parameters it reads, nor their
shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from paddleslim_ng.core import GraphWrapper, OpWrapper
from paddleslim_ng.core.channel_biases import flatten_biases
from paddleslim_ng.core.paddle_compat import unused_name
from paddleslim_ng.errors import ConfigError, GraphError

__all__ = ['PASSES', 'LegalizePass', 'legalize']

# operator -> optional outputs that the converter reads, with the rank of the stand-in
_OUTPUTS: Final[Mapping[str, Mapping[str, int]]] = MappingProxyType(
    {
        **dict.fromkeys(
            ('flatten2', 'flatten_contiguous_range', 'reshape2', 'squeeze2', 'transpose2', 'unsqueeze2'),
            MappingProxyType({'XShape': 1}),
        ),
        'layer_norm': MappingProxyType({'Mean': 1, 'Variance': 1}),
        'instance_norm': MappingProxyType({'SavedMean': 1, 'SavedVariance': 1}),
    }
)
_ELEMENTWISE = ('add', 'sub', 'mul', 'div', 'max', 'min', 'pow', 'mod', 'floordiv')
# operator -> attributes that the converter reads, with the value that Paddle takes where they are missing
_ATTRIBUTES: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        'relu6': MappingProxyType({'threshold': 6.0}),
        'hard_swish': MappingProxyType({'threshold': 6.0, 'scale': 6.0, 'offset': 3.0}),
        'hard_sigmoid': MappingProxyType({'slope': 0.2, 'offset': 0.5}),
        **dict.fromkeys((f'elementwise_{kind}' for kind in _ELEMENTWISE), MappingProxyType({'axis': -1})),
        'matmul_v2': MappingProxyType({'trans_x': False, 'trans_y': False}),
        'scale': MappingProxyType({'scale': 1.0, 'bias': 0.0, 'bias_after_scale': True}),
        'layer_norm': MappingProxyType({'epsilon': 1e-5, 'begin_norm_axis': 1}),
        'batch_norm': MappingProxyType({'momentum': 0.9, 'epsilon': 1e-5, 'data_layout': 'NCHW'}),
        'pool2d': MappingProxyType({'global_pooling': False}),
        'split': MappingProxyType({'num': 0, 'sections': [], 'axis': 0}),
    }
)


@dataclass(frozen=True)
class LegalizePass:
    """One cure.

    Attributes:
        name: how reports call it.
        requires: what a program has where the pass applies.
        ensures: what holds afterwards.
        prevents: the failure of the converter, or of the converted file, without it.
        apply: edits the program behind a graph and returns the number of operators changed; a second call returns 0.
    """

    name: str
    requires: str
    ensures: str
    prevents: str
    apply: Callable[[GraphWrapper], int]


def _drop_empty_slots(graph: GraphWrapper) -> int:
    changed = 0
    for op in graph.ops():
        desc = op.raw.desc
        inputs = [slot for slot in desc.input_names() if not desc.input(slot)]
        outputs = [slot for slot in desc.output_names() if not desc.output(slot)]
        for slot in inputs:
            desc.remove_input(slot)
        for slot in outputs:
            desc.remove_output(slot)
        changed += bool(inputs or outputs)
    return changed


def _add_missing_outputs(graph: GraphWrapper) -> int:
    changed = 0
    for op in graph.ops():
        missing = [slot for slot in _OUTPUTS.get(op.type(), ()) if not _has_output(op, slot)]
        for slot in missing:
            _add_output(op, slot, _OUTPUTS[op.type()][slot])
        changed += bool(missing)
    return changed


def _has_output(op: OpWrapper, slot: str) -> bool:
    desc = op.raw.desc
    return slot in desc.output_names() and bool(desc.output(slot))


def _add_output(op: OpWrapper, slot: str, rank: int) -> None:
    """Let an operator write a new variable that nobody reads."""
    block = op.raw.block
    name = unused_name(block, f'{op.all_outputs()[0].name()}.{slot.lower()}')
    block.create_var(name=name, shape=[0] * rank, dtype='float32', stop_gradient=True)
    op.raw.desc.set_output(slot, [name])


def _add_missing_attributes(graph: GraphWrapper) -> int:
    changed = 0
    for op in graph.ops():
        missing = {name: value for name, value in _ATTRIBUTES.get(op.type(), {}).items() if not op.raw.has_attr(name)}
        for name, value in missing.items():
            op.raw._set_attr(name, list(value) if isinstance(value, list) else value)
        changed += bool(missing)
    return changed


def _flatten_biases(graph: GraphWrapper) -> int:
    return flatten_biases(graph).additions


def _rename_quantized_products(graph: GraphWrapper) -> int:
    """Turn a quantized ``matmul_v2`` by a matrix of weights into the ``mul`` that has int8 kernels everywhere."""
    return _rename_products(graph, lambda op: any('quantize' in maker.type() for maker in op.inputs('X')[0].inputs()))


def _rename_products(graph: GraphWrapper, wanted: Callable[[OpWrapper], bool]) -> int:
    changed = 0
    for op in graph.ops():
        if op.type() == 'matmul_v2' and _is_product_by_weights(op) and wanted(op):
            rank = len(op.inputs('X')[0].shape())
            for name in ('trans_x', 'trans_y'):
                if op.raw.has_attr(name):
                    op.raw.desc.remove_attr(name)
            op.raw.desc.set_type('mul')
            op.raw._set_attr('x_num_col_dims', rank - 1)
            op.raw._set_attr('y_num_col_dims', 1)
            changed += 1
    return changed


def _is_product_by_weights(op: OpWrapper) -> bool:
    x, y = op.inputs('X')[0], op.inputs('Y')[0]
    return (
        len(x.shape()) >= 2
        and len(y.shape()) == 2
        and not op.attr('trans_x')
        and not op.attr('trans_y')
        and _is_weight(y)
    )


def _is_weight(var: Any) -> bool:
    """Tell whether a variable is a parameter, possibly behind operators that quantize it."""
    while not var.persistable():
        makers = var.inputs()
        if len(makers) != 1 or 'quantize' not in makers[0].type():
            return False
        var = makers[0].inputs('X')[0]
    return True


#: The passes in the order in which they run.
PASSES: Final[tuple[LegalizePass, ...]] = (
    LegalizePass(
        name='empty_slots',
        requires='operators that list an optional input or output without a variable in it',
        ensures='no operator has an empty slot',
        prevents='a layer_norm without scale and bias ends the converter with a segmentation fault',
        apply=_drop_empty_slots,
    ),
    LegalizePass(
        name='missing_outputs',
        requires='shape operators without XShape, normalizations without their statistics: Paddle drops unread outputs',
        ensures='every such operator writes these outputs, to variables that nobody reads',
        prevents='the converter ends with a segmentation fault (XShape of a flatten) or aborts (others)',
        apply=_add_missing_outputs,
    ),
    LegalizePass(
        name='missing_attributes',
        requires='operators without attributes that have a default, such as the threshold of relu6',
        ensures="the attributes are there, with Paddle's defaults",
        prevents='the converter aborts: "No attributes called threshold found for relu6"',
        apply=_add_missing_attributes,
    ),
    LegalizePass(
        name='channel_biases',
        requires='biases of convolutions that are reshaped to four axes before they are added: PIR knows no other',
        ensures='the addition reads the parameter itself, along the channels, and becomes part of the convolution',
        prevents='bias and activation run on their own behind every convolution, in float even where that is int8',
        apply=_flatten_biases,
    ),
    LegalizePass(
        name='quantized_products',
        requires='a quantized matmul_v2 of activations by a rank-2 weight, neither transposed',
        ensures='it is a mul, which becomes an int8 fc',
        prevents='on x86 an fp32 kernel reads the int8 weights: NaN or constant outputs, without an error',
        apply=_rename_quantized_products,
    ),
)
#: Run behind them where the converter is to store the weights of a float model as integers.
STORED_PRODUCTS: Final = LegalizePass(
    name='stored_products',
    requires='a matmul_v2 of activations by a rank-2 weight that the converter will store, neither transposed',
    ensures='it is a mul, which becomes an fc that turns the integers into floats again',
    prevents='on x86 the kernel of matmul_v2 reads the integers as floats: NaN, without an error',
    apply=lambda graph: _rename_products(graph, lambda op: True),
)


def legalize(program: Any, skip: Iterable[str] = (), *, stored: bool = False) -> dict[str, int]:
    """Rewrite a legacy inference program, in place, into one that Paddle Lite converts.

    Args:
        program: a legacy inference program.
        skip: names of passes to leave out.
        stored: whether the converter is to store the weights of a float model as integers.

    Returns:
        ``{pass name: number of operators changed}``, of all passes that ran.

    Raises:
        GraphError: a PIR program; translate it first.
        ConfigError: an unknown name in ``skip``.

    Example:
        >>> legalize(program)
        {'empty_slots': 0, 'missing_outputs': 2, 'missing_attributes': 0, 'channel_biases': 5, 'quantized_products': 0}
    """
    passes = (*PASSES, STORED_PRODUCTS) if stored else PASSES
    skipped = set(skip)
    unknown = skipped.difference(item.name for item in passes)
    if unknown:
        raise ConfigError(f'no such pass: {sorted(unknown)}; known: {[item.name for item in passes]}')
    if GraphWrapper(program).ir != 'legacy':
        raise GraphError('legalize takes a legacy program: save the PIR program with format="pdmodel" first')
    return {item.name: item.apply(GraphWrapper(program)) for item in passes if item.name not in skipped}
