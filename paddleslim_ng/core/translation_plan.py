"""What a translated program will consist of, written down before anything is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from paddleslim_ng.core import paddle_compat
from paddleslim_ng.core.graph_wrapper import VarWrapper
from paddleslim_ng.core.pir_editor import PirEditor

__all__ = ['LegacyOp', 'LegacyVar', 'TranslationPlan', 'UntranslatableError']


class UntranslatableError(Exception):
    """Why one operator has no legacy counterpart; collected, and never seen by callers."""


@dataclass(frozen=True)
class LegacyOp:
    """A legacy operator to be made.

    Attributes:
        type: legacy type.
        inputs: names of variables, slot by slot.
        outputs: names of variables, slot by slot.
        attrs: attributes, of the kinds that Paddle declares.
        attr_variables: attributes whose value a variable gives at run time.
    """

    type: str
    inputs: Mapping[str, Sequence[str]]
    outputs: Mapping[str, Sequence[str]]
    attrs: Mapping[str, object] = field(default_factory=dict)
    attr_variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LegacyVar:
    """A legacy variable to be made.

    Attributes:
        name: its name.
        shape: -1 for dynamic sizes.
        dtype: as numpy spells it.
        role: ``'parameter'``, ``'state'`` (persistable, but no parameter), ``'data'``, ``'result'``,
            or ``'addition'``: something that the source program does not have.
        trainable: of a parameter.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str = 'result'
    trainable: bool = True


class TranslationPlan:
    """Operators and variables of the program to come, in order.

    Args:
        editor: of the program that is translated.
        taken: names that new variables must not have.
        wanted: names of variables that are read or fetched; results among the others may be dropped.
    """

    def __init__(self, editor: PirEditor, taken: Iterable[str], wanted: Iterable[str]) -> None:
        self.editor = editor
        self.ops: list[LegacyOp] = []
        self.vars: dict[str, LegacyVar] = {}
        self.wanted = frozenset(wanted)
        self._taken = set(taken)
        self._aliases: dict[str, str] = {}

    def alias(self, var: VarWrapper, target: VarWrapper) -> None:
        """Let ``var`` be the variable ``target``: an operator writes where it read."""
        self._aliases[var.name()] = self.name(target)

    def name(self, var: VarWrapper) -> str:
        """Return the name of the legacy variable for ``var``, and plan that variable."""
        name = self._aliases.get(var.name(), var.name())
        if name not in self.vars:
            self.vars[name] = LegacyVar(name, var.shape(), var.dtype())
        return name

    def names(self, group: Iterable[VarWrapper]) -> list[str]:
        """Return the names of the legacy variables for ``group``."""
        return [self.name(var) for var in group]

    def new(self, stem: str, shape: Sequence[int], dtype: str) -> str:
        """Plan a variable that the source program does not have, and return its name."""
        name, number = stem, 0
        while name in self._taken:
            number += 1
            name = f'{stem}_{number}'
        self._taken.add(name)
        self.vars[name] = LegacyVar(name, tuple(shape), dtype, 'addition')
        return name

    def add(
        self,
        type: str,
        inputs: Mapping[str, Sequence[str]],
        outputs: Mapping[str, Sequence[str]],
        attrs: Mapping[str, object] | None = None,
        attr_variables: Mapping[str, str] | None = None,
    ) -> None:
        """Plan an operator."""
        self.ops.append(LegacyOp(type, inputs, outputs, attrs or {}, attr_variables or {}))

    def add_cast(self, source: str, source_dtype: str, target: str, target_dtype: str) -> None:
        """Plan a conversion between two planned variables."""
        attrs = {
            'in_dtype': int(paddle_compat.legacy_dtype(source_dtype)),
            'out_dtype': int(paddle_compat.legacy_dtype(target_dtype)),
        }
        self.add('cast', {'X': [source]}, {'Out': [target]}, attrs)

    def cast(self, var: VarWrapper, dtype: str) -> str:
        """Return the name of ``var`` in another element type, planning the conversion where it has to be made."""
        if var.dtype() == dtype:
            return self.name(var)
        target = self.new(f'{self.name(var)}.{dtype}', var.shape(), dtype)
        self.add_cast(self.name(var), var.dtype(), target, dtype)
        return target

    def drop_unused(self, fetches: Iterable[str]) -> None:
        """Forget parameters and state that no planned operator touches and nobody fetches."""
        used = set(fetches)
        for op in self.ops:
            used.update(op.attr_variables.values())
            for slots in (op.inputs, op.outputs):
                used.update(name for group in slots.values() for name in group)
        unused = [var.name for var in self.vars.values() if var.role in ('parameter', 'state') and var.name not in used]
        for name in unused:
            del self.vars[name]
