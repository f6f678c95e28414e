"""Files that are either the old or the new version, whatever happens in between."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

__all__ = ['atomic_write', 'publish', 'publish_together', 'temporary_sibling']


@contextmanager
def temporary_sibling(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an unused hidden path in the folder of ``path``, on the same file system, and remove a file left there."""
    target = Path(path)
    sibling = target.with_name(f'.{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp')
    try:
        yield sibling
    finally:
        sibling.unlink(missing_ok=True)


def atomic_write(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Replace the content of a file, or create it, in one step that survives a crash at any point.

    The data go to a temporary file in the same folder, are flushed to the device and renamed. Text is UTF-8.

    Args:
        path: the file; its folder must exist.
        data: the whole new content.

    Raises:
        OSError: the folder is missing or not writable, or the device is full; the old file is then untouched.

    Example:
        >>> atomic_write('notes.txt', 'done')
    """
    content = data.encode('utf-8') if isinstance(data, str) else data
    with temporary_sibling(path) as temporary:
        with open(temporary, 'xb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _rename(temporary, Path(path))


def publish(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Flush a finished file to the device and move it over ``target``, on the same file system."""
    with open(source, 'rb+') as file:
        os.fsync(file.fileno())
    _rename(Path(source), Path(target))


def publish_together(files: Sequence[tuple[Path, Path]]) -> None:
    """Move finished files over their targets, all or none: where one move fails, the former files come back.

    Args:
        files: pairs of a finished file and its target, on one file system, in the order of their appearance.

    Raises:
        OSError: a move failed.
    """
    with ExitStack() as stack:
        backups = [(target, stack.enter_context(temporary_sibling(target))) for _, target in files]
        for target, backup in backups:
            if target.exists():
                _keep(target, backup)
        moved: list[tuple[Path, Path]] = []
        try:
            for (source, target), pair in zip(files, backups):
                publish(source, target)
                moved.append(pair)
        except OSError:
            for target, backup in moved:
                if backup.exists():
                    os.replace(backup, target)
                else:
                    target.unlink()
            raise


def _keep(file: Path, backup: Path) -> None:
    try:
        os.link(file, backup)
    except OSError:  # a file system without hard links
        shutil.copy2(file, backup)


def _rename(source: Path, target: Path) -> None:
    os.replace(source, target)
    if os.name == 'posix':
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
