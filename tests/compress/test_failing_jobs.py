"""Jobs that fail: what they say, what they leave of the scope, and the checkpoints that stay."""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.compress import Compressor, Context, L2Distiller, Strategy
from paddleslim_ng.compress.strategies import (
    DistillationStrategy,
    QuantizationStrategy,
    SensitivePruneStrategy,
    UniformPruneStrategy,
)
from paddleslim_ng.core import has_array, load_array
from paddleslim_ng.errors import CheckpointError, ConfigError, DataError
from tests.compress.interruptions import run_until
from tests.compress.job_net import JobNet, adam, batches, same, tensors


class Failing(Strategy):
    """Does something at a moment."""

    def __init__(self, callback: str, action: Callable[[Context], None]) -> None:
        super().__init__()
        setattr(self, callback, action)


def raising(error: BaseException) -> Callable[[Any], None]:
    def act(context: Any) -> None:
        raise error

    return act


def strategies() -> list[Strategy]:
    """Cuts, teachers and quantizers that come before the first batch."""
    return [
        UniformPruneStrategy(0, target_ratio=0.4, pruned_params='conv.*', round_to=1),
        DistillationStrategy([L2Distiller()], teacher='original'),
        QuantizationStrategy(0),
    ]


def _metric(program: Any, scope: Any) -> float:
    return 0.0


CASES: dict[str, tuple[type[BaseException], str, dict[str, Any], Callable[[], list[Strategy]]]] = {
    'empty reader': (DataError, 'train_reader is empty', {'train_reader': []}, strategies),
    'reader raises': (
        DataError, 'batch 1: OSError', {'train_reader': lambda: map(raising(OSError()), [0])}, strategies
    ),
    'interrupted': (
        KeyboardInterrupt, '^$', {}, lambda: [*strategies(), Failing('on_epoch_begin', raising(KeyboardInterrupt()))]
    ),
    'metric of 0': (
        DataError, 'gave 0 for the unpruned network', {'eval_func': {'nothing': _metric}},
        lambda: [strategies()[1], SensitivePruneStrategy(metric_name='nothing')],
    ),
    'unknown fetch': (ConfigError, "no 'loss'", {'train_fetch_list': ['fc']}, strategies),
}  # fmt: skip


@pytest.mark.parametrize('case', CASES)
def test_what_fails_before_the_first_batch_leaves_the_scope_as_it_was(tmp_path: Path, case: str) -> None:
    error, message, options, make = CASES[case]
    net = JobNet(minimize=False)
    before = tensors(net.main, net.scope)
    # What optimizers, teachers and quantizers would add.
    others = ['compress0_conv1_moment1_0', 'compress1_conv1_moment1_0', 'teacher_conv1', 'x.quant_scale']
    compressor = net.compressor(train_optimizer=adam, checkpoint_path=tmp_path / 'ck', epoch=2, **options)
    for strategy in make():
        compressor.add_strategy(strategy)
    with pytest.raises(error, match=message):
        compressor.run()
    same(tensors(net.main, net.scope), before)
    assert not [name for name in others if has_array(net.scope, name)]


def _interrupted_reader() -> Iterator[Any]:
    """The third batch of the second epoch does not come."""
    for index, batch in enumerate(batches()):
        if index == 2 and _interrupted_reader.epoch == 1:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        yield batch


def _job(folder: Path, **options: Any) -> Compressor:
    compressor = JobNet().compressor(epoch=3, checkpoint_path=folder, checkpoint_every=1, **options)
    compressor.add_strategy(UniformPruneStrategy(0, target_ratio=0.4, pruned_params='conv.*', round_to=1))
    return compressor


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    paddle.enable_static()
    return run_until(_job(tmp_path_factory.mktemp('whole')), [], ('nowhere', 0, 0), 5)


def test_a_key_that_interrupts_loses_nothing(tmp_path: Path, whole: dict[str, Any]) -> None:
    _interrupted_reader.epoch = 0  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        run_until(_job(tmp_path, train_reader=_interrupted_reader), [], ('nowhere', 0, 0), 5)
    same(run_until(_job(tmp_path), [], ('nowhere', 0, 0), 6), whole)


def test_a_full_disk_keeps_the_checkpoints_before(tmp_path: Path, whole: dict[str, Any]) -> None:
    """The system refuses to write more than a few bytes to a file, as if the disk were full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(context: Context) -> None:
        if (context.epoch_id, context.batch_id) == (1, 2):
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))

    compressor = _job(tmp_path)
    try:
        with pytest.raises(CheckpointError, match='after 3 batches of epoch 1 cannot be written to .*kept') as raised:
            run_until(compressor, [Failing('on_batch_end', fill)], ('nowhere', 0, 0), 5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(raised.value.__cause__, OSError) and raised.value.__cause__.errno == errno.EFBIG
    assert not list(tmp_path.glob('.*')) and len(list(tmp_path.glob('step-*'))) == 2
    resumed = run_until(_job(tmp_path), [Failing('on_batch_end', lambda context: None)], ('nowhere', 0, 0), 6)
    same(resumed, whole)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    compressor = _job(tmp_path / 'file' / 'checkpoints')
    before = load_array(compressor.context.scope, 'conv1')
    with pytest.raises(CheckpointError, match='after 0 batches of epoch 0 cannot be written to .*file'):
        compressor.run()
    np.testing.assert_array_equal(load_array(compressor.context.scope, 'conv1'), before)
