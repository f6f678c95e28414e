"""How many of the kernels that do a network's work compute in 8-bit integers: in a file for the phone, and here."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.deploy.nb import NbFile
from paddleslim_ng.runtime.latency import feed_process
from paddleslim_ng.runtime.predictor_process import PredictorProcess

__all__ = ['KernelCount', 'count_heavy', 'kernels_in_nb', 'kernels_of_inference']

_CONVOLUTIONS: Final = ('conv2d', 'depthwise_conv2d', 'conv2d_transpose', 'depthwise_conv2d_transpose')
_PRODUCTS: Final = ('fc', 'mul', 'matmul', 'matmul_v2')
_ONEDNN: Final = MappingProxyType(
    {'convolution': 'conv2d', 'deconvolution': 'conv2d_transpose', 'inner_product': 'fc', 'matmul': 'matmul'}
)
_INTEGER_WEIGHTS: Final = re.compile(r'\bwei[_:][su]8\b')
_ELSEWHERE: Final = 'kernels that oneDNN does not have'


@dataclass(frozen=True)
class KernelCount:
    """Convolutions and products of a network, as the kernels that compute them.

    Attributes:
        int8: those that compute in 8-bit integers.
        total: all of them.
        int8_products: products among the former.
        floats: ``{operator: number}`` of the others.
    """

    int8: int
    total: int
    int8_products: int = 0
    floats: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, kernels: Iterable[tuple[str, bool]]) -> KernelCount:
        """Count ``(operator, whether its kernel is of integers)``; other operators do not count."""
        heavy = [(kind, integers) for kind, integers in kernels if kind in _CONVOLUTIONS or kind in _PRODUCTS]
        return cls(
            int8=sum(integers for _, integers in heavy),
            total=len(heavy),
            int8_products=sum(integers for kind, integers in heavy if kind in _PRODUCTS),
            floats=dict(Counter(kind for kind, integers in heavy if not integers)),
        )

    def __str__(self) -> str:
        rest = ', '.join(f'{count} x {kind}' for kind, count in self.floats.items())
        return f'{self.int8} of {self.total} convolutions and products are int8 kernels{f" (not: {rest})" * bool(rest)}'


def count_heavy(program: Any) -> int:
    """Return the number of convolutions and products in a program of either IR."""
    return sum(op.type() in _CONVOLUTIONS or op.type() in _PRODUCTS for op in GraphWrapper(program).ops())


def kernels_in_nb(nb: NbFile) -> KernelCount:
    """Count the kernels that Paddle Lite's converter chose."""
    return KernelCount.of((kernel.op, kernel.precision == 'int8') for kernel in nb.kernels)


def kernels_of_inference(
    program_file: str | os.PathLike[str],
    parameter_file: str | os.PathLike[str],
    feeds: Mapping[str, npt.NDArray[Any]],
    expected: int,
    *,
    precision: str = 'int8',
    timeout: float = 120.0,
) -> KernelCount:
    """Run a model once in Paddle Inference, in a process of its own, and count the kernels that oneDNN says it ran.

    Args:
        program_file: ``.pdmodel`` or ``.json``.
        parameter_file: ``.pdiparams``.
        feeds: an array for every input.
        expected: convolutions and products of the model; what is missing ran elsewhere, in float.
        precision: of the kernels.
        timeout: seconds that loading and running may take, each.

    Raises:
        DeployError: Paddle Inference cannot run the model.
        DataError: an input has no array.
    """
    with PredictorProcess(program_file, parameter_file, precision=precision, timeout=timeout, verbose=True) as process:
        feed_process(process, feeds)
        process.run()
        process.outputs()
        found = KernelCount.of(_executed(process.log()))
    missing = expected - found.total
    if missing <= 0:
        return found
    return KernelCount(found.int8, expected, found.int8_products, {**found.floats, _ELSEWHERE: missing})


def _executed(log: str) -> Iterable[tuple[str, bool]]:
    """Yield the primitives in oneDNN's words: ``onednn_verbose,[v1,primitive,]exec,cpu,KIND,NAME,WAY,TENSORS,...``."""
    for line in log.splitlines():
        fields = line.split(',')
        if not fields[0].endswith('_verbose') or 'exec' not in fields:
            continue
        start = fields.index('exec')
        if len(fields) > start + 5 and fields[start + 2] in _ONEDNN:
            yield _ONEDNN[fields[start + 2]], _INTEGER_WEIGHTS.search(fields[start + 5]) is not None
