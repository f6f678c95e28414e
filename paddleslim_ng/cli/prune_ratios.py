"""From the arguments of ``paddleslim-ng prune`` to a ratio for each parameter."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from paddleslim_ng.errors import ConfigError, GraphError

if TYPE_CHECKING:
    from paddleslim_ng.prune import PruningSession

__all__ = ['Decision', 'check_amount', 'choose_parameters', 'decide_ratios']

_log = logging.getLogger('paddleslim_ng')
_NEAR = 0.02
Sensitivities = Mapping[str, Mapping[float, float]]
Shapes = Mapping[str, Sequence[int]]


class Decision(NamedTuple):
    """What is to leave.

    Attributes:
        ratios: share of the channels, by parameter.
        notes: what to know about the decision.
    """

    ratios: dict[str, float]
    notes: list[str]


def check_amount(arguments: argparse.Namespace) -> None:
    """Refuse arguments that do not go together, before a model is read.

    Raises:
        ConfigError: which, and why.
    """
    shares = {'--ratio': arguments.ratio, '--flops': arguments.flops, '--max-ratio': arguments.max_ratio}
    for option, share in [*shares.items(), *(('--ratios', share) for share in arguments.ratios or ())]:
        if share is not None and not 0 < share < 1:
            raise ConfigError(f'{option} takes shares between 0 and 1, exclusively, not {share}')
    if arguments.loss is not None and not 0 <= arguments.loss < 1:
        raise ConfigError(f'--loss is a share from 0, below 1, not {arguments.loss}')
    if arguments.ratios is not None and len(arguments.ratios) != len(arguments.params or ()):
        raise ConfigError(
            f'{len(arguments.ratios)} --ratios, but {len(arguments.params or ())} --params: give one for each'
        )
    if arguments.loss is not None and not arguments.sensitivities:
        raise ConfigError('--loss needs --sensitivities FILE; `paddleslim-ng sensitivity` measures them')
    if arguments.sensitivities and arguments.loss is None and arguments.flops is None:
        raise ConfigError('--sensitivities belongs to --loss or --flops')
    if arguments.round_to < 1:
        raise ConfigError(f'--round-to must be at least 1, not {arguments.round_to}')


def choose_parameters(session: PruningSession, patterns: Sequence[str] | None) -> list[str]:
    """Return the parameters that can lose channels and that one of the patterns matches; all where None.

    Raises:
        ConfigError: a pattern is malformed, or matches none.
    """
    from paddleslim_ng.compress.strategies.parameter_names import NamePattern

    able = [var.name() for var in session.analysis.out_axes if session.explain(var.name()).free > 1]
    what = 'parameter whose channels can be removed'
    wanted = [name for text in patterns or ['.*'] for name in NamePattern(text).choose(able, what)]
    return list(dict.fromkeys(wanted))


def decide_ratios(
    arguments: argparse.Namespace, session: PruningSession, sensitivities: Sensitivities, shapes: Shapes
) -> Decision:
    """Return a ratio for each parameter that is to lose channels; nothing is cut.

    Args:
        arguments: those of the command.
        session: analysis of the model.
        sensitivities: what was measured, empty without ``--sensitivities``.
        shapes: ``{input: whole shape}`` where the model leaves sizes open.

    Raises:
        ConfigError: the arguments do not fit the model, or leave nothing to remove.
        GraphError: sensitivities of parameters that the model does not have.
    """
    if arguments.ratio is not None:
        return Decision(dict.fromkeys(choose_parameters(session, arguments.params), arguments.ratio), [])
    if arguments.ratios is not None:
        return Decision(_listed(arguments, session), [])
    names = choose_parameters(session, arguments.params)
    curves = _curves_of(session, names, sensitivities) if sensitivities else {}
    return (
        _by_loss(arguments, curves)
        if arguments.loss is not None
        else _by_flops(arguments, session, curves or {name: {0.5: 0.5} for name in names}, shapes)
    )


def _listed(arguments: argparse.Namespace, session: PruningSession) -> dict[str, float]:
    ratios: dict[str, float] = {}
    for pattern, share in zip(arguments.params, arguments.ratios):
        for name in choose_parameters(session, [pattern]):
            if ratios.setdefault(name, share) != share:
                raise ConfigError(f'two entries of --params name {name!r}, with different --ratios')
    return ratios


def _curves_of(
    session: PruningSession, names: Sequence[str], sensitivities: Sensitivities
) -> dict[str, Mapping[float, float]]:
    """Return the curves of the parameters that may lose channels."""
    strangers = [name for name in sensitivities if not session.graph.has_var(name)]
    if strangers:
        raise GraphError(f'--sensitivities are of another model: it has no {strangers[:8]}')
    curves = {name: sensitivities[name] for name in names if sensitivities.get(name)}
    if not curves:
        raise ConfigError(f'--sensitivities hold none of {list(names)[:8]}, but {list(sensitivities)[:8]}')
    return curves


def _by_loss(arguments: argparse.Namespace, curves: Mapping[str, Mapping[float, float]]) -> Decision:
    from paddleslim_ng.prune import get_ratios_by_loss

    ratios = get_ratios_by_loss(curves, arguments.loss, monotone=True)
    if not ratios:
        raise ConfigError(f'every layer loses more than --loss {arguments.loss} at the smallest ratio measured')
    return Decision(ratios, [f'{name} stays whole: it loses more' for name in curves if name not in ratios])


def _by_flops(
    arguments: argparse.Namespace,
    session: PruningSession,
    curves: Mapping[str, Mapping[float, float]],
    shapes: Shapes,
) -> Decision:
    """Find the ratios at one loss of all; without sensitivities, the loss of a layer is the share that leaves."""
    from paddleslim_ng.compress.strategies.loss_curves import LossCurve, find_ratios
    from paddleslim_ng.prune.costs import FlopsAfterCut

    cost = FlopsAfterCut(session.analysis, shapes)
    names = list(curves)
    before = cost(session.decide(names, [0.0] * len(names)).cut)
    most = dict.fromkeys(names, arguments.max_ratio)
    losses = {name: LossCurve(curve) for name, curve in curves.items()}
    found = find_ratios(session, losses, most, cost, before * (1 - arguments.flops))
    removed = 1 - found.left / before
    if not removed:
        raise ConfigError(
            f'--flops {arguments.flops} cannot be approached: whole channels in multiples of --round-to '
            f'{arguments.round_to} remove nothing or more than twice as much; take a smaller --round-to'
        )
    if abs(removed - arguments.flops) <= _NEAR:
        return Decision(found.ratios, [])
    note = f'{removed:.1%} of the FLOPs leave, the nearest to {arguments.flops:.1%} that can be reached'
    _log.warning('%s', note)
    return Decision(found.ratios, [note])
