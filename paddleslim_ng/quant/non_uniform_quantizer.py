"""Weights on codebooks of 4 to 256 points, trained through (PocketFlow's NonUniformQuantization)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper, has_array, shape_of, store_array
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.errors import ConfigError, GraphError, nearest_names
from paddleslim_ng.quant.buckets import Buckets
from paddleslim_ng.quant.codebook_forms import TRAINED, CodebookForm
from paddleslim_ng.quant.codebooks import STARTS, start_codebook
from paddleslim_ng.quant.low_bit import LowBitProgram, WeightForm, apply_low_bit
from paddleslim_ng.quant.low_bit_layers import LowBitSettings
from paddleslim_ng.quant.scale_optimizer import checked_optimizer, default_optimizer, optimize_scales

__all__ = ['NonUniformQuantizer']


class NonUniformQuantizer:
    """Quantizes weights to the nearest of ``2**bits`` points that a bucket may have anywhere.

    The points of a weight are the parameter ``<weight>.codebook``, one row for each bucket. They are there to make
    weights small; no runtime computes faster with them.

    Args:
        weight_bits: 2 to 8, or by the name of each weight that is quantized.
        init: where the points start: ``'kmeans'``, ``'quantile'`` or ``'uniform'``; see
            :func:`~paddleslim_ng.quant.codebooks.start_codebook`.
        train: ``'weights'`` (the points stay), ``'clusters'`` (the weights stay; each keeps to the point that is
            nearest) or ``'both'``.
        activation_bits: 2 to 8 quantizes what activation functions make, on a uniform grid; 32 does not.
        bucket: what has a codebook of its own: None, the whole weight; ``'channel'``, each output channel;
            ``'split'``, every ``bucket_size`` elements.
        bucket_size: elements of a bucket.
        quantize_all_layers: quantize the first and the last layer, too.
        keep_zeros: whether one of the points is zero and stays it, so that zeros stay zero; see
            :class:`~paddleslim_ng.quant.UniformQuantizer`.
        optimizer_func: returns the optimizer, with a constant learning rate, of the points of a program that has its
            optimizer already; by default Adam with a learning rate of 0.001. Before ``minimize`` they are trained like
            all parameters.
        quantizable_op_type: types of operators; see :func:`~paddleslim_ng.quant.find_targets` for this and the next.
        skip_tensor_list: operators that read one of these tensors stay in float.
        not_quant_pattern: operators with such a name stay in float.

    Raises:
        ConfigError: a value out of range.

    Example:
        >>> done = slim.quant.NonUniformQuantizer(weight_bits=2, train='both').apply(program, scope)
        >>> train(program)
        >>> print(done.finish(scope))
    """

    def __init__(
        self,
        weight_bits: int | Mapping[str, int] = 4,
        init: str = 'kmeans',
        train: str = 'both',
        activation_bits: int = 32,
        bucket: str | None = None,
        bucket_size: int = 256,
        quantize_all_layers: bool = False,
        *,
        keep_zeros: bool | None = None,
        optimizer_func: Callable[[], Any] | None = None,
        quantizable_op_type: Collection[str] | None = None,
        skip_tensor_list: Sequence[str] = (),
        not_quant_pattern: Sequence[str] = ('skip_quant',),
    ) -> None:
        for what, value, known in (('init', init, STARTS), ('train', train, TRAINED)):
            if value not in known:
                raise ConfigError(f'{what} must be one of {list(known)}, not {value!r}{nearest_names(value, known)}')
        self.settings = LowBitSettings(
            weight_bits,
            activation_bits,
            bucket,
            bucket_size,
            quantize_all_layers,
            keep_zeros,
            quantizable_op_type,
            skip_tensor_list,
            not_quant_pattern,
        )
        self._init, self._train, self._optimizer_func = init, train, optimizer_func

    def apply(self, program: Any, scope: Any = None, place: Any = None, *, restart: bool = False) -> LowBitProgram:
        """Insert the quantizers, and put the codebooks into the scope.

        Codebooks that the scope has, as training of another program left them, are taken over: an evaluation program
        reads what the training program learned.

        Args:
            program: a training or evaluation program of either IR, or a GraphWrapper, before or after ``minimize``;
                changed in place. Clones of it are quantized as well.
            scope: holds the weights; Paddle's global scope where None.
            place: device of the codebooks.
            restart: start from new codebooks, whatever the scope has.

        Returns:
            What is quantized, the storage it needs, and ``finish``.

        Raises:
            GraphError: the program is quantized already, a gradient operator is not found, the scope lacks a weight, or
                it has a codebook of another number of points.
            ConfigError: nothing is left to quantize, ``weight_bits`` does not name exactly what is, or
                ``optimizer_func`` returns no such optimizer.
            DataError: a weight is not finite.
        """
        found = scope if scope is not None else paddle.static.global_scope()
        optimizer = checked_optimizer((self._optimizer_func or default_optimizer)())
        forms: list[CodebookForm] = []
        starts: dict[str, npt.NDArray[Any]] = {}
        before = GraphWrapper(program)

        def form_of(name: str, array: npt.NDArray[Any], bits: int, buckets: Buckets, *, keep_zeros: bool) -> WeightForm:
            form = CodebookForm(f'{name}.codebook', bits, buckets, keep_zeros=keep_zeros, train=self._train)
            if before.has_var(form.codebook):
                raise GraphError(f'the program has a variable {form.codebook!r} already')
            forms.append(form)
            if restart or not has_array(found, form.codebook):
                starts[form.codebook] = start_codebook(buckets.rows(array), bits, self._init, keep_zeros=keep_zeros)
            elif shape_of(found, form.codebook) != form.shape:
                raise GraphError(
                    f'the scope has {form.codebook!r} in shape {shape_of(found, form.codebook)}, not {form.shape}: '
                    'give restart=True to start from new codebooks'
                )
            return form

        graph, done = apply_low_bit(before, found, self.settings, form_of)
        starts.update(_train_points(graph, forms, optimizer, place))
        for name, array in starts.items():
            store_array(found, name, array, place)
        return done


def _train_points(graph: GraphWrapper, forms: list[CodebookForm], optimizer: Any, place: Any) -> dict[str, Any]:
    """Give the codebooks of a program that has its optimizer already an optimizer of their own."""
    e = Expressions(Insertion(graph, role='backward'))
    gradients = {name: gradient for form in forms for name, gradient in form.parameter_gradients(e).items()}
    if not gradients or not any(op.is_opt_op() for op in graph.ops()):
        return {}
    return optimize_scales(graph, gradients, lambda: optimizer, place)
