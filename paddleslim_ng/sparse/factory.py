"""One call for the pruner that a script's options ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddleslim_ng.errors import ConfigError, nearest_names
from paddleslim_ng.sparse.gmp import GMPUnstructuredPruner
from paddleslim_ng.sparse.unstructured_pruner import UnstructuredPruner

__all__ = ['make_unstructured_pruner']

_STRATEGIES = ('base', 'gmp')
# Options of a script, and the arguments that they are.
_ARGUMENTS = {
    'prune_params_type': 'prune_params_type',
    'local_sparsity': 'local_sparsity',
    'sparse_block': 'sparse_block',
    'skip_params_func': 'skip_params_func',
    'layer_ratios': 'layer_ratios',
    'regrowth': 'regrowth',
    'ratio': 'ratio',
}
_BASE_ONLY = {
    'pruning_mode': 'mode',
    'mode': 'mode',
    'threshold': 'threshold',
    'pattern': 'pattern',
    'schedule': 'schedule',
}
_GMP_KEYS = (
    'stable_iterations',
    'pruning_iterations',
    'tunning_iterations',
    'tuning_iterations',
    'resume_iteration',
    'pruning_steps',
    'initial_ratio',
)


def make_unstructured_pruner(
    program: Any, args: Any = None, configs: Mapping[str, Any] | None = None, *, scope: Any = None, place: Any = None
) -> UnstructuredPruner:
    """Make an :class:`UnstructuredPruner`, or a :class:`GMPUnstructuredPruner` where the options ask for it.

    Args:
        program: the program to prune.
        args: options, as a mapping or as what ``argparse`` returns: ``pruning_mode`` (or ``mode``), ``ratio``,
            ``threshold``, ``pruning_strategy`` (``'base'`` or ``'gmp'``), ``prune_params_type``, ``local_sparsity``,
            ``sparse_block``, ... Attributes of a namespace that are not the pruner's are left alone; an unknown key of
            a mapping is an error.
        configs: the keys of :class:`GMPUnstructuredPruner`; given, they ask for it. They may stand in ``args``, too.
        scope: parameters; Paddle's global scope where None.
        place: device of the masks.

    Raises:
        ConfigError: an unknown strategy or key, or an unusable value.
    """
    known = ('pruning_strategy', *_ARGUMENTS, *_BASE_ONLY, *_GMP_KEYS)
    if isinstance(args, Mapping):
        for key in args:
            if key not in known:
                raise ConfigError(f'unknown option {key!r}; known: {", ".join(known)}{nearest_names(str(key), known)}')
    given = (
        dict(args) if isinstance(args, Mapping) else {k: v for k, v in vars(args or _Nothing()).items() if k in known}
    )
    strategy = given.pop('pruning_strategy', None) or ('base' if configs is None else 'gmp')
    if strategy not in _STRATEGIES:
        raise ConfigError(f'pruning_strategy is one of {_STRATEGIES}, not {strategy!r}')
    common = {_ARGUMENTS[key]: value for key, value in given.items() if key in _ARGUMENTS and value is not None}
    common.update(scope=scope, place=place)
    if strategy == 'base':
        own = {_BASE_ONLY[key]: value for key, value in given.items() if key in _BASE_ONLY and value is not None}
        return UnstructuredPruner(program, **common, **own)
    if given.get('pruning_mode', given.get('mode')) == 'threshold':
        raise ConfigError("the strategy 'gmp' raises a ratio; it does not go with a threshold")
    for key in ('pattern', 'schedule'):
        if given.get(key) is not None:
            raise ConfigError(f"the strategy 'gmp' has a schedule of ratios of its own; it does not go with a {key}")
    found = {key: given[key] for key in _GMP_KEYS if given.get(key) is not None}
    return GMPUnstructuredPruner(program, **common, configs={**found, **(configs or {})})


class _Nothing:
    """No options."""
