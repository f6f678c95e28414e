"""What of Fleet's ``DistributedStrategy`` holds for plain data parallelism on CPUs."""

from __future__ import annotations

from typing import Any

from paddleslim_ng.distributed.synchronize import BUCKET_BYTES
from paddleslim_ng.errors import ConfigError

__all__ = ['bucket_bytes_of']

# Switches that change what is computed.
_OTHER_TRAINING = (
    'adaptive_localsgd',
    'amp',
    'asp',
    'auto',
    'auto_search',
    'dgc',
    'elastic',
    'fp16_allreduce',
    'gradient_merge',
    'heter_ccl_mode',
    'is_fl_ps_mode',
    'lamb',
    'lars',
    'localsgd',
    'pipeline',
    'qat',
    'recompute',
    'semi_auto',
    'sharding',
    'sync_batch_norm',
    'tensor_parallel',
)


def bucket_bytes_of(strategy: Any) -> int:
    """Return how many bytes of gradients a strategy lets travel together.

    Args:
        strategy: a ``fleet.DistributedStrategy``, or None for the usual.

    Raises:
        ConfigError: naming switches that ask for something else than data parallelism with mean gradients.
    """
    if strategy is None:
        return BUCKET_BYTES
    asked = [name for name in _OTHER_TRAINING if getattr(strategy, name, False) is True]
    scaling = getattr(strategy, 'gradient_scale_configs', {}).get('scale_strategy', 'avg')
    if scaling != 'avg':
        asked.append(f"gradient_scale_configs['scale_strategy'] = {scaling!r}")
    if asked:
        raise ConfigError(
            'on CPUs, DistributedStrategy is honoured for data parallelism alone, and this one sets '
            f'{", ".join(asked)}; switch it off, or train on GPUs, where Fleet itself is at work'
        )
    return int(strategy.fuse_grad_size_in_MB) << 20 if strategy.fuse_all_reduce_ops else 0
