"""Distillation: a teacher merged into the student's program, losses between the two, and the student alone again."""

from __future__ import annotations

from paddleslim_ng.dist.combine import WeightController, combine
from paddleslim_ng.dist.dml import MutualLearning, MutualPeer, dml
from paddleslim_ng.dist.feature_losses import feature_losses
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
from paddleslim_ng.dist.mixing import mix
from paddleslim_ng.dist.peers import Peer
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
    'MutualLearning',
    'MutualPeer',
    'Peer',
    'StepDecay',
    'Warmup',
    'WeightController',
    'WeightSchedule',
    'Window',
    'attention_transfer',
    'combine',
    'correlation',
    'cosine',
    'dkd',
    'dml',
    'feature_losses',
    'fsp',
    'fsp_loss',
    'hinton',
    'l2',
    'l2_loss',
    'loss',
    'match_features',
    'merge',
    'mix',
    'regression',
    'rkd_angle',
    'rkd_distance',
    'similarity',
    'skd',
    'soft_label',
    'soft_label_loss',
    'strip',
]
