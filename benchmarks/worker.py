"""Runs one case for one side, in that side's environment, and leaves the figures in a file.

python benchmarks/worker.py CASE SIDE OUTPUT [--quick]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from cases import CASES

PACKAGES = ('paddlepaddle', 'numpy', 'paddleslim')


def versions() -> dict[str, str]:
    """Return the versions of what matters here."""
    found = {'python': platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('case')
    parser.add_argument('side')
    parser.add_argument('output', type=Path)
    parser.add_argument('--quick', action='store_true')
    args = parser.parse_args()
    import paddle

    paddle.enable_static()
    outcome = CASES[args.case].measure(args.side, args.quick)
    answer: dict[str, Any] = {**dataclasses.asdict(outcome), 'versions': versions()}
    args.output.write_text(json.dumps(answer), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
