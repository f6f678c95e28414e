"""Pruning of single weights while a static program trains, under PaddleSlim's names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paddleslim_ng.core import GraphWrapper, has_array, paddle_compat, shape_of, view_array
from paddleslim_ng.core.gradients import last_writer, master_of
from paddleslim_ng.errors import ConfigError, GraphError
from paddleslim_ng.sparse import statistics
from paddleslim_ng.sparse.backup import Backup
from paddleslim_ng.sparse.chosen_parameters import choose_parameters
from paddleslim_ng.sparse.mask_state import load_state, pack_state
from paddleslim_ng.sparse.masks import (
    mask_name,
    mask_program,
    masked_already,
    read_mask,
    write_mask,
    zero_out,
)
from paddleslim_ng.sparse.options import PARAMS_TYPES, LayerRatios, Options, check_ratio
from paddleslim_ng.sparse.prunable import SkipParams, conv1x1_skip_params, get_skip_params
from paddleslim_ng.sparse.ranking import WHOLE, Weights, find_cuts, keep, keep_pattern
from paddleslim_ng.sparse.revival import RevivalWatch
from paddleslim_ng.sparse.schedule import Schedule
from paddleslim_ng.sparse.scores import as_floats
from paddleslim_ng.sparse.selection import Cut

__all__ = ['UnstructuredPruner']

_LOG = logging.getLogger('paddleslim_ng')


class UnstructuredPruner:
    """Zeroes the weights of least magnitude while a program trains, and keeps them at zero.

    The program is edited in place: gradients are multiplied by masks, and parameters once more right after their
    update, so that pruned weights are exactly zero after every single step, in every save and every clone. May be built
    before or after ``minimize``, and before the startup program has run.

    Args:
        program: a training program of either IR, or one without optimizer.
        mode: ``'ratio'``, or ``'threshold'``: everything below a magnitude leaves, at every step.
        ratio: share of the prunable weights to drop; exactly the nearest whole number of weights leaves.
        threshold: that magnitude.
        scope: parameters; Paddle's global scope where None.
        place: device of the masks; that of the parameters where None.
        prune_params_type: ``'conv1x1_only'``, or None.
        skip_params_func: gives the names of parameters that are not pruned, for a program; where None, those that
            normalization reads and those of one axis. Goes before ``prune_params_type``. A merged teacher is never
            pruned, nor are adapters in distillation losses.
        local_sparsity: every parameter reaches the ratio by itself.
        sparse_block: rows and columns, over the first two axes, of blocks that stay or leave whole; ranked by their
            mean magnitude.
        pattern: N:M such as ``'2:4'``: at most N weights of every M along the input channels stay; ``ratio`` is then
            1 - N/M.
        layer_ratios: ``'uniform'`` or ``'heuristic'`` (larger layers lose more), with an exact total; or
            ``{parameter: ratio}``, with ``ratio`` for the others.
        schedule: the ratio over the course of training; ``ratio`` at once where None.
        regrowth: keep the value of what leaves aside, and let it come back when masks are made anew (PocketFlow's
            WeightSparse); costs a copy of the weights.

    Attributes:
        masks: ``{parameter: name of its mask in the scope}``.
        ratio: the ratio in force. Without a schedule it may be set; the next :meth:`step` follows.
        threshold: the magnitude in force; with one per parameter, see ``thresholds``.
        thresholds: ``{parameter: magnitude}`` where every parameter is ranked by itself.
        iteration: number of steps done.

    Raises:
        ConfigError: an argument is unusable, or nothing is left to prune.
        GraphError: the program is none of Paddle's, or the name of a mask is taken.

    Example:
        >>> pruner = slim.prune.UnstructuredPruner(program, mode='ratio', ratio=0.75)
        >>> exe.run(startup)
        >>> for feed in batches:
        ...     exe.run(program, feed=feed)
        ...     pruner.step()
    """

    def __init__(
        self,
        program: Any,
        mode: str = 'ratio',
        ratio: float = 0.55,
        threshold: float = 1e-2,
        scope: Any = None,
        place: Any = None,
        prune_params_type: str | None = None,
        skip_params_func: SkipParams | None = None,
        local_sparsity: bool = False,
        sparse_block: Sequence[int] = (1, 1),
        *,
        pattern: str | None = None,
        layer_ratios: LayerRatios = None,
        schedule: Schedule | None = None,
        regrowth: bool = False,
    ) -> None:
        self.options = Options.of(mode, local_sparsity, sparse_block, pattern, layer_ratios, regrowth)
        if prune_params_type not in PARAMS_TYPES:
            raise ConfigError(f'prune_params_type is one of {PARAMS_TYPES}, not {prune_params_type!r}')
        if not threshold >= 0:
            raise ConfigError(f'threshold is a magnitude, not {threshold!r}')
        found = self.options.pattern
        self.target_ratio = check_ratio(ratio) if found is None else 1 - found.kept / found.of
        self.schedule = schedule
        self.ratio = self.target_ratio if schedule is None else 0.0
        self.threshold = float(threshold)
        self.thresholds: dict[str, float] = {}
        self.iteration = 0
        self.scope = paddle_compat.global_scope() if scope is None else scope
        self.place = place
        self.program = program
        self._backup = Backup() if regrowth else None
        self._ties: dict[str, int] = {}
        self._applied: float | None = None
        default = conv1x1_skip_params if prune_params_type == 'conv1x1_only' else get_skip_params
        self._shapes, self._axes, self.skip_params = choose_parameters(
            program, skip_params_func or default, self.options
        )
        self.masks = {name: mask_name(name) for name in self._shapes}
        self._revival = RevivalWatch(self.scope, self._shapes)
        brought = self._brought_masks()
        self._attach()
        for name in self.masks:
            if name not in brought:
                write_mask(self.scope, name, np.ones(self._shapes[name], np.uint8), self.place)

    def _attach(self) -> None:
        """Put masks into the program, where it updates parameters and does not mask them yet."""
        graph = GraphWrapper(self.program)
        updated = self._updates(graph)
        fresh = [name for name in self.masks if not masked_already(graph, graph.var(name))]
        if fresh and updated:
            raws, names = [graph.var(name).raw for name in fresh], [self.masks[name] for name in fresh]
            self.mask_parameters(raws, names, self.program)
            graph = GraphWrapper(self.program)
        masters = {name: master_of(graph, graph.var(name)) for name in self.masks}
        self._copies = {name: [master.name()] for name, master in masters.items() if master is not None}
        self._attached = updated

    def _updates(self, graph: GraphWrapper) -> bool:
        """Tell whether the program updates prunable parameters; state of its own it may update before ``minimize``."""
        updating = any(op.is_opt_op() for op in graph.ops())
        return updating and any(last_writer(graph, graph.var(name)) is not None for name in self.masks)

    def _brought_masks(self) -> set[str]:
        """Return the parameters whose masks the program and the scope bring with them."""
        graph = GraphWrapper(self.program)
        brought = {name for name in self.masks if masked_already(graph, graph.var(name))}
        return {
            name
            for name in brought
            if has_array(self.scope, self.masks[name]) and read_mask(self.scope, name).shape == self._shapes[name]
        }

    def mask_parameters(self, parameters: Sequence[Any], masks: Sequence[str], program: Any) -> None:
        """Put the masks into a program; override to let them act elsewhere.

        Args:
            parameters: Variables or Values of the parameters to mask.
            masks: names of their masks, which are in the scope and not yet in the program.
            program: the program to edit.
        """
        mask_program(program, parameters, masks)

    def step(self) -> None:
        """Count one training step, and make new masks where the ratio, threshold or schedule asks for them.

        Where the program that trains is another one than that of the pruner, weights that have come back are zeroed
        again here, with a warning.

        Raises:
            GraphError: the scope lacks a parameter, or holds it in another shape.
        """
        if not self._attached and self._updates(GraphWrapper(self.program)):
            self._attach()
        if self._applied is not None and self._revival.found():
            self.update_params()
        if self.schedule is not None:
            self.ratio = self.schedule.ratio_at(self.iteration, self.target_ratio)
        if self._is_due():
            self._renew()
        self.iteration += 1

    def _is_due(self) -> bool:
        """Tell whether new masks may differ from the present ones."""
        own_rule = type(self).update_threshold is not UnstructuredPruner.update_threshold
        if own_rule or self.options.mode == 'threshold' or self._applied != self.ratio:
            return True
        return self.options.regrowth and self.schedule is not None and self.schedule.renews_at(self.iteration)

    def _renew(self) -> None:
        self._check_scope()
        if self._backup is not None:
            self._backup.save(self.scope, self.masks, self._copies)
        if self.options.mode == 'ratio':
            self._ties = {}
            self.update_threshold()
        self._update_masks()
        self._applied = self.ratio

    def _check_scope(self) -> None:
        for name, shape in self._shapes.items():
            for item in (name, self.masks[name]):
                if shape_of(self.scope, item) != shape:
                    raise GraphError(
                        f'{item!r} has the shape {shape_of(self.scope, item)} in the scope and should have {shape}: '
                        'make a new pruner for a program whose parameters were cut'
                    )

    def update_threshold(self) -> None:
        """Set ``threshold`` (or ``thresholds``) for the ratio in force; override to define a rule of your own.

        Weights of smaller magnitude leave, and with this rule as many of equal magnitude as the ratio lacks. With
        ``sparse_block``, magnitudes are the means of blocks. A rule of your own runs at every :meth:`step`.
        """
        if self.options.pattern is not None:
            return
        cuts = find_cuts(self._weights(), self.options, self.ratio)
        self._ties = {name: cut.ties for name, cut in cuts.items()}
        if WHOLE in cuts:
            self.threshold = cuts[WHOLE].value
        else:
            self.thresholds = {name: cut.value for name, cut in cuts.items()}

    def _weights(self) -> Weights:
        if self._backup is not None:
            return Weights({name: self._backup[name] for name in self.masks}, {})
        values = {name: view_array(self.scope, name) for name in self.masks}
        return Weights(values, {name: read_mask(self.scope, name) for name in self.masks})

    def _update_masks(self) -> None:
        """Make masks by the thresholds, and apply them to the weights in the scope."""
        weights = self._weights()
        shared = self._ties.get(WHOLE, 0)
        for name in self.masks:
            if self.options.pattern is not None:
                if self.ratio < self.target_ratio:
                    continue
                kept = keep_pattern(weights, name, self.options.pattern, self._axes[name])
            else:
                cut = Cut(self.thresholds.get(name, self.threshold), self._ties.get(name, shared))
                kept, used = keep(weights, name, cut, self.options)
                shared -= used
            self._put(name, kept)

    def _put(self, name: str, kept: npt.NDArray[np.bool_]) -> None:
        """Write one mask and its weights, where they change."""
        old = read_mask(self.scope, name)
        mask = kept.astype(np.uint8)
        if self._backup is None:
            mask &= old
        if np.array_equal(mask, old):
            return
        if not mask.any():
            _LOG.warning('nothing is left of %r: skip it, limit its ratio by layer_ratios, or lower the ratio', name)
        write_mask(self.scope, name, mask, self.place)
        copies = self._copies.get(name, [])
        if self._backup is None:
            zero_out(self.scope, name, mask, self.place, copies)
        else:
            self._backup.restore(self.scope, name, mask, self.place, copies)

    def update_params(self) -> None:
        """Multiply the parameters in the scope by their masks.

        Needed only where another program than the pruner's trains them: the pruner's own keeps the zeros itself.
        """
        for name in self.masks:
            if has_array(self.scope, name):
                zero_out(self.scope, name, read_mask(self.scope, name), self.place, self._copies.get(name, []))

    def set_static_masks(self) -> None:
        """Take the present zeros as masks, to fine-tune a sparse network without pruning it further.

        Train without calling :meth:`step` afterwards; zeros stay, and nothing else leaves.

        Raises:
            GraphError: the scope lacks a parameter, or holds it in another shape.
        """
        self._check_scope()
        for name in self.masks:
            write_mask(self.scope, name, as_floats(view_array(self.scope, name)) != 0, self.place)
        if self._backup is not None:
            self._backup.clear()

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything that a resumed run needs besides parameters and optimizer: arrays, ready for ``np.savez``.

        Masks take one bit per weight; the schedule's position is the iteration.
        """
        return pack_state(self)

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue where :meth:`state_dict` was taken; load parameters and optimizer state, too, before or after.

        Raises:
            CheckpointError: the state is incomplete, or belongs to other parameters; nothing is changed then.
        """
        load_state(self, state)

    def sparsity(self) -> statistics.Sparsity:
        """Count zeros: over the prunable weights, over all parameters, and layer by layer."""
        return statistics.measure_sparsity(self.program, self.scope, self.masks)

    def summarize_weights(self, program: Any, ratio: float = 0.1) -> float:
        """Return the magnitude below which about ``ratio`` of all parameters lie, to choose a threshold by."""
        return statistics.magnitude_at(program, ratio, self.scope)

    def sparse_by_layer(self, program: Any) -> dict[str, float]:
        """Return the share of zeros of every parameter of a program."""
        return statistics.sparse_by_layer(program, self.scope)

    @staticmethod
    def total_sparse(program: Any, scope: Any = None) -> float:
        """Return the share of zeros among all parameters of a program, biases and statistics included.

        Args:
            program: a program of either IR.
            scope: its parameters; Paddle's global scope where None.
        """
        return statistics.share_of_zeros(program, scope)

    @staticmethod
    def total_sparse_conv1x1(program: Any, scope: Any = None) -> float:
        """Return the share of zeros in the filters of the 1x1 convolutions of a program; 0 where it has none."""
        return statistics.conv1x1_zeros(program, scope)
