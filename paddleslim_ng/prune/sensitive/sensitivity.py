"""How much the metric suffers when channels of single parameters leave: sensitivity analysis."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import paddle

from paddleslim_ng.analysis.fingerprint import fingerprint
from paddleslim_ng.analysis.metric_value import usable_baseline
from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.errors import ConfigError, NotPrunableError
from paddleslim_ng.prune.pruner import Pruner
from paddleslim_ng.prune.sensitive.function_evaluation import Evaluation, FunctionEvaluation
from paddleslim_ng.prune.sensitive.sensitivity_file import Sensitivities, SensitivityFile, Source
from paddleslim_ng.prune.session import PruningSession

if TYPE_CHECKING:
    from paddleslim_ng.prune.evaluation.evaluator import Evaluator

__all__ = ['sensitivity']

_LOG = logging.getLogger(__name__)
_DEFAULT_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def sensitivity(
    program: Any,
    place: Any,
    param_names: Iterable[str],
    eval_func: Callable[..., Any] | None = None,
    sensitivities_file: Source | None = None,
    pruned_ratios: Iterable[float] | None = None,
    eval_args: Sequence[Any] | None = None,
    criterion: Any = 'l1_norm',
    *,
    scope: Any = None,
    evaluator: Evaluator | None = None,
    always_cut: bool = False,
    progress: bool | None = None,
) -> Sensitivities:
    """Measure the loss of a metric when each parameter alone is pruned by each ratio.

    Channels are not cut out for this but zeroed in the scope, which gives the same metric with one compiled program;
    where zeroing and cutting differ the program is really pruned. Either way the scope is bit for bit as before after
    every evaluation, also after an exception or Ctrl-C.

    Args:
        program: evaluation program of either IR.
        place: device of the parameters.
        param_names: names of the parameters to analyse.
        eval_func: ``eval_func(program, *eval_args)`` returns the metric, the larger the better. It is called with
            ``program`` itself, or with a pruned copy where zeroing will not do.
        sensitivities_file: JSON file that keeps the results, replaced atomically after each evaluation. Results it
            holds are not measured again; what was not asked for is kept. It is bound to the program, the values of
            the parameters and the criterion. It cannot know what ``eval_func`` does: start another file when the
            evaluation data change.
        pruned_ratios: shares of the channels to prune, each in (0, 1); default 0.1, 0.2, ..., 0.9.
        eval_args: further positional arguments of ``eval_func``.
        criterion: importance of channels, as in :class:`Pruner`.
        scope: the scope with the parameters, which ``eval_func`` must use; Paddle's global scope where None.
        evaluator: data and metric, instead of ``eval_func``; much faster, see :class:`Evaluator`.
        always_cut: really prune for every evaluation.
        progress: show a bar with the time left; where None, if the standard error is a terminal.

    Returns:
        ``{parameter: {ratio: (baseline - metric) / baseline}}`` for the requested parameters that can be pruned, with
        all ratios known so far, ascending. Parameters that cannot be pruned are logged with the reason and left out.

    Raises:
        ConfigError: an unusable argument or return value, or a training program.
        GraphError: an unknown parameter, or a scope that lacks one.
        NotPrunableError: none of the parameters can be pruned.
        DataError: the baseline is zero, or a metric NaN or infinite.
        CheckpointError: the file belongs to something else, is damaged or cannot be written.

    Example:
        >>> losses = slim.prune.sensitivity(val_program, place, ['conv2_1_sep_weights'], test, 'sens.json', [0.1, 0.2])
    """
    request = _Request.checked(param_names, pruned_ratios)
    scope = scope if scope is not None else paddle.static.global_scope()
    evaluation_id = _check_evaluation(eval_func, evaluator, eval_args)
    _check_program(program, request.parameters)
    session = PruningSession(program, scope, criterion)
    request = request.prunable(session)
    state = SensitivityFile.resume(
        sensitivities_file,
        fingerprint(program, scope) if sensitivities_file is not None else '',
        _criterion_name(criterion),
        evaluation_id,
    )
    todo = [pair for pair in request.pairs() if pair[1] not in state.sensitivities.get(pair[0], {})]
    if todo:
        with ExitStack() as stack:
            stack.callback(state.remove_if_empty)
            if evaluator is not None:
                evaluation: Evaluation = evaluator.start(program, scope, place)
            else:
                evaluation = FunctionEvaluation(program, scope, place, eval_func, eval_args or ())  # type: ignore[arg-type]
            stack.callback(evaluation.close)
            analysis = _Analysis(program, place, criterion, session, evaluation, state, always_cut)
            analysis.run(todo, progress)
    return {name: dict(sorted(state.sensitivities.get(name, {}).items())) for name in request.parameters}


@dataclass(frozen=True)
class _Request:
    """What to measure: parameters and ratios, each once."""

    parameters: tuple[str, ...]
    ratios: tuple[float, ...]

    @classmethod
    def checked(cls, param_names: Iterable[str], pruned_ratios: Iterable[float] | None) -> _Request:
        if isinstance(param_names, str):
            raise ConfigError(f'param_names must be a list of names; did you mean [{param_names!r}]?')
        names = tuple(dict.fromkeys(param_names))
        ratios = tuple(
            dict.fromkeys(float(ratio) for ratio in (_DEFAULT_RATIOS if pruned_ratios is None else pruned_ratios))
        )
        if not names or not ratios:
            raise ConfigError('param_names and pruned_ratios must each hold at least one entry')
        wrong = [ratio for ratio in ratios if not 0 < ratio < 1]
        if wrong:
            raise ConfigError(f'pruned_ratios must lie between 0 and 1, exclusively, unlike {wrong}')
        return cls(names, ratios)

    def prunable(self, session: PruningSession) -> _Request:
        """Leave out the parameters that cannot be pruned, with a warning each."""
        reasons: dict[str, str] = {}
        for name in self.parameters:
            try:
                session.footprint(name, max(self.ratios))
            except NotPrunableError as error:
                reasons[name] = str(error)
                _LOG.warning('left out of the sensitivity analysis: %s: %s', name, error)
        if len(reasons) == len(self.parameters):
            raise NotPrunableError(
                'none of the parameters can be pruned:\n' + '\n'.join(f'{name}: {why}' for name, why in reasons.items())
            )
        return _Request(tuple(name for name in self.parameters if name not in reasons), self.ratios)

    def pairs(self) -> list[tuple[str, float]]:
        return [(name, ratio) for name in self.parameters for ratio in self.ratios]


@dataclass
class _Analysis:
    """The loop over pairs of parameter and ratio, saving after each."""

    program: Any
    place: Any
    criterion: Any
    session: PruningSession
    evaluation: Evaluation
    state: SensitivityFile
    always_cut: bool

    def run(self, pairs: Sequence[tuple[str, float]], progress: bool | None) -> None:
        from tqdm import tqdm

        hide = None if progress is None else not progress
        total = len(pairs) + (self.state.baseline is None)
        with tqdm(total=total, desc='sensitivity', unit='evaluation', disable=hide) as bar:
            if self.state.baseline is None:
                self.state.baseline = usable_baseline(self.evaluation.baseline(), self.evaluation.source)
                self.state.save()
                bar.update()
            for parameter, ratio in pairs:
                bar.set_postfix_str(f'{parameter} {ratio:g}')
                loss = self._loss(parameter, ratio)
                self.state.add(parameter, ratio, loss)
                _LOG.info('%s: without %g of its channels the loss is %.6g', parameter, ratio, loss)
                bar.update()

    def _loss(self, parameter: str, ratio: float) -> float:
        footprint = self.session.footprint(parameter, ratio)
        if not footprint:
            _LOG.info('%s: a ratio of %g removes no channel at all', parameter, ratio)
            return 0.0
        baseline = self.state.baseline or 0.0
        if self.always_cut or not self.session.exact_by_zeroing(parameter):
            metric = self.evaluation.cut(footprint, lambda scope: self._prune(scope, parameter, ratio))
        else:
            metric = self.evaluation.masked(parameter, footprint)
        return (baseline - metric) / abs(baseline)

    def _prune(self, scope: Any, parameter: str, ratio: float) -> Any:
        pruner = Pruner(self.criterion)
        return pruner.prune(self.program, scope, [parameter], [ratio], place=self.place, verify=False)[0]


def _check_evaluation(
    eval_func: Callable[..., Any] | None, evaluator: Evaluator | None, eval_args: Sequence[Any] | None
) -> str:
    """Return what is known of the evaluation, for the file."""
    if (eval_func is None) == (evaluator is None):
        raise ConfigError('give either eval_func or evaluator')
    if evaluator is not None:
        if eval_args is not None:
            raise ConfigError('eval_args belongs to eval_func; an Evaluator takes none')
        return evaluator.identity()
    if not callable(eval_func):
        raise ConfigError(f'eval_func must be a function of the program, not {type(eval_func).__name__}')
    if eval_args is not None and (isinstance(eval_args, str) or not isinstance(eval_args, Sequence)):
        raise ConfigError('eval_args must be a list or tuple of positional arguments')
    return ''


def _check_program(program: Any, parameters: Sequence[str]) -> None:
    graph = GraphWrapper(program)
    for name in parameters:
        graph.var(name)
    training = next((op for op in graph.ops() if op.is_opt_op()), None)
    if training is not None:
        raise ConfigError(
            f'the program updates its parameters ({training.type()}), so that evaluating it would train it; '
            'pass the evaluation program: slim.core.clone_program(program, for_test=True)'
        )
    moving = [op for op in graph.ops() if op.type() == 'batch_norm' and _in_training_mode(op)]
    if moving:
        _LOG.warning(
            '%d batch norms are in training mode: each evaluation moves their statistics, and losses depend on the '
            'batch size; slim.core.clone_program(program, for_test=True) makes an evaluation program',
            len(moving),
        )


def _in_training_mode(op: Any) -> bool:
    return not op.attr('is_test') and not op.attr('use_global_stats')


def _criterion_name(criterion: Any) -> str:
    """Return what tells criteria apart: a name, a function's full name, or what an object says of its settings."""
    if isinstance(criterion, str):
        return criterion
    if hasattr(criterion, '__qualname__'):
        return f'{criterion.__module__}.{criterion.__qualname__}'
    described = repr(criterion)
    return type(criterion).__qualname__ if ' at 0x' in described else described
