"""Check who imports whom inside the package, and that one module alone reaches into Paddle's internals.

    python tools/check_layers.py [ROOT ...]

A lower layer never imports a higher one, and peers do not import each other. Imports inside functions and under
``TYPE_CHECKING`` count too.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = 'paddleslim_ng'
FOUNDATION = ('core', 'runtime', 'analysis')
METHODS = ('sparse', 'prune', 'dist', 'quant', 'reconstruct', 'deploy', 'distributed')
SEARCHES = ('search', 'nas')
# Everybody may import these, and they import nothing of the package.
COMMON = frozenset({'errors', 'version'})
ALLOWED: dict[str, frozenset[str]] = {
    'core': frozenset(),
    'runtime': frozenset({'core'}),
    'analysis': frozenset({'core', 'runtime'}),
    'models': frozenset({'core'}),
    'data': frozenset({'core'}),
    **{name: frozenset(FOUNDATION) for name in METHODS},
    'prune': frozenset({*FOUNDATION, 'sparse'}),
    **{name: frozenset({*FOUNDATION, *METHODS, 'models', 'data'}) for name in SEARCHES},
    'compress': frozenset({*FOUNDATION, *METHODS, *SEARCHES, 'models', 'data'}),
    'cli': frozenset({*FOUNDATION, *METHODS, *SEARCHES, 'models', 'data', 'compress'}),
    '__main__': frozenset({'cli'}),
    **{name: frozenset() for name in COMMON},
}
COMPAT_PACKAGE = Path('core', 'paddle_compat')
INTERNALS = ('paddle.base', 'paddle.fluid', 'paddle.framework.core')
INTERNAL_WORD = 'libpaddle'


class Violation(NamedTuple):
    """One offending line."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f'{self.path}:{self.line}: {self.message}'


def imported_names(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) of everything imported; ``from a import b`` yields ``a.b``.

    Args:
        tree: a module.
        package: dotted name of the package that holds the module, for relative imports.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                parents = package.split('.')
                base = '.'.join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            for alias in node.names:
                yield node.lineno, f'{base}.{alias.name}'


def check_imports(tree: ast.AST, relative: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, message) for each import against the direction of the layers.

    Args:
        tree: the module.
        relative: its path below the package folder.
    """
    layer = relative.parts[0].removesuffix('.py')
    if layer == '__init__':
        return
    if layer not in ALLOWED:
        yield 1, f'{layer!r} has no place in the table of layers in {Path(__file__).name}'
        return
    for line, name in imported_names(tree, '.'.join([PACKAGE, *relative.parts[:-1]])):
        parts = name.split('.')
        if parts[0] != PACKAGE:
            continue
        target = parts[1] if len(parts) > 1 else ''
        if target not in ALLOWED:
            yield line, f'{layer!r} imports the package itself; import from the module that defines the name'
        elif target != layer and target not in ALLOWED[layer] and (layer in COMMON or target not in COMMON):
            yield line, f'{layer!r} must not import {target!r}'


def dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    """Return ``a.b.c`` for a chain of attributes, an imported name at its start replaced by its origin."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return '.'.join(reversed(parts))
    return '.'.join([aliases.get(node.id, node.id), *reversed(parts)])


def is_internal(name: str) -> bool:
    """Tell whether a dotted name lies in Paddle's internals."""
    return INTERNAL_WORD in name.split('.') or any(name == root or name.startswith(root + '.') for root in INTERNALS)


def docstrings(tree: ast.AST) -> set[int]:
    """Return the ids of the constant nodes that are docstrings."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, owners) and node.body and isinstance(node.body[0], ast.Expr):
            found.add(id(node.body[0].value))
    return found


def check_internals(tree: ast.AST, relative: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, message) wherever a module other than the compatibility module names Paddle's internals."""
    if COMPAT_PACKAGE in relative.parents:
        return
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and not node.level:
            aliases.update({alias.asname or alias.name: f'{node.module}.{alias.name}' for alias in node.names})
    uses = [(line, name) for line, name in imported_names(tree, '') if is_internal(name)]
    skipped = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_internal(dotted(node, aliases)):
            uses.append((node.lineno, dotted(node, aliases)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            uses += [(node.lineno, word) for word in (*INTERNALS, INTERNAL_WORD) if word in node.value]
    for line in sorted({line for line, _ in uses}):
        name = min(name for at, name in uses if at == line)
        yield line, f'{name!r} is an internal of Paddle; only {COMPAT_PACKAGE.as_posix()} may use it'


def check_source(source: str, relative: Path, path: Path | None = None) -> list[Violation]:
    """Return what is wrong with one module.

    Args:
        source: its text.
        relative: its path below the package folder.
        path: how to name it in messages; by default ``relative``.
    """
    tree = ast.parse(source)
    found = [*check_imports(tree, relative), *check_internals(tree, relative)]
    return [Violation(path or relative, line, message) for line, message in sorted(found)]


def check_tree(root: Path) -> list[Violation]:
    """Return what is wrong with the package in folder ``root``."""
    found: list[Violation] = []
    for path in sorted(root.rglob('*.py')):
        found += check_source(path.read_text(encoding='utf-8'), path.relative_to(root), path)
    return found


def main() -> int:
    """Print the violations and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent.parent / PACKAGE
    parser.add_argument('roots', nargs='*', type=Path, default=[here], help='package folders')
    found = [violation for root in parser.parse_args().roots for violation in check_tree(root)]
    for violation in found:
        print(violation)
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
