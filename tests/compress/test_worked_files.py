"""Every worked file is run, with fewer epochs, measurements and trials: it does to a network what it says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paddle
import pytest

from paddleslim_ng.analysis import flops
from paddleslim_ng.compress.configuration import load_config
from paddleslim_ng.compress.configuration.includes import read_with_includes
from paddleslim_ng.core import has_array
from tests.compress.test_configuration import WORKED
from tests.compress.worked_net import WorkedNet

ROOT = Path(__file__).resolve().parents[2]
# Included by others; or run by tests of the demo and of the command.
ELSEWHERE = {'common.yaml', 'digits.yaml', 'saved_model.yaml'}
# What they run, other files run, too.
FULL = {'act_ptq_search.yaml', 'act_qat_distillation.yaml', 'quantization.yaml'}
# What is changed, so that a run is short: keys, joined by dots, and their values.
SHORT: dict[str, dict[str, Any]] = {
    'act_prune_quantize.yaml': {'ChannelPrune.pruned_ratio': 0.5, 'TrainConfig.epochs': 1},
    'act_ptq_search.yaml': {
        'HyperParameterOptimization.max_quant_count': 2,
        'HyperParameterOptimization.batch_num': [1, 2],
    },
    'act_qat_distillation.yaml': {'TrainConfig.epochs': 1},
    'alternation.yaml': {
        'strategies.prune.delta_rate': 0.4,
        'strategies.prune.target_ratio': 0.4,
        'strategies.rounds.rounds': 2,
        'strategies.rounds.round_epochs': 1,
        'strategies.rounds.max_loss': 1.0,
        'compressor.epoch': 2,
    },
    'distillation.yaml': {'strategies.distill.end_epoch': 1, 'compressor.epoch': 2},
    'gmp.yaml': {
        'strategies.sparse.pruning_epochs': 3,
        'strategies.sparse.tuning_epochs': 1,
        'strategies.sparse.pruning_steps': 1,
        'compressor.epoch': 4,
    },
    'greedy_prune.yaml': {
        'strategies.prune.step_ratio': 0.4,
        'strategies.prune.max_loss': 1.0,
        'strategies.prune.retrain_epochs': 1,
        'compressor.epoch': 2,
    },
    'learned_quantization.yaml': {
        'strategies.quantize.start_epoch': 1,
        'strategies.quantize.weight_bits': {'conv2': 8, 'conv3': 4, 'fc': 3},
        'compressor.epoch': 2,
    },
    'post_training_quant.yaml': {'strategies.quantize.batch_nums': 2},
    'post_training_quant_search.yaml': {
        'strategies.quantize.search.trials': 2,
        'strategies.quantize.search.batch_nums': [1, 2],
    },
    'post_training_quant_rounding.yaml': {
        'strategies.quantize.batch_nums': 2,
        'strategies.quantize.reconstruction.epochs': 1,
    },
    'prune_distill.yaml': {'compressor.epoch': 1},
    'prune_distill_quantize.yaml': {
        'strategies.prune.delta_rate': 0.4,
        'strategies.distill.end_epoch': 1,
        'strategies.quantize.start_epoch': 1,
        'strategies.quantize.mobile_model_save_path': None,
        'compressor.epoch': 2,
    },
    'quantization.yaml': {'compressor.epoch': 1},
    'sensitive_prune.yaml': {'strategies.prune.delta_rate': 0.4, 'compressor.epoch': 3},
    'sparse_distill.yaml': {'compressor.epoch': 5},
    'sparse_quantize.yaml': {
        'strategies.quantize.batch_nums': 2,
        'strategies.quantize.mobile_model_save_path': None,
        'compressor.epoch': 1,
    },
    'two_of_four.yaml': {'compressor.epoch': 1},
    'uniform_prune.yaml': {'compressor.epoch': 1},
    'unstructured_prune.yaml': {'compressor.epoch': 1},
}
CHANNELS = ('UniformPruneStrategy', 'SensitivePruneStrategy', 'GreedyPruneStrategy', 'AlternationStrategy')
WEIGHTS = ('UnstructuredPruneStrategy', 'GMPStrategy')


def shortened(file: Path, names: Mapping[str, str]) -> dict[str, Any]:
    """Return what a file says, with the changes above and other names of tensors."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renamed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [renamed(item) for item in value]
        return names.get(value, value) if isinstance(value, str) else value

    data: dict[str, Any] = renamed(read_with_includes(file).data)
    optimizer = data.get('compressor', {}).get('optimizer', {})
    if not paddle.framework.in_pir_mode() and paddle.__version__ > '3':
        # Paddle 3 has no clip by the global norm for legacy programs.
        optimizer.pop('gradient_clip', None)
    for path, value in SHORT[file.name].items():
        *parts, last = path.split('.')
        section = data
        for part in parts:
            section = section[part]
        section[last] = value
    return data


def test_every_worked_file_is_run() -> None:
    assert {file.name for file in WORKED} - ELSEWHERE == set(SHORT)


@pytest.mark.parametrize('name', [pytest.param(name, marks=[pytest.mark.full] * (name in FULL)) for name in SHORT])
def test_worked_files_do_what_they_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = WorkedNet()
    before = flops(net.main)
    config = load_config(shortened(ROOT / 'configs' / 'compress' / name, net.names()))
    teachers = [WorkedNet('teacher_', net.scope).main] if name == 'distillation.yaml' else []
    result = net.compressor(teacher_programs=teachers).config(config).run()
    classes = [one.class_name for one in config.strategies]
    assert len(result.records) == config.epochs
    assert (flops(result.eval_program) < before) is any(one in CHANNELS for one in classes)
    assert (net.zeros() > 0.3) is any(one in WEIGHTS for one in classes)
    if any(one.section == 'quantizers' for one in config.instances.values()):
        assert has_array(net.scope, 'conv3.quant_factor')
    if 'DistillationStrategy' in classes:
        assert 'distillation_1' in result.records[0].train
    written = {value for one in config.strategies for key, value in one.options if key.endswith('_save_path') and value}
    assert all(list(tmp_path.glob(f'{path}*')) for path in written)
    if config.compressor.metrics_file:
        assert len((tmp_path / config.compressor.metrics_file).read_text().splitlines()) >= config.epochs
        assert all(list((tmp_path / folder).iterdir()) for folder in ('best', 'checkpoints'))
