"""Canonical names of PIR operators: slots of operands and results, and the attributes they carry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.op_table import OPTIMIZER_OPS, OpRow, canonical_slot, canonical_type, grad_slot, row_for
from paddleslim_ng.errors import GraphError

__all__ = ['CONSTANT_OPS', 'Vocabulary', 'constant_value', 'is_vector', 'set_plain_attribute']

CONSTANT_OPS = frozenset({'pd_op.full', 'pd_op.full_int_array'})
# Slots of attributes given by a tensor, where legacy operators do not call them <Attribute>Tensor.
_TENSOR_SLOTS = {'k': 'K', 'repeat_times': 'RepeatTimes', 'min': 'Min', 'max': 'Max', 'output_size': 'OutputSizeTensor'}


class Vocabulary:
    """Canonical names of one kind of PIR operator.

    Attributes:
        type: canonical operator type.
        operands: canonical slot of each operand.
        constants: for each operand, the attribute that it is where a constant feeds it, or None.
        results: canonical slot of each result.
        vectors: for each result seen so far, whether it is a vector of tensors.
        attrs: ``{canonical attribute: PIR attribute}`` where the names differ.
    """

    __slots__ = ('_by_pir_name', 'attrs', 'constants', 'defaults', 'derived', 'operands', 'results', 'type', 'vectors')

    def __init__(self, op: Any, known: Mapping[str, Vocabulary]) -> None:
        name = op.name()
        self.type = canonical_type(name)
        self.vectors: dict[int, bool] = {}
        self._by_pir_name: dict[str, str] = {}
        row = row_for(name)
        described = name.startswith('pd_op.') and not op.num_regions()
        ins = list(op.get_input_names()) if described else []
        outs = list(op.get_output_names()) if described else []
        forward = None if row else _forward_of(name, known)
        slots = list(row.operands) if row else []
        results = list(row.results) if row else []
        if forward is not None:
            slots = [grad_slot(item, forward._by_pir_name) for item in ins]
            results = [grad_slot(item, forward._by_pir_name) for item in outs]
        slots += [canonical_slot(item) for item in ins[len(slots) :]]
        results += [canonical_slot(item) for item in outs[len(results) :]]
        self._by_pir_name = {**dict(zip(outs, results)), **dict(zip(ins, slots))}
        self.constants = tuple(slot[1:] if slot[0] == '@' else None for slot in slots)
        if forward is not None:
            own = [item if item not in forward._by_pir_name and not item.endswith('_grad') else None for item in ins]
            self.constants = tuple(a or b for a, b in zip(self.constants, own))
        self.operands = tuple(_tensor_slot(slot[1:]) if slot[0] == '@' else slot for slot in slots)
        self.results = tuple(results)
        source: OpRow | Vocabulary | None = row or forward
        self.attrs: Mapping[str, str] = source.attrs if source else {}
        self.defaults: Mapping[str, object] = source.defaults if source else {}
        self.derived: Mapping[str, Callable[[Callable[[str], object]], object]] = source.derived if source else {}

    def operand_of(self, attribute: str) -> int | None:
        """Return the index of the operand that carries ``attribute``, or None where there is none."""
        return self.constants.index(attribute) if attribute in self.constants else None

    @property
    def is_update(self) -> bool:
        """Whether this is an optimizer's update of parameters."""
        return self.type in OPTIMIZER_OPS


def _forward_of(name: str, known: Mapping[str, Vocabulary]) -> Vocabulary | None:
    if not name.endswith('_grad'):
        return None
    return known.get(name[:-5]) or known.get(name[:-5] + '_')


def _tensor_slot(attribute: str) -> str:
    return _TENSOR_SLOTS.get(attribute) or canonical_slot(attribute) + 'Tensor'


def is_vector(value: Any) -> bool:
    """Tell whether a PIR value is a vector of tensors, as ``split`` makes it."""
    try:
        value.shape  # noqa: B018  a vector of tensors has no shape and raises
    except ValueError:
        return not value.is_dense_tensor_array_type()
    return False


def constant_value(source: Any) -> Any:
    """Return what a ``full`` or ``full_int_array`` operator makes: an int, float, bool, or list of int."""
    attrs = source.attrs()
    value = attrs['value']
    if source.name() == 'pd_op.full_int_array':
        return [int(v) for v in value]
    kind = paddle_compat.dtype_name(attrs['dtype'])
    if kind == 'bool':
        return bool(value)
    return int(value) if 'int' in kind else value


def set_plain_attribute(raw: Any, key: str, value: Any) -> None:
    """Change an attribute that a PIR operator stores itself.

    Paddle has setters for bool, int and str. Other kinds are copied from a second operator, built with the new value
    and removed again; the result types are taken from it, too.

    Raises:
        GraphError: the value does not fit the attribute, or Paddle cannot build that second operator.
    """
    present = raw.attrs()[key]
    if isinstance(present, bool) and isinstance(value, bool):
        raw.set_bool_attr(key, value)
    elif type(present) is int and type(value) is int:
        raw.set_int_attr(key, value)
    elif isinstance(present, str) and isinstance(value, str):
        raw.set_str_attr(key, value)
    elif isinstance(present, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
        _rebuild(raw, key, float(value))
    elif isinstance(present, (list, tuple)) and isinstance(value, (list, tuple)):
        _rebuild(raw, key, list(value))
    else:
        raise GraphError(
            f'cannot store {value!r} in attribute {key!r} of {raw.name()}: it holds a {type(present).__name__}'
        )


def _rebuild(raw: Any, key: str, value: Any) -> None:
    name = raw.name()
    sources = [source if source.initialized() else None for source in raw.operands_source()]
    plain = name.startswith('pd_op.') and not name.endswith(('_grad', '_')) and not raw.num_regions()
    if not plain or any(source is not None and is_vector(source) for source in sources):
        raise GraphError(f'attribute {key!r} of {name} cannot be changed: Paddle has no setter for this kind of value')
    attrs = raw.attrs()
    arguments = [value if item == key else attrs[item] for item in raw.get_attr_names()]
    try:
        with paddle_compat.insertion_before(raw):
            made = paddle_compat.pir_call(name[len('pd_op.') :], *sources, *arguments)
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise GraphError(f'attribute {key!r} of {name} cannot be set to {value!r}: {error}') from error
    twin = (made[0] if isinstance(made, (list, tuple)) else made).get_defining_op()
    fits = twin.name() == name and _same(twin.attrs()[key], value)
    if fits:
        raw.copy_attrs_from(twin)
        for old, new in zip(raw.results(), twin.results()):
            if old.initialized() and new.initialized():
                old.set_type(new.type())
    twin.get_parent_block().remove_op(twin)
    if not fits:
        raise GraphError(f'attribute {key!r} of {name} cannot be set to {value!r}')


def _same(left: Any, right: Any) -> bool:
    if isinstance(right, float):
        return bool(abs(left - right) <= 1e-6 * max(1.0, abs(right)))  # stored in single precision
    return list(left) == list(right)
