"""Write or check API.spec: every public name, its signature, and the md5 of its docstring.

    python tools/api_spec.py            rewrite API.spec
    python tools/api_spec.py --check    print the lines that differ, and fail if there are any

Public is what a package of ``paddleslim_ng`` lists in ``__all__``. Annotations are rendered as they stand in the
source, so the file is the same whichever Python and Paddle write it.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import enum
import functools
import hashlib
import importlib
import inspect
import logging
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = 'paddleslim_ng'
SPEC = ROOT / 'API.spec'
DUNDERS = frozenset(
    {'__call__', '__contains__', '__enter__', '__exit__', '__getitem__', '__init__', '__iter__', '__len__', '__next__'}
)


def public_modules(package: ModuleType) -> Iterator[ModuleType]:
    """Yield the package, its public direct modules, and all its public subpackages, where they define ``__all__``."""
    yield package
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):
        inner = info.name[len(package.__name__) + 1 :]
        if any(part.startswith('_') for part in inner.split('.')) or ('.' in inner and not info.ispkg):
            continue
        module = importlib.import_module(info.name)
        if hasattr(module, '__all__'):
            yield module


def fingerprint(obj: object) -> str:
    """Return the md5 of the docstring, indentation aside."""
    text = inspect.cleandoc(getattr(obj, '__doc__', None) or '')
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def render_value(value: object) -> str:
    """Return a default value as text that does not change from run to run or from version to version."""
    if isinstance(value, enum.Enum):
        return f'{type(value).__name__}.{value.name}'
    if inspect.isclass(value) or inspect.isroutine(value):
        return value.__qualname__
    if isinstance(value, (set, frozenset)):
        inner = ', '.join(sorted(map(render_value, value)))
        return f'{{{inner}}}' if inner else 'set()'
    return re.sub(r' at 0x[0-9a-fA-F]+', '', repr(value))


def render_annotation(annotation: object) -> str:
    """Return an annotation as written in the source."""
    if isinstance(annotation, str):
        return annotation
    return 'None' if annotation is None else inspect.formatannotation(annotation)


def render_parameter(parameter: inspect.Parameter) -> str:
    """Return ``name: annotation = default``."""
    stars: dict[object, str] = {inspect.Parameter.VAR_POSITIONAL: '*', inspect.Parameter.VAR_KEYWORD: '**'}
    text: str = stars.get(parameter.kind, '') + parameter.name
    if parameter.annotation is not parameter.empty:
        text += f': {render_annotation(parameter.annotation)}'
    if parameter.default is not parameter.empty:
        text += f' = {render_value(parameter.default)}'
    return text


def render_signature(function: object) -> str:
    """Return ``(a: int, *, b: str = 'x') -> None`` for a function."""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    parts: list[str] = []
    previous = None
    for parameter in signature.parameters.values():
        if previous is parameter.POSITIONAL_ONLY and parameter.kind is not previous:
            parts.append('/')
        if parameter.kind is parameter.KEYWORD_ONLY and previous not in (
            parameter.VAR_POSITIONAL,
            parameter.KEYWORD_ONLY,
        ):
            parts.append('*')
        parts.append(render_parameter(parameter))
        previous = parameter.kind
    if previous is inspect.Parameter.POSITIONAL_ONLY:
        parts.append('/')
    returns = signature.return_annotation
    arrow = '' if returns is signature.empty else f' -> {render_annotation(returns)}'
    return f'({", ".join(parts)}){arrow}'


def own_classes(cls: type) -> list[type]:
    """Return the classes of the method resolution order that this package defines."""
    return [base for base in cls.__mro__ if base.__module__.split('.')[0] == PACKAGE]


def describe_member(value: object) -> tuple[str, object] | None:
    """Return (signature, documented object) of a class attribute, None if it is neither method nor property."""
    if isinstance(value, (property, functools.cached_property)):
        getter = value.fget if isinstance(value, property) else value.func
        returns = getattr(getter, '__annotations__', {}).get('return')
        return f'property -> {render_annotation(returns)}', getter
    if isinstance(value, (staticmethod, classmethod)):
        return f'{type(value).__name__} {render_signature(value.__func__)}', value.__func__
    if inspect.isfunction(value):
        return render_signature(value), value
    return None


def class_members(cls: type) -> Iterator[tuple[str, str, object]]:
    """Yield (name, signature, documented object) of the public methods and properties that this package defines."""
    if issubclass(cls, enum.Enum):
        for member in cls:
            yield member.name, render_value(member.value), None
    seen: set[str] = set()
    for base in own_classes(cls):
        for name, value in vars(base).items():
            if name in seen or (name.startswith('_') and name not in DUNDERS):
                continue
            seen.add(name)
            described = describe_member(value)
            # A protocol gets an __init__ from `typing`; it is nobody's interface.
            if described and getattr(described[1], '__module__', PACKAGE).split('.')[0] in (PACKAGE, 'builtins'):
                yield name, *described


def lines_of(path: str, obj: object, home: str) -> Iterator[str]:
    """Yield the lines of one public object.

    Args:
        path: qualified name under which it is reached.
        obj: the object.
        home: qualified name where its lines stand in full; elsewhere it is one line that refers there.
    """
    document = f"('document', '{fingerprint(obj)}')"
    if inspect.ismodule(obj):
        yield f'{path} (module, {document})'
    elif path != home:
        yield f'{path} (the same as {home})'
    elif inspect.isclass(obj):
        yield f'{path} (class, {document})'
        for name, signature, documented in class_members(obj):
            yield f"{path}.{name} ({signature}, ('document', '{fingerprint(documented)}'))"
    elif inspect.isroutine(obj):
        yield f'{path} ({render_signature(obj)}, {document})'
    else:
        builtin = type(obj).__module__ == 'builtins'
        yield f'{path} ({type(obj).__name__ if builtin else "constant"})'


def home_of(obj: object, paths: list[str]) -> str:
    """Return the path nearest to where the object is defined, under its own name if it has it there."""
    module = getattr(obj, '__module__', None) or ''

    def nearness(path: str) -> tuple[int, bool]:
        parent, _, name = path.rpartition('.')
        return len(parent) if (module + '.').startswith(parent + '.') else 0, name == getattr(obj, '__name__', '')

    return max(sorted(paths), key=nearness)


def build_spec() -> list[str]:
    """Return the sorted lines of API.spec."""
    package = importlib.import_module(PACKAGE)
    objects = {
        f'{module.__name__}.{name}': getattr(module, name)
        for module in public_modules(package)
        for name in module.__all__
    }
    paths: dict[int, list[str]] = {}
    for path, obj in objects.items():
        if inspect.isclass(obj) or inspect.isroutine(obj):
            paths.setdefault(id(obj), []).append(path)
    lines: list[str] = []
    for path, obj in objects.items():
        lines += lines_of(path, obj, home_of(obj, paths.get(id(obj), [path])))
    return sorted(lines)


@contextlib.contextmanager
def _quiet_imports() -> Iterator[None]:
    """Keep what modules log when they are imported out of the output; afterwards logging is as it was."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def main() -> int:
    """Write or check the file and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='compare instead of writing')
    parser.add_argument('--output', type=Path, default=SPEC)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with _quiet_imports():
        lines = build_spec()
    if not arguments.check:
        arguments.output.write_text(''.join(line + '\n' for line in lines), encoding='utf-8')
        return 0
    written = arguments.output.read_text(encoding='utf-8').splitlines() if arguments.output.exists() else []
    changes = [line for line in difflib.ndiff(written, lines) if line[0] in '+-']
    for line in changes:
        print(line)
    if changes:
        print('API.spec differs from the package. If the change is meant: make api-spec')
    return 1 if changes else 0


if __name__ == '__main__':
    sys.exit(main())
