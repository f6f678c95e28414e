"""The table of operator rules: how each canonical operator carries channel labels from its inputs to its outputs.

A rule is a function ``rule(analysis, op)``. It gives the outputs their labels, lets parameters adopt labels, unites
labels that must leave together, freezes labels that cannot leave, and registers the edits that the operator needs once
channels have gone. An operator without a rule freezes whatever it reads.
"""

from __future__ import annotations

from collections.abc import Mapping

from paddleslim_ng.prune.channels import Rule
from paddleslim_ng.prune.rules import (
    convolution,
    einsum,
    elementwise,
    joining,
    linear,
    normalization,
    picking,
    recurrent,
    reduction,
    repeating,
    reshaping,
    sizes,
    spatial,
)

__all__ = ['RULES']

RULES: Mapping[str, Rule] = {
    **convolution.RULES,
    **einsum.RULES,
    **elementwise.RULES,
    **joining.RULES,
    **linear.RULES,
    **normalization.RULES,
    **picking.RULES,
    **recurrent.RULES,
    **reduction.RULES,
    **repeating.RULES,
    **reshaping.RULES,
    **sizes.RULES,
    **spatial.RULES,
}
