"""Static-graph training on several processes: synchronization, checks, checkpoints, and supervision."""

from __future__ import annotations

from paddleslim_ng.distributed.batch_statistics import shared_statistics
from paddleslim_ng.distributed.checkpoint import Checkpoints, Restored
from paddleslim_ng.distributed.consistency import RankChecks, check_ranks
from paddleslim_ng.distributed.context import Context, current_ranks, init, shutdown
from paddleslim_ng.distributed.optimizer import DistributedOptimizer
from paddleslim_ng.distributed.ranks import Ranks
from paddleslim_ng.distributed.supervisor import Job, Supervision, supervise
from paddleslim_ng.distributed.synchronize import distribute, require_all_reduce

__all__ = [
    'Checkpoints',
    'Context',
    'DistributedOptimizer',
    'Job',
    'RankChecks',
    'Ranks',
    'Restored',
    'Supervision',
    'check_ranks',
    'current_ranks',
    'distribute',
    'init',
    'require_all_reduce',
    'shared_statistics',
    'shutdown',
    'supervise',
]
