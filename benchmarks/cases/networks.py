"""Networks under measurement, built by the same code in every environment, and ways to prune them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from harness import PADDLESLIM

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.models.classification import Classifier, build_classifier
from paddleslim_ng.models.layers import conv_bn, global_average, linear
from paddleslim_ng.models.network import Network

WIDTH = 16


class Residual(Network):
    """A stack of narrow residual blocks (two 3x3 convolutions each) on one resolution.

    Args:
        blocks: how many.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks

    def _build(self, image: Any, class_dim: int) -> Any:
        y = conv_bn(image, WIDTH, 3, name='stem', act='relu')
        for index in range(self.blocks):
            branch = conv_bn(y, WIDTH, 3, name=f'block{index}_a', act='relu')
            branch = conv_bn(branch, WIDTH, 3, name=f'block{index}_b')
            y = paddle.nn.functional.relu(y + branch)
        return linear(global_average(y), class_dim, weight='fc_weights', bias='fc_offset')


def residual(blocks: int) -> Classifier:
    """Build the residual stack with training and evaluation programs."""
    return build_classifier(Residual(blocks), [3, 16, 16], 10, scope=paddle.static.Scope())


def residual_parameters(blocks: int, stream: bool = False) -> list[str]:
    """Return the first convolution of every block and, with ``stream``, the stem, which takes all sums along."""
    return [*(['stem_weights'] if stream else []), *(f'block{index}_a_weights' for index in range(blocks))]


def fresh_scope(classifier: Classifier) -> Any:
    """Return a new scope with initial parameters and accumulators."""
    scope = paddle.static.Scope()
    classifier.exe.run(classifier.startup_program, scope=scope)
    return scope


def prune(side: str, program: Any, scope: Any, names: Sequence[str], ratio: float, verify: bool = False) -> Any:
    """Prune with the side's Pruner and return the pruned program."""
    ratios = [ratio] * len(names)
    if side == PADDLESLIM:
        from paddleslim.prune import Pruner as TheirPruner

        return TheirPruner('l1_norm').prune(program, scope, list(names), ratios, paddle.CPUPlace())[0]
    from paddleslim_ng.prune.pruner import Pruner

    return Pruner('l1_norm').prune(program, scope, names, ratios, paddle.CPUPlace(), verify=verify)[0]


def sizes(program: Any, names: Sequence[str]) -> list[int]:
    """Return the number of output channels of some convolutions, to see that all sides did the same work."""
    graph = GraphWrapper(program)
    return [graph.var(name).shape()[0] for name in names]


def fill(program: Any, scope: Any, seed: int = 0) -> None:
    """Give parameters the same values in every environment: He initialization, batch norms that pass on what comes."""
    from paddleslim_ng.core.parameters import load_array, store_array

    generator = np.random.default_rng(seed)
    for var in sorted(GraphWrapper(program).all_parameters(), key=lambda var: var.name()):
        shape = load_array(scope, var.name()).shape
        if len(shape) > 1:
            fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
            value = generator.normal(0.0, np.sqrt(2.0 / fan_in), shape)
            store_array(scope, var.name(), value.astype(np.float32))
