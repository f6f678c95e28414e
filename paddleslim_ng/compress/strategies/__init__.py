"""The strategies that come with the package, a file each."""

from __future__ import annotations

from paddleslim_ng.compress.alternation import AlternationStrategy
from paddleslim_ng.compress.strategies.channel_pruning import ChannelPruning
from paddleslim_ng.compress.strategies.distillation import DistillationStrategy
from paddleslim_ng.compress.strategies.gmp import GMPStrategy
from paddleslim_ng.compress.strategies.greedy_prune import GreedyPruneStrategy
from paddleslim_ng.compress.strategies.post_training_quantization import PostTrainingQuantStrategy
from paddleslim_ng.compress.strategies.quantization import QuantizationStrategy
from paddleslim_ng.compress.strategies.sensitive_prune import SensitivePruneStrategy
from paddleslim_ng.compress.strategies.uniform_prune import UniformPruneStrategy
from paddleslim_ng.compress.strategies.unstructured_prune import UnstructuredPruneStrategy

__all__ = [
    'AlternationStrategy',
    'ChannelPruning',
    'DistillationStrategy',
    'GMPStrategy',
    'GreedyPruneStrategy',
    'PostTrainingQuantStrategy',
    'QuantizationStrategy',
    'SensitivePruneStrategy',
    'UniformPruneStrategy',
    'UnstructuredPruneStrategy',
]
