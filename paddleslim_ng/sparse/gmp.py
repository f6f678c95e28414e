"""Gradual magnitude pruning under PaddleSlim's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paddleslim_ng.errors import ConfigError
from paddleslim_ng.sparse.options import LayerRatios
from paddleslim_ng.sparse.prunable import SkipParams
from paddleslim_ng.sparse.schedule import CubicSteps
from paddleslim_ng.sparse.unstructured_pruner import UnstructuredPruner

__all__ = ['GMPUnstructuredPruner']


class GMPUnstructuredPruner(UnstructuredPruner):
    """Raises the ratio in cubic steps while the program trains (Zhu and Gupta, 2017).

    Args:
        program: see :class:`UnstructuredPruner`, as all others but ``configs``.
        ratio: ratio to reach.
        scope: parameters.
        place: device of the masks.
        prune_params_type: ``'conv1x1_only'``, or None.
        skip_params_func: names of parameters that are not pruned.
        local_sparsity: every parameter reaches the ratio by itself.
        sparse_block: rows and columns of blocks.
        configs: ``stable_iterations``, ``pruning_iterations``, ``tunning_iterations`` (or ``tuning_iterations``),
            ``pruning_steps``, ``initial_ratio``, and ``resume_iteration``, the number of steps done before; see
            :class:`paddleslim_ng.sparse.CubicSteps`.
        layer_ratios: a protocol, or ratios by parameter.
        regrowth: let weights come back when the ratio rises.

    Raises:
        ConfigError: an argument or a key of ``configs`` is unusable.

    Example:
        >>> configs = {
        ...     'stable_iterations': 0,
        ...     'pruning_iterations': 1000,
        ...     'tunning_iterations': 500,
        ...     'resume_iteration': 0,
        ...     'pruning_steps': 20,
        ...     'initial_ratio': 0.15,
        ... }
        >>> pruner = slim.prune.GMPUnstructuredPruner(program, ratio=0.75, configs=configs)
    """

    def __init__(
        self,
        program: Any,
        ratio: float = 0.55,
        scope: Any = None,
        place: Any = None,
        prune_params_type: str | None = None,
        skip_params_func: SkipParams | None = None,
        local_sparsity: bool = False,
        sparse_block: Sequence[int] = (1, 1),
        configs: Mapping[str, Any] | None = None,
        *,
        layer_ratios: LayerRatios = None,
        regrowth: bool = False,
    ) -> None:
        if configs is None:
            raise ConfigError('GMPUnstructuredPruner needs configs, such as stable_iterations and pruning_steps')
        done = configs.get('resume_iteration', 0)
        if isinstance(done, bool) or not isinstance(done, int) or done < 0:
            raise ConfigError(f'resume_iteration is a number of iterations, not {done!r}')
        self.gmp = CubicSteps.from_configs(configs)
        super().__init__(
            program,
            'ratio',
            ratio,
            0.0,
            scope,
            place,
            prune_params_type,
            skip_params_func,
            local_sparsity,
            sparse_block,
            layer_ratios=layer_ratios,
            schedule=self.gmp,
            regrowth=regrowth,
        )
        self.iteration = done
        self.ratio = self.gmp.ratio_at(done - 1, self.target_ratio) if done else 0.0

    @property
    def cur_iteration(self) -> int:
        """Number of steps done."""
        return self.iteration
