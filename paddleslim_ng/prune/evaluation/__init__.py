"""Evaluating many masked variants of one program: engines, shared prefixes, worker processes."""

from __future__ import annotations

from paddleslim_ng.prune.evaluation.engine_check import EngineReport
from paddleslim_ng.prune.evaluation.evaluator import Evaluator

__all__ = ['EngineReport', 'Evaluator']
