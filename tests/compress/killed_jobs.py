"""Jobs whose strategies overlap in time, fed by readers of every form: killed_jobs.py FOLDER JOB READER [POINT].

What a job ends with is left in FOLDER/end.npz. With a point, it is killed there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import paddle

from paddleslim_ng.compress import Compressor, L2Distiller, Strategy, TrainerOptions
from paddleslim_ng.compress.configuration.options import QuantizationSearch
from paddleslim_ng.compress.strategies import (
    AlternationStrategy,
    DistillationStrategy,
    GMPStrategy,
    PostTrainingQuantStrategy,
    QuantizationStrategy,
    SensitivePruneStrategy,
    UniformPruneStrategy,
)
from tests.compress.interruptions import NOWHERE, kill, kill_while_writing, run_until
from tests.compress.job_net import JobNet, batches
from tests.compress.resume_job import Shuffled

Job = tuple[Compressor, list[Strategy]]
EPOCHS = 4


class Samples(paddle.io.Dataset):
    """Images and labels; with noise, images differ in each epoch, drawn from numpy's global generator."""

    def __init__(self, noise: bool = False) -> None:
        super().__init__()
        self.noise = noise
        self.rows = [(image, label) for parts in batches(4) for image, label in zip(*parts)]

    def __getitem__(self, index: int) -> Any:
        image, label = self.rows[index]
        if self.noise:
            image = image + np.random.normal(0, 0.1, image.shape).astype('float32')  # noqa: NPY002
        return image, label

    def __len__(self) -> int:
        return len(self.rows)


def loader(workers: int, noise: bool = False) -> Any:
    return paddle.io.DataLoader(
        Samples(noise), batch_size=8, shuffle=True, num_workers=workers, return_list=True, places=paddle.CPUPlace()
    )


def generator() -> Iterator[Any]:
    """Noise for each batch is drawn while the batch is made."""
    for image, label in Shuffled(False)():
        yield image + np.random.normal(0, 0.1, image.shape).astype('float32'), label  # noqa: NPY002


READERS: Mapping[str, Callable[[], Any]] = {
    'by_epoch': lambda: Shuffled(True),
    'generator': lambda: generator,
    'loader': lambda: loader(0),
    'noisy_loader': lambda: loader(0, noise=True),
    'workers': lambda: loader(2),
    'noisy_workers': lambda: loader(2, noise=True),
}


def adam() -> Any:
    return paddle.optimizer.Adam(paddle.optimizer.lr.StepDecay(0.01, step_size=3))


def plateau() -> Any:
    schedule = paddle.optimizer.lr.ReduceOnPlateau(0.02, mode='max', factor=0.5, patience=0, threshold=0.05)
    return paddle.optimizer.Momentum(schedule, 0.9)


def _compressor(folder: Path, reader: Any, **given: Any) -> Compressor:
    options = {'metrics_file': folder / 'metrics.jsonl', 'monitor': 'acc', 'best_path': folder / 'best'}
    common = {
        'train_reader': reader,
        'train_optimizer': plateau,
        'distiller_optimizer': adam,
        'clip': paddle.nn.ClipGradByNorm(0.5),
        'epoch': EPOCHS,
        'checkpoint_path': folder / 'checkpoints',
        'checkpoint_every': 2,
        'options': TrainerOptions(**options),
    }
    return JobNet(minimize=False).compressor(**{**common, **given})


def _paths(folder: Path, *kinds: str) -> dict[str, str]:
    return {f'{kind}_model_save_path': str(folder / kind / 'model') for kind in kinds}


def overlap(folder: Path, reader: Any) -> Job:
    """Two measured cuts while a teacher trains, and quantizers before it goes."""
    return _compressor(folder, reader), [
        SensitivePruneStrategy(
            0, 2, target_ratio=0.4, metric_name='acc', num_steps=2, round_to=1, delta_rate=0.4, convergence=1.0,
            sensitivities_file=folder / 'sensitivities.json',
        ),
        DistillationStrategy([L2Distiller()], 0, 3, teacher='original'),
        QuantizationStrategy(2, 3, freeze_bn_delay=9, **_paths(folder, 'float', 'int8')),
    ]  # fmt: skip


def rounds(folder: Path, reader: Any) -> Job:
    """Two rounds with a teacher and a floor; the schedule counts batches."""
    options = TrainerOptions(metrics_file=folder / 'metrics.jsonl', schedule_by='batch')
    inner = [
        DistillationStrategy([L2Distiller()], teacher='original'),
        UniformPruneStrategy(target_ratio=0.2, pruned_params='conv.*', round_to=1),
    ]
    return _compressor(folder, reader, options=options, train_optimizer=adam), [
        AlternationStrategy(inner, rounds=2, round_epochs=2, metric_name='acc', max_loss=0.9)
    ]


def masked(folder: Path, reader: Any) -> Job:
    """The share of zeros rises while channels leave and quantizers come."""
    return _compressor(folder, reader), [
        GMPStrategy(ratio=0.7, stable_iterations=2, pruning_iterations=12, tuning_iterations=4, regrowth=True),
        QuantizationStrategy(2, weight_bits=4, use_pact=True, quant_delay=2, **_paths(folder, 'int8')),
        UniformPruneStrategy(1, target_ratio=0.3, pruned_params='conv.*', round_to=1),
    ]


def afterwards(folder: Path, reader: Any) -> Job:
    """A cut, and integers by a search when training is over."""
    search = QuantizationSearch(algo=['abs_max', 'hist', 'avg'], bias_correction=[False], batch_nums=[1, 3], trials=6)
    return _compressor(folder, reader), [
        UniformPruneStrategy(1, target_ratio=0.4, pruned_params='conv.*', round_to=1),
        PostTrainingQuantStrategy(search=search, **_paths(folder, 'float', 'int8')),
    ]


JOBS: Mapping[str, Callable[[Path, Any], Job]] = {job.__name__: job for job in (overlap, rounds, masked, afterwards)}


def main() -> None:
    folder, name, form = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    paddle.enable_static()
    point = NOWHERE
    if len(sys.argv) > 4:
        what, first, second = sys.argv[4].split(':')
        point = (what, int(first), int(second))
        if what == 'write':
            kill_while_writing(int(first))
    fresh = not list((folder / 'checkpoints').glob('step-*'))
    np.random.seed(5 if fresh else 6)  # noqa: NPY002
    compressor, strategies = JOBS[name](folder, READERS[form]())
    found = run_until(compressor, strategies, point, 5 if fresh else 6, kill)
    np.savez(folder / 'end.npz', **found, random=compressor.context.rng.random(3))


if __name__ == '__main__':
    main()
