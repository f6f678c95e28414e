"""The distillation losses by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paddleslim_ng.dist.losses_adapters import regression
from paddleslim_ng.dist.losses_custom import loss
from paddleslim_ng.dist.losses_decoupled import dkd
from paddleslim_ng.dist.losses_features import attention_transfer, cosine, fsp, l2
from paddleslim_ng.dist.losses_relations import rkd_angle, rkd_distance, similarity
from paddleslim_ng.dist.losses_soft import correlation, hinton, skd, soft_label

__all__ = [
    'LOSSES',
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
    'regression',
    'rkd_angle',
    'rkd_distance',
    'similarity',
    'skd',
    'soft_label',
    'soft_label_loss',
]

# All but fsp and hinton compare one tensor of the teacher with one of the student.
LOSSES: Mapping[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        attention_transfer,
        correlation,
        cosine,
        dkd,
        fsp,
        hinton,
        l2,
        regression,
        rkd_angle,
        rkd_distance,
        similarity,
        skd,
        soft_label,
    )
}
# The names of PaddleSlim's older releases and of its tutorial.
l2_loss = l2
fsp_loss = fsp
soft_label_loss = soft_label
