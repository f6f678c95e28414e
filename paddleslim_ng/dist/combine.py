"""One loss of several, with weights that may change while the program trains."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle

from paddleslim_ng.core import GraphWrapper, VarWrapper, store_array
from paddleslim_ng.core.expressions import Expressions
from paddleslim_ng.core.initial_values import add_initial_value, initialized_names
from paddleslim_ng.core.insertion import add_state
from paddleslim_ng.core.paddle_compat import global_scope, is_pir_value
from paddleslim_ng.dist.losses_program import building, check_number, wrap
from paddleslim_ng.dist.schedule import Weight, WeightSchedule
from paddleslim_ng.errors import CheckpointError, ConfigError, GraphError

__all__ = ['WeightController', 'combine']

_FLOATS = frozenset({'float16', 'float32', 'float64'})
_FORMAT = 1


class WeightController:
    """Rewrites the weights of losses in the scope, step by step, as a learning-rate scheduler does.

    The weight of step 0 comes from the startup program. Call :meth:`step` after each run of the training program.

    Args:
        schedules: ``{name of the persistable scalar in the program: schedule}``.
        dtypes: their element types, in numpy's spelling.
        shapes: their shapes.

    Attributes:
        iteration: number of training steps done.
        schedules: as given; empty where all weights are plain numbers.
    """

    def __init__(
        self,
        schedules: Mapping[str, WeightSchedule],
        dtypes: Mapping[str, str],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.iteration = 0
        self.schedules = dict(schedules)
        self._dtypes = dict(dtypes)
        self._shapes = dict(shapes)

    @property
    def weights(self) -> dict[str, float]:
        """The weights that hold at this step, by the names of their scalars."""
        return {name: schedule.weight_at(self.iteration) for name, schedule in self.schedules.items()}

    def step(self, scope: Any = None) -> None:
        """Go on to the next training step, and write its weights.

        Args:
            scope: the one that the program trains in; Paddle's global scope where None.

        Raises:
            ConfigError: a schedule gives an unusable weight; the step stays as it is.
        """
        self._write(self.iteration + 1, scope)

    def apply(self, scope: Any = None) -> None:
        """Write the weights of the present step, such as after a startup program was run again or before any was."""
        self._write(self.iteration, scope)

    def _write(self, iteration: int, scope: Any) -> None:
        where = scope if scope is not None else global_scope()
        weights = {
            name: check_number(name, kept.weight_at(iteration), least=0.0) for name, kept in self.schedules.items()
        }
        for name, weight in weights.items():
            store_array(where, name, np.full(self._shapes[name], weight, self._dtypes[name]))
        self.iteration = iteration

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs, as what JSON can hold."""
        return {'format': _FORMAT, 'iteration': self.iteration, 'weights': sorted(self.schedules)}

    def load_state_dict(self, state: Mapping[str, Any], scope: Any = None) -> None:
        """Go to the step of a saved state, and write its weights.

        Raises:
            CheckpointError: it is the state of something else; nothing is changed then.
        """
        iteration, names = state.get('iteration'), state.get('weights')
        if state.get('format') != _FORMAT or not isinstance(iteration, int) or iteration < 0:
            raise CheckpointError(f'this is no state of the weights of losses, of format {_FORMAT}: {dict(state)!r}')
        if names != sorted(self.schedules):
            raise CheckpointError(
                f'the state holds the step of the weights {names}, and the program has {sorted(self.schedules)}'
            )
        self._write(iteration, scope)


class _Term(NamedTuple):
    """A loss and its weight, looked at and found usable."""

    loss: VarWrapper
    weight: Weight


