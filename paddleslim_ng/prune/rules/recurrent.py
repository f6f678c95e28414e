"""Recurrent layers: LSTM, GRU and simple recurrent networks of any depth and direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from paddleslim_ng.core import OpWrapper, VarWrapper
from paddleslim_ng.prune.channels import Analysis, Cut, LabelArray, Mark, Rule
from paddleslim_ng.prune.rules.common import follow_weight, input_of, output_of, set_with_gradient

__all__ = ['RULES']

# Blocks of rows in the weights of a cell: gates and the candidate.
_BLOCKS: Final[Mapping[str, int]] = {'LSTM': 4, 'GRU': 3, 'RNN_TANH': 1, 'RNN_RELU': 1}


def recurrent(analysis: Analysis, op: OpWrapper) -> None:
    """Input features follow the first weights; hidden units leave from every gate, layer and direction at once.

    One tensor holds the initial states of all layers and directions, so they have the same hidden units. A unit whose
    weights and biases are zero stays zero if it starts at zero: its candidate is tanh(0), and gates only scale it.
    """
    x, weights = input_of(op, 'Input'), op.inputs('WeightList')
    cells = len(op.inputs('WeightList')) // 4
    for slot in ('DropoutState', 'Reserve', 'State'):
        for var in op.outputs(slot):
            analysis.auxiliary(var)
    analysis.freeze_axes(op, x, [0], 'the sequence runs over channels')
    if not cells or len(weights) != 4 * cells or not all(var.is_parameter() for var in weights):
        analysis.freeze_inputs(op, 'its weights are not parameters, or it has no biases')
        return
    blocks = _BLOCKS[str(op.attr('mode'))]
    directions = 2 if op.attr('is_bidirec') else 1
    hidden = analysis.parameter_axis(weights[1], 1)
    rows = np.tile(hidden, blocks) if blocks > 1 else hidden
    below = np.tile(hidden, directions) if directions > 1 else hidden
    features = analysis.mark(x, 2)
    for cell in range(cells):
        first = cell < directions
        labels = (features.labels if features is not None else None) if first else below
        _tie_cell(analysis, op, weights[2 * cell : 2 * cell + 2], (rows, hidden), labels, x)
        for bias in weights[2 * (cells + cell) : 2 * (cells + cell) + 2]:
            analysis.adopt(bias, 0, rows)
    zero = _initial_states(analysis, op, hidden)
    batch = {1: analysis.layout(x)[1]} if 1 in analysis.layout(x) else {}
    analysis.set(output_of(op), {**batch, 2: Mark(below, zero)})
    for var in op.outputs('State'):
        analysis.set(var, {**batch, 2: Mark(hidden, zero)})
    analysis.on_cut(op, [hidden], lambda cut: set_with_gradient(analysis, op, 'hidden_size', cut.count(hidden)))
    if features is not None:
        kept = features.labels
        analysis.on_cut(op, [kept], lambda cut: _set_input_size(analysis, op, kept, cut))


def _tie_cell(
    analysis: Analysis,
    op: OpWrapper,
    matrices: list[VarWrapper],
    units: tuple[LabelArray, LabelArray],
    below: LabelArray | None,
    x: VarWrapper,
) -> None:
    """Let the two matrices of a cell follow its units, and the first of them what it reads."""
    rows, hidden = units
    for matrix in matrices:
        analysis.adopt(matrix, 0, rows)
        analysis.out_axes.setdefault(matrix, 0)
    follow_weight(analysis, op, matrices[0], 1, x, 2, below)
    analysis.adopt(matrices[1], 1, hidden)


def _initial_states(analysis: Analysis, op: OpWrapper, hidden: LabelArray) -> bool:
    """Unite the initial states with the hidden units; tell whether they are zero at removed ones."""
    zero = True
    for state in op.inputs('PreState'):
        mark = analysis.mark(state, 2)
        if mark is None:
            analysis.freeze(hidden, op, 'the initial state has a fixed size', state, 2)
        else:
            analysis.unite(mark.labels, hidden)
        zero = zero and mark is not None and mark.zero
    return zero


def _set_input_size(analysis: Analysis, op: OpWrapper, features: LabelArray, cut: Cut) -> None:
    if op.attr('input_size') is not None:
        set_with_gradient(analysis, op, 'input_size', cut.count(features))


def coalesce(analysis: Analysis, op: OpWrapper) -> None:
    """Lay parameters out side by side in memory, as recurrent layers ask for; nothing is computed."""
    for var in op.all_outputs():
        analysis.auxiliary(var)


RULES: Mapping[str, Rule] = {'rnn': recurrent, 'coalesce_tensor': coalesce}
