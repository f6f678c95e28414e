"""From a program to a file that the phone runs: Paddle Lite, with what came out proved."""

from __future__ import annotations

from paddleslim_ng.deploy.interpreters import LiteInterpreter, find_interpreter
from paddleslim_ng.deploy.lite_process import LiteProcess, RunTimes

__all__ = ['LiteInterpreter', 'LiteProcess', 'RunTimes', 'find_interpreter']