def combine(
    terms: Sequence[tuple[Any, Weight]], program: Any = None, startup_program: Any = None
) -> tuple[Any, WeightController]:
    """Add up losses with weights: ``total = w_1 loss_1 + w_2 loss_2 + ...``.

    A weight that is a number becomes part of the program. One that is a :class:`WeightSchedule` becomes a persistable
    scalar, ``loss_weight_<number>``, which the startup program sets to the weight of step 0 and the controller rewrites
    afterwards; it is no parameter and gets no gradient.

    Args:
        terms: ``(loss, weight)``: a scalar, as a name, Variable, Value or VarWrapper of ``program``, and a number of at
            least 0 or a schedule.
        program: default: Paddle's default main program.
        startup_program: default: Paddle's default startup program. Run it after this call; where it has been run,
            ``controller.apply()`` writes the weights instead.

    Returns:
        The total, a Variable or Value, and the controller of the weights.

    Raises:
        ConfigError: no terms, a loss that is given twice, a negative or not finite weight.
        GraphError: a loss is unknown, of another program, no scalar, or of another element type than the first.

    In case of an error, the programs are as they were.

    Example:
        >>> total, weights = slim.dist.combine([(loss, 1.0), (distance, slim.dist.Warmup(4.0, 500))])
        >>> optimizer.minimize(total)
        >>> for feed in batches:
        ...     exe.run(program, feed=feed)
        ...     weights.step()
    """
    graph = wrap(program)
    checked = _checked(graph, terms)
    if not any(isinstance(term.weight, WeightSchedule) for term in checked):
        with building(graph, 'combine') as e:
            return _total(e, checked, {}), WeightController({}, {}, {})
    startup = GraphWrapper(paddle.static.default_startup_program() if startup_program is None else startup_program)
    if startup.ir != graph.ir:
        raise GraphError(f'the program is a {graph.ir} one and the startup program a {startup.ir} one')
    with building(graph, 'combine', startup.program) as e:
        states, controller = _add_weights(graph, startup, checked)
        return _total(e, checked, states), controller


def _add_weights(
    graph: GraphWrapper, startup: GraphWrapper, terms: Sequence[_Term]
) -> tuple[dict[int, VarWrapper], WeightController]:
    """Add the scalars of the scheduled weights to both programs; return them by the places of their terms."""
    taken = initialized_names(startup) | {var.name() for var in (*graph.vars(), *startup.vars())}
    free = (name for name in map('loss_weight_{}'.format, itertools.count()) if name not in taken)
    states = {}
    schedules = {}
    for place, (loss, weight) in enumerate(terms):
        if isinstance(weight, WeightSchedule):
            name = next(free)
            schedules[name] = weight
            states[place] = add_state(graph, name, loss.shape(), loss.dtype())
            add_initial_value(startup, name, loss.shape(), loss.dtype(), weight.weight_at(0))
    dtypes = {state.name(): state.dtype() for state in states.values()}
    shapes = {state.name(): state.shape() for state in states.values()}
    return states, WeightController(schedules, dtypes, shapes)


def _checked(graph: GraphWrapper, terms: Sequence[Any]) -> list[_Term]:
    found: list[_Term] = []
    for given in terms:
        if not isinstance(given, (tuple, list)) or len(given) != 2:
            raise ConfigError(f'a term is a pair of a loss and its weight, not {given!r}')
        loss, weight = own_variable(graph, given[0]), given[1]
        if loss.shape() not in ((), (1,)) or loss.dtype() not in _FLOATS:
            raise GraphError(f'{loss.name()!r} is no loss: it is {loss.dtype()} {list(loss.shape())}, not a scalar')
        first = weight.weight_at(0) if isinstance(weight, WeightSchedule) else weight
        check_number(f'the weight of {loss.name()!r}', first, least=0.0)
        if any(loss is term.loss for term in found):
            raise ConfigError(f'the loss {loss.name()!r} is given twice: add its weights up')
        if found and loss.dtype() != found[0].loss.dtype():
            other = found[0].loss
            raise GraphError(f'{other.name()!r} is {other.dtype()} and {loss.name()!r} is {loss.dtype()}: cast one')
        found.append(_Term(loss, weight))
    if not found:
        raise ConfigError('there are no losses to combine')
    return found


def _total(e: Expressions, terms: Sequence[_Term], states: Mapping[int, VarWrapper]) -> Any:
    shape = terms[0].loss.shape()
    weighted = []
    for place, (loss, weight) in enumerate(terms):
        var = loss
        if isinstance(weight, WeightSchedule):
            var = e.multiply(loss, states[place])
        elif weight != 1.0:
            var = e.scale(loss, weight)
        weighted.append(var if loss.shape() == shape else e.reshape(var, shape))
    return e.here.op('sum', {'X': weighted}).raw


def own_variable(graph: GraphWrapper, item: Any) -> VarWrapper:
    """Return a variable of a program, given its name, Variable, Value or VarWrapper.

    Raises:
        GraphError: it does not exist, or is an object of another program.
    """
    owner = _owner_of(item)
    if owner is not None and owner is not graph.program:
        raise GraphError(
            f'{graph.name_of(item)!r} belongs to another program: give its name, or what slim.core.lookup finds for it '
            'in this program'
        )
    return graph.var(item)


def _owner_of(item: Any) -> Any:
    if isinstance(item, VarWrapper):
        return item._graph.program
    if is_pir_value(item):
        op = item.get_defining_op()
        return op.get_parent_block().program if op is not None else None
    block = getattr(item, 'block', None)
    return getattr(block, 'program', None)
