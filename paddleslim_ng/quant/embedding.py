"""Embedding tables as integers of one byte: on disk, in memory, and in the lookup itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper, OpWrapper, VarWrapper, clone_program, load_array, store_array
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.core.new_parameters import add_parameter
from paddleslim_ng.core.removal import remove_operators
from paddleslim_ng.core.teachers import teacher_of
from paddleslim_ng.errors import ConfigError, DataError, GraphError, nearest_names
from paddleslim_ng.quant.codebooks import cluster, nearest
from paddleslim_ng.quant.quantizers import abs_max_scale

__all__ = ['EMBEDDING_TYPES', 'quant_embedding']

_log = logging.getLogger('paddleslim_ng')
_LOOKUP: Final = 'lookup_table_v2'
_DEFAULTS: Final[Mapping[str, Any]] = {
    'quantize_type': 'abs_max',
    'quantize_bits': 8,
    'dtype': 'int8',
    'threshold': None,
    'params_name': None,
}
Array = npt.NDArray[Any]


class _Coded(NamedTuple):
    """A table as integers, and what they stand for.

    Attributes:
        codes: int8 [rows, width].
        scale: float32: [1] for all, or [rows, 1] for each row; None where there is a codebook.
        codebook: float32 [levels, 1]: the value of code ``c`` stands in row ``c + 128``; None where there is a scale.
    """

    codes: Array
    scale: Array | None = None
    codebook: Array | None = None

    @property
    def bytes(self) -> int:
        return sum(part.nbytes for part in self if part is not None)


def quant_embedding(
    program: Any,
    place: Any,
    config: Mapping[str, Any] | None = None,
    scope: Any = None,
    *,
    keep_float: bool = False,
) -> Any:
    """Quantize the embedding tables of a program: integers are looked up, and only what was looked up becomes floats.

    Args:
        program: a program of either IR, or a GraphWrapper, without optimizer; it stays as it is.
        place: device of the tables.
        config: any of ``quantize_type``, one of :data:`EMBEDDING_TYPES` (``'abs_max'``: one scale for the table;
            ``'row_wise'``: one for each row; ``'log'``: levels at equal ratios; ``'codebook'``: levels by k-means),
            ``quantize_bits`` (2 to 8), ``dtype`` (``'int8'``), ``threshold`` (magnitudes above it are cut off, None
            cuts nothing) and ``params_name`` (a table or a list of them, all where None).
        scope: holds the tables; Paddle's global scope where None. It gets ``<table>.codes`` and ``<table>.scale`` or
            ``<table>.codebook``.
        keep_float: leave the float tables in the scope, so that ``program`` still runs there. By default they are
            erased: that is where the memory is saved.

    Returns:
        A new program, in test mode.

    Raises:
        ConfigError: an unknown key or value, or a table that does not exist.
        GraphError: a table is trained in ``program``, is not in the scope, or there is none at all.
        DataError: a table with NaN or infinity.

    In case of an error, program and scope are as they were. Tables that other operators read as well (tied weights) and
    those of merged teachers stay in float, with a warning that names them.

    Example:
        >>> small = slim.quant.quant_embedding(program, paddle.CPUPlace(), {'quantize_type': 'row_wise'})
    """
    options = _checked(config)
    scope = scope if scope is not None else paddle.static.global_scope()
    source = program.program if isinstance(program, GraphWrapper) else program
    _refuse_training(GraphWrapper(source))
    graph = GraphWrapper(clone_program(source, for_test=True))
    tables = _tables(graph, options['params_name'])
    coded = {name: _encode(name, load_array(scope, name), ops, options) for name, ops in tables.items()}
    with matching_ir(graph.program):
        for name, ops in tables.items():
            _rewrite(graph, name, ops, coded[name])
        _remove_lookups(GraphWrapper(graph.program), tables)
    for name, table in coded.items():
        _log.info('%s: %d bytes instead of %d', name, table.bytes, 4 * table.codes.size)
        for part, array in zip(table._fields, table):
            if array is not None:
                store_array(scope, f'{name}.{part}', array, place)
    if not keep_float:
        scope.erase(list(coded))
    return graph.program


def _checked(config: Mapping[str, Any] | None) -> dict[str, Any]:
    given = dict(config or {})
    for key in given:
        if key not in _DEFAULTS:
            raise ConfigError(f'unknown key {key!r}; known: {list(_DEFAULTS)}{nearest_names(str(key), _DEFAULTS)}')
    options = {**_DEFAULTS, **given}
    if options['quantize_type'] not in EMBEDDING_TYPES:
        near = nearest_names(str(options['quantize_type']), EMBEDDING_TYPES)
        raise ConfigError(f'unknown quantize_type {options["quantize_type"]!r}; known: {list(EMBEDDING_TYPES)}{near}')
    bits, limit = options['quantize_bits'], options['threshold']
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ConfigError(f'quantize_bits must be a whole number from 2 to 8, not {bits!r}')
    if options['dtype'] != 'int8':
        raise ConfigError(f"dtype must be 'int8', not {options['dtype']!r}")
    if limit is not None and not (np.isfinite(limit) and limit > 0):
        raise ConfigError(f'threshold must be a positive number or None, not {limit!r}')
    return options


def _refuse_training(graph: GraphWrapper) -> None:
    trained = [op for op in graph.ops() if op.is_opt_op() and op.inputs('Param')]
    if trained:
        raise GraphError(
            f'the program trains {trained[0].inputs("Param")[0].name()!r}: quantize an evaluation program, such as '
            'slim.core.clone_program(program, for_test=True)'
        )


def _tables(graph: GraphWrapper, wanted: str | Iterable[str] | None) -> dict[str, list[OpWrapper]]:
    """Return the lookups in each table that can be quantized."""
    found: dict[str, list[OpWrapper]] = {}
    shared: dict[str, str] = {}
    for op in graph.ops():
        for var in op.all_inputs():
            if var.is_parameter() and op.type() == _LOOKUP and var in op.inputs('W') and teacher_of(op) is None:
                found.setdefault(var.name(), []).append(op)
            elif var.is_parameter():
                shared[var.name()] = op.type()
    names = [wanted] if isinstance(wanted, str) else list(wanted) if wanted is not None else list(found)
    for name in names:
        if name not in found:
            raise ConfigError(f'params_name: {name!r} is no table of embeddings{nearest_names(name, found)}')
    for name in [name for name in names if name in shared]:
        _log.warning('%r stays in float: %s reads it as well', name, shared[name])
    kept = {name: found[name] for name in names if name not in shared}
    if not kept:
        raise GraphError(f'the program has no table of embeddings to quantize; there are {sorted(found) or "none"}')
    return kept


def _encode(name: str, table: Array, ops: list[OpWrapper], options: Mapping[str, Any]) -> _Coded:
    if table.dtype != np.float32 or not np.isfinite(table).all():
        raise DataError(f'the table {name!r} must hold finite float32 numbers, not {table.dtype} with NaN or infinity')
    values = table.copy()
    for op in ops:
        padding = op.attr('padding_idx')
        if padding is not None and int(padding) >= 0:
            values[int(padding)] = 0.0  # what the lookup gives there
    if options['threshold'] is not None:
        np.clip(values, -options['threshold'], options['threshold'], out=values)
    return EMBEDDING_TYPES[options['quantize_type']](values, int(options['quantize_bits']))


def _abs_max(table: Array, bits: int) -> _Coded:
    scale = abs_max_scale(table, bits)
    return _Coded(_rounded(table, scale, bits), scale)


def _row_wise(table: Array, bits: int) -> _Coded:
    scale = abs_max_scale(table, bits, 0).reshape(-1, 1)
    return _Coded(_rounded(table, scale, bits), scale)


def _rounded(table: Array, scale: Array, bits: int) -> Array:
    limit = 2 ** (bits - 1) - 1
    return np.clip(np.rint(table / scale), -limit, limit).astype(np.int8)


def _logarithmic(table: Array, bits: int) -> _Coded:
    """Place levels at equal ratios, from the largest magnitude down to the first percentile, and one at zero."""
    sizes = np.abs(table[table != 0])
    count = 2 ** (bits - 1) - 1
    if not sizes.size:
        return _nearest(table, np.zeros(1))
    high, low = float(sizes.max()), float(np.percentile(sizes, 1))
    levels = np.geomspace(max(low, high * 2.0**-24), high, count)
    return _nearest(table, np.concatenate([-levels, [0.0], levels]))


def _clustered(table: Array, bits: int) -> _Coded:
    """Place levels by k-means (Lloyd, 1982) of the values, from their quantiles on; zero is one of them."""
    values = table[table != 0]
    found = cluster(values, 2**bits - 1) if values.size else values
    return _nearest(table, np.concatenate([found, [0.0]]))


def _nearest(table: Array, levels: Array) -> _Coded:
    """Code every number by the nearest of some levels."""
    codebook = np.unique(np.asarray(levels, np.float32)).astype(np.float64)
    codes = nearest(table.astype(np.float64), codebook)
    return _Coded((codes - 128).astype(np.int8), codebook=codebook.astype(np.float32).reshape(-1, 1))


EMBEDDING_TYPES: Final[Mapping[str, Callable[[Array, int], _Coded]]] = {
    'abs_max': _abs_max,
    'row_wise': _row_wise,
    'log': _logarithmic,
    'codebook': _clustered,
}


def _rewrite(graph: GraphWrapper, name: str, ops: list[OpWrapper], table: _Coded) -> None:
    """Let some lookups read integers; their outputs keep their names."""
    parts = {
        part: add_parameter(graph, f'{name}.{part}', array.shape, str(array.dtype))
        for part, array in zip(table._fields, table)
        if array is not None
    }
    for op in ops:
        here = Insertion(graph, after=op)
        e = Expressions(here)
        (ids,), (out,) = op.inputs('Ids'), op.outputs('Out')
        codes = _lookup(here, ids, parts['codes'])
        if 'codebook' in parts:
            places = e.scale(e.cast(codes, 'int64'), 1.0, 128.0)
            rank = len(out.shape())
            here.op('reshape2', {'X': _lookup(here, places, parts['codebook'])}, {'shape': [0] * rank}, into=out)
            continue
        factor = parts['scale']
        if table.scale is not None and table.scale.ndim == 2:
            factor = _lookup(here, ids, factor)
        here.op('elementwise_mul', {'X': e.cast(codes, 'float32'), 'Y': factor}, into=out)


def _remove_lookups(graph: GraphWrapper, tables: Iterable[str]) -> None:
    names = set(tables)
    old = [op for op in graph.ops() if op.type() == _LOOKUP and op.inputs('W')[0].name() in names]
    remove_operators(graph, old)


def _lookup(here: Insertion, ids: VarWrapper, table: VarWrapper) -> VarWrapper:
    return here.op(_LOOKUP, {'Ids': ids, 'W': table}, {'padding_idx': -1})
