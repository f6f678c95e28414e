"""Which results of a program may be its outputs."""

from __future__ import annotations

from paddleslim_ng.core import VarWrapper

__all__ = ['reads_data']


def reads_data(var: VarWrapper) -> bool:
    """Tell whether a result depends on what is fed; one computed from parameters alone is no output of a network."""
    pending, seen = [var], {var}
    while pending:
        one = pending.pop()
        if one.persistable():
            continue
        if one.is_data:
            return True
        for maker in one.inputs():
            if not maker.all_inputs():
                continue
            for source in maker.all_inputs():
                if source not in seen:
                    seen.add(source)
                    pending.append(source)
    return False
