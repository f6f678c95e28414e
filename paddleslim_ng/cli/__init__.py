"""The program ``paddleslim-ng``; ``paddleslim-ng --help`` says what it does. Paddle is loaded once a command runs."""

from __future__ import annotations

from paddleslim_ng.cli.program import main

__all__ = ['main']
