"""Weights as the nearest points of codebooks: the fake quantizer, in a program and in numpy."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper, VarWrapper, load_array
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.new_parameters import add_parameter
from paddleslim_ng.errors import ConfigError, DataError, GraphError, nearest_names
from paddleslim_ng.quant.buckets import Buckets
from paddleslim_ng.quant.codebooks import nearest
from paddleslim_ng.quant.uniform_grids import check_bits

__all__ = ['TRAINED', 'CodebookForm']

# What is trained -> (the weights, the points of the codebooks).
TRAINED: Final = {'weights': (True, False), 'clusters': (False, True), 'both': (True, True)}
Floats = npt.NDArray[np.float32]


class CodebookForm:
    """The fake quantizer that takes every element of a weight to the nearest point of its bucket's codebook.

    Weights get the gradient as if nothing was done (straight-through estimator), a point gets the sum of the gradients
    of the elements that it stands for (Han et al., 2016).

    Args:
        codebook: name of the parameter with the points, ``[buckets, points]`` in any order; the program gets it where
            it lacks it, the scope is left alone.
        bits: 2 to 8.
        buckets: of the weight.
        keep_zeros: zero is one more point, which is not trained.
        train: one of :data:`TRAINED`.

    Raises:
        ConfigError: an argument of no use.
    """

    def __init__(
        self, codebook: str, bits: int, buckets: Buckets, *, keep_zeros: bool = False, train: str = 'both'
    ) -> None:
        if train not in TRAINED:
            raise ConfigError(f'train must be one of {list(TRAINED)}, not {train!r}{nearest_names(train, TRAINED)}')
        self.codebook = codebook
        self._points = 2 ** check_bits(bits, 'bits')
        self._buckets = buckets
        self._keep_zeros = keep_zeros
        self._trains_weight, self.learns = TRAINED[train]
        self._places: dict[VarWrapper, tuple[VarWrapper, VarWrapper]] = {}
        self._parts: list[VarWrapper] = []

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the parameter."""
        return self._buckets.count, self._points - self._keep_zeros

    def forward(self, e: Expressions, x: VarWrapper) -> VarWrapper:
        """Build the operators."""
        points = self._declared(e.here.graph)
        if self._keep_zeros:
            points = e.concat([points, e.constant(0.0, [self._buckets.count, 1])], 1)
        given = e.stop(x)
        first = self._first(e)
        order = e.reshape(self._shifted(e, e.argsort(e.stop(points), 1), first), [-1])
        ascending = e.take(e.reshape(points, [-1]), order)
        index = self._index(e, given, e.stop(ascending), first)
        values = e.reshape(e.take(ascending, index), self._buckets.shape)
        if not self._trains_weight or given is x:
            self._places[values] = index, order
            return values
        y = e.add(values, e.subtract(x, given))  # x - x is 0 exactly
        self._places[y] = index, order
        return y

    def backward(self, e: Expressions, x: VarWrapper, y: VarWrapper, gradient: VarWrapper) -> VarWrapper:
        """Return the gradient of the weight, and keep a part of that of the codebook."""
        if self.learns:
            count, points = self._buckets.count, self._points
            index, order = self._places[y]
            sums = e.sum_at(index, e.reshape(gradient, [-1]), count * points)
            part = e.reshape(e.sum_at(order, sums, count * points), [count, points])
            self._parts.append(e.slice(part, 1, 0, points - 1) if self._keep_zeros else part)
        return gradient if self._trains_weight else e.scale(gradient, 0.0)

    def parameter_gradients(self, e: Expressions) -> dict[str, VarWrapper]:
        """Add up the parts of the codebook's gradient; ``e`` is behind all of them."""
        if not self._parts:
            return {}
        total = self._parts[0]
        for part in self._parts[1:]:
            total = e.add(total, part)
        return {self.codebook: total}

    def values(self, array: npt.NDArray[Any], scope: Any = None) -> Floats:
        """Return what the program makes of a weight, with the codebook in a scope.

        Raises:
            GraphError: the scope lacks the codebook, or it has another shape.
            DataError: weight or codebook are not finite.
        """
        index, points = self._numpy_index(array, scope)
        return points.reshape(-1)[index].reshape(array.shape)

    def side_bits(self) -> int:
        """Return the bits of the points."""
        return 32 * math.prod(self.shape)

    def backward_to(self, gradient: npt.NDArray[Any], array: npt.NDArray[Any], scope: Any) -> dict[str, Floats]:
        """Return the gradients of what is trained: ``''`` is the weight, and the codebook has its name."""
        found = {'': gradient} if self._trains_weight else {}
        if self.learns:
            index, points = self._numpy_index(array, scope)
            sums = np.bincount(index, gradient.reshape(-1).astype(np.float64), points.size).reshape(points.shape)
            found[self.codebook] = sums[:, : self.shape[1]].astype(np.float32)
        return found

    def _declared(self, graph: GraphWrapper) -> VarWrapper:
        if graph.has_var(self.codebook):
            return graph.var(self.codebook)
        # No decay draws points to zero.
        own = paddle.regularizer.L2Decay(0.0) if self.learns else None
        return add_parameter(graph, self.codebook, self.shape, 'float32', trainable=self.learns, regularizer=own)

    def _first(self, e: Expressions) -> VarWrapper:
        """Return the place of the first point of each bucket among those of all buckets, ``[buckets, 1]``."""
        size = e.constant(float(self._points), [self._buckets.count, 1])
        return e.cast(e.subtract(e.cumulated(size, 0), size), 'int64')

    def _shifted(self, e: Expressions, place: VarWrapper, first: VarWrapper) -> VarWrapper:
        return place if self._buckets.count == 1 else e.add(place, first)

    def _index(self, e: Expressions, x: VarWrapper, ascending: VarWrapper, first: VarWrapper) -> VarWrapper:
        """Return for every element the place of its point among the ascending ones of all buckets, as a vector."""
        size = self._points
        rows = e.reshape(ascending, [self._buckets.count, size])
        middle = e.scale(e.add(e.slice(rows, 1, 1, size), e.slice(rows, 1, 0, size - 1)), 0.5)
        place = self._shifted(e, e.search(middle, self._buckets.build_rows(e, x)), first)
        return e.reshape(self._buckets.build_from_rows(e, place), [-1])

    def _numpy_index(self, array: npt.NDArray[Any], scope: Any) -> tuple[npt.NDArray[np.int64], Floats]:
        points = load_array(scope, self.codebook).astype(np.float32)
        if points.shape != self.shape:
            raise GraphError(f'the scope has {self.codebook!r} in shape {points.shape}, not {self.shape}')
        if not (np.isfinite(points).all() and np.isfinite(array).all()):
            raise DataError(f'{self.codebook!r} or the weight that it stands for has NaN or infinity')
        if self._keep_zeros:
            points = np.concatenate([points, np.zeros((len(points), 1), np.float32)], 1)
        order = np.argsort(points, 1)
        rows = self._buckets.rows(array.astype(np.float32))
        places = [
            o[nearest(row, book[o])] + self._points * n for n, (row, book, o) in enumerate(zip(rows, points, order))
        ]
        return self._buckets.from_rows(np.stack(places)).reshape(-1), points
