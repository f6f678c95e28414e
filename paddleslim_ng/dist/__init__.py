"""Distillation: a teacher merged into the student's program, losses between the two, and the student alone again."""

from __future__ import annotations

from paddleslim_ng.dist.merge import MergedTeacher, merge
from paddleslim_ng.dist.strip import strip

__all__ = [
    'MergedTeacher',
    'merge',
    'strip',
]
