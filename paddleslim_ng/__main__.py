"""``python -m paddleslim_ng``: the program ``paddleslim-ng``."""

from __future__ import annotations

from paddleslim_ng.cli import main

if __name__ == '__main__':
    raise SystemExit(main())
