"""Distillation: a teacher merged into the student's program, losses between the two, and the student alone again."""

from __future__ import annotations

from paddleslim_ng.dist.feature_pairs import FeaturePair, FeaturePairs, match_features
from paddleslim_ng.dist.features import Feature
from paddleslim_ng.dist.losses import (
    LOSSES,
    attention_transfer,
    correlation,
    cosine,
    dkd,
    fsp,
    fsp_loss,
    hinton,
    l2,
    l2_loss,
    loss,
    regression,
    rkd_angle,
    rkd_distance,
    similarity,
    skd,
    soft_label,
    soft_label_loss,
)
from paddleslim_ng.dist.merge import MergedTeacher, merge
from paddleslim_ng.dist.schedule import Constant, Decay, StepDecay, Warmup, WeightSchedule, Window
from paddleslim_ng.dist.strip import strip

__all__ = [
    'LOSSES',
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
    'attention_transfer',
    'correlation',
    'cosine',
    'dkd',
    'fsp',
    'fsp_loss',
    'hinton',
    'l2',
    'l2_loss',
    'loss',
    'match_features',
    'merge',
    'regression',
    'rkd_angle',
    'rkd_distance',
    'similarity',
    'skd',
    'soft_label',
    'soft_label_loss',
    'strip',
]
