"""How sparse a network is: over all parameters, over the pruned ones, layer by layer.

Merged teachers and adapters in distillation losses are no part of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddleslim_ng.core import GraphWrapper, VarWrapper, paddle_compat, view_array
from paddleslim_ng.core.teachers import own_parameters
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.sparse.prunable import is_conv1x1
from paddleslim_ng.sparse.scores import as_floats

__all__ = ['LayerSparsity', 'Sparsity', 'magnitude_at', 'measure_sparsity', 'share_of_zeros', 'sparse_by_layer']


@dataclass(frozen=True)
class LayerSparsity:
    """One parameter.

    Attributes:
        weights: how many it has.
        zeros: how many of them are zero.
        prunable: whether it is pruned at all.
    """

    weights: int
    zeros: int
    prunable: bool

    @property
    def ratio(self) -> float:
        """Share of zeros."""
        return self.zeros / self.weights


@dataclass(frozen=True)
class Sparsity:
    """A network's zeros, measured in the scope.

    Attributes:
        layers: every parameter, in program order.
    """

    layers: Mapping[str, LayerSparsity]

    @property
    def prunable(self) -> float:
        """Share of zeros among the weights that are pruned."""
        return _share(layer for layer in self.layers.values() if layer.prunable)

    @property
    def total(self) -> float:
        """Share of zeros among all parameters, biases and statistics included."""
        return _share(self.layers.values())

    def __str__(self) -> str:
        rows = [
            f'{name}: {layer.zeros} of {layer.weights} ({layer.ratio:.2%})'
            for name, layer in self.layers.items()
            if layer.prunable
        ]
        return '\n'.join([*rows, f'prunable weights: {self.prunable:.4%} zeros; all parameters: {self.total:.4%}'])


def _share(layers: Iterable[LayerSparsity]) -> float:
    found = list(layers)
    weights = sum(layer.weights for layer in found)
    return sum(layer.zeros for layer in found) / weights if weights else 0.0


def measure_sparsity(program: Any, scope: Any = None, prunable: Iterable[str] = ()) -> Sparsity:
    """Count zeros in every parameter of a program.

    Args:
        program: a program of either IR.
        scope: its parameters; Paddle's global scope where None.
        prunable: names of the parameters that are pruned.

    Raises:
        GraphError: the scope lacks a parameter.
    """
    where = paddle_compat.global_scope() if scope is None else scope
    names = set(prunable)
    layers = {}
    for var in own_parameters(GraphWrapper(program)):
        values = view_array(where, var.name())
        zeros = int(values.size - np.count_nonzero(as_floats(values)))
        layers[var.name()] = LayerSparsity(int(values.size), zeros, var.name() in names)
    return Sparsity(layers)


def share_of_zeros(program: Any, scope: Any = None, only: Callable[[VarWrapper], bool] | None = None) -> float:
    """Return the share of zeros in the parameters of a program, or in those for which ``only`` holds (0 where none)."""
    graph = GraphWrapper(program)
    chosen = {var.name() for var in own_parameters(graph) if only is None or only(var)}
    return _share(layer for name, layer in measure_sparsity(program, scope).layers.items() if name in chosen)


def sparse_by_layer(program: Any, scope: Any = None) -> dict[str, float]:
    """Return the share of zeros of every parameter."""
    return {name: layer.ratio for name, layer in measure_sparsity(program, scope).layers.items()}


def conv1x1_zeros(program: Any, scope: Any = None) -> float:
    """Return the share of zeros in the filters of 1x1 convolutions."""
    return share_of_zeros(program, scope, is_conv1x1)


def magnitude_at(program: Any, ratio: float, scope: Any = None) -> float:
    """Return the magnitude below which about ``ratio`` of all parameters of a program lie.

    Raises:
        ConfigError: ``ratio`` is outside 0 to 1.
    """
    if not 0 <= ratio <= 1:
        raise ConfigError(f'ratio is a number from 0 to 1, not {ratio!r}')
    where = paddle_compat.global_scope() if scope is None else scope
    names = [var.name() for var in own_parameters(GraphWrapper(program))]
    values = np.concatenate([np.abs(as_floats(view_array(where, name))).reshape(-1) for name in names])
    place = max(0, int(ratio * len(values) - 1))
    return float(np.partition(values, place)[place])
