"""Distillation: a teacher merged into the student's program, losses between the two, and the student alone again."""

from __future__ import annotations

from paddleslim_ng.dist.feature_pairs import FeaturePair, FeaturePairs, match_features
from paddleslim_ng.dist.features import Feature
from paddleslim_ng.dist.merge import MergedTeacher, merge
from paddleslim_ng.dist.schedule import Constant, Decay, StepDecay, Warmup, WeightSchedule, Window
from paddleslim_ng.dist.strip import strip

__all__ = [
    'Constant',
    'Decay',
    'Feature',
    'FeaturePair',
    'FeaturePairs',
    'MergedTeacher',
    'StepDecay',
    'Warmup',
    'WeightSchedule',
    'Window',
    'match_features',
    'merge',
    'strip',
]
