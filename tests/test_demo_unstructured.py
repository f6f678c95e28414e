"""demo/unstructured_prune from its command lines, in a small way: train, go on, evaluate, several processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import paddleslim_ng as slim
from paddleslim_ng.runtime.snapshot import read_snapshot
from tests.demo_scripts import DEMO, ROOT, demo, figures, run

FOLDER = DEMO / 'unstructured_prune'
LENET = ['--model', 'LeNet', '--image_size', '12', '--lr_strategy', 'constant', '--model_period', '1']


def script(name: str, *arguments: str, folder: Path, code: int = 0) -> str:
    return demo(f'unstructured_prune/{name}', *arguments, folder=folder, code=code)


def newest(folder: Path, rank: str = '0-of-1') -> Any:
    return read_snapshot(max((folder / 'checkpoints').glob(f'*.rank-{rank}.npz')))


def weights_of(snapshot: Any) -> dict[str, Any]:
    """Return the prunable weights of LeNet."""
    return {name: array for name, array in snapshot.tensors.items() if name.endswith('_weights')}


def test_gmp_goes_on_bit_by_bit_and_evaluates(tmp_path: Path, ir: str) -> None:
    flags = [*LENET, '--pruning_strategy', 'gmp', '--ratio', '0.8', '--num_epochs', '4', '--local_sparsity', 'True']
    flags += ['--batch_size', '32']
    output = script('train', *flags, '--test_period', '2', folder=tmp_path)
    assert f'{ir} programs, 1 processes' in output
    assert 'epoch 1: top-1 on the validation part' in output
    models, again = tmp_path / 'models', tmp_path / 'again'
    weights = weights_of(newest(models))
    assert len(weights) == 5
    assert {name: int((w == 0).sum()) for name, w in weights.items()} == {
        name: round(0.8 * w.size) for name, w in weights.items()
    }
    first = min((models / 'checkpoints').iterdir())
    (tmp_path / 'older' / 'checkpoints').mkdir(parents=True)
    shutil.copy(first, tmp_path / 'older' / 'checkpoints')
    resumed = ['--checkpoint', 'older', '--last_epoch', '2', '--model_path', 'again']
    output = script('train', *flags, *resumed, folder=tmp_path)
    assert 'going on after epoch 2, step 111' in output and 'epoch 2:' not in output
    assert (again / 'pruned.pdiparams').read_bytes() == (models / 'pruned.pdiparams').read_bytes()
    assert figures(again) == figures(models)
    one, two = newest(models), newest(again)
    assert one.tensors.keys() == two.tensors.keys() and len(one.tensors) > 20
    for name, array in one.tensors.items():
        assert array.tobytes() == two.tensors[name].tobytes(), name
    message = script('train', *flags, *resumed, '--last_epoch', '1', folder=tmp_path, code=1)
    assert 'the newest checkpoint in older is that after epoch 2, and --last_epoch says 1' in message

    output = script('evaluate', '--image_size', '12', '--batch_size', '100', folder=tmp_path)
    said = figures(models)
    assert f'top-1 {said["test_top1"]:.4f}, top-5 {said["test_top5"]:.4f}' in output
    assert f'zeros among all parameters: {said["zeros_of_all"]:.4%}' in output
    assert said['test_top1'] > 0.5


def test_base_exports_sparse_kernels(tmp_path: Path) -> None:
    flags = ['--scale', '0.125', '--image_size', '8', '--batch_size', '200', '--num_epochs', '1', '--ratio', '0.75']
    output = script('train', *flags, '--prune_params_type', 'conv1x1_only', '--local_sparsity', folder=tmp_path)
    assert re.search(r'zeros: 75\.0000% of the prunable weights', output)
    assert '13 layers have sparse kernels on Arm' in output
    assert re.search(r'conv2_1_sep_weights: 75.0% zeros, sparse kernel, [+-]\d+ bytes', output)
    assert len(slim.deploy.read_nb(tmp_path / 'models' / 'pruned-arm.nb').sparse_kernels) == 13


def test_run_sh_takes_pretrained_weights(tmp_path: Path) -> None:
    short = [*LENET, '--lite_python', '/nowhere/python']
    assert 'Paddle Lite is left out: no Python with Paddle Lite was found (/nowhere/python' in run(
        'sh', str(FOLDER / 'run.sh'), 'pattern', *short, '--num_epochs', '2', folder=tmp_path
    )
    two_of_four = weights_of(newest(tmp_path / 'models'))['fc3_weights']
    kept = np.count_nonzero(two_of_four.reshape(-1, 4, two_of_four.shape[1]), axis=1)
    assert (kept == 2).all()
    trained = ['--pretrained_model', 'models', '--num_epochs', '1', '--lr', '0', '--model_path', 'below']
    output = run('sh', str(FOLDER / 'run.sh'), 'threshold', *short, *trained, '--threshold', '0.05', folder=tmp_path)
    assert '10 pretrained parameters' in output and 'missing' not in output
    below = weights_of(newest(tmp_path / 'below'))['fc3_weights']
    assert np.array_equal(below, np.where(np.abs(two_of_four) < 0.05, 0, two_of_four))
    assert 'threshold: everything below a magnitude' in run('sh', str(FOLDER / 'run.sh'), folder=tmp_path)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """The whole batch on one process, and half of it on each of two; without batch norm the outcome is the same."""
    flags = [*LENET, '--ratio', '0.75', '--num_epochs', '2', '--lite_python', '/nowhere/python']
    script('train', *flags, '--batch_size', '64', '--model_path', 'one', folder=tmp_path)
    command = [sys.executable, '-m', 'paddleslim_ng', 'launch', '--nproc', '2', '--max-restarts', '0']
    job = [str(FOLDER / 'train.py'), *flags, '--batch_size', '32', '--is_distributed', 'True', '--model_path', 'two']
    run(*command, *job, '--checkpoint', 'two', folder=tmp_path)
    log = (tmp_path / 'log' / 'attempt-0' / 'workerlog.0').read_text('utf-8')
    assert '2 processes; results in two' in log and 'two has no checkpoint yet' in log
    one, ranks = newest(tmp_path / 'one'), [newest(tmp_path / 'two', f'{rank}-of-2') for rank in (0, 1)]
    for name, array in weights_of(one).items():
        assert ranks[0].tensors[name].tobytes() == ranks[1].tensors[name].tobytes()
        near = np.isclose(array, ranks[0].tensors[name], rtol=0, atol=1e-4)
        assert near.mean() > 0.999, name
        assert np.count_nonzero(array) > 0
    assert figures(tmp_path / 'two')['zeros_of_prunable'] == figures(tmp_path / 'one')['zeros_of_prunable']
    assert figures(tmp_path / 'two')['ranks'] == 2


def write_mnist(folder: Path) -> None:
    folder.mkdir()
    random = np.random.RandomState(0)
    for part, count in (('train', 5032), ('t10k', 16)):
        header = struct.pack('>IIII', 0x803, count, 28, 28)
        pixels = random.randint(0, 256, count * 784).astype(np.uint8).tobytes()
        (folder / f'{part}-images-idx3-ubyte').write_bytes(header + pixels)
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        (folder / f'{part}-labels-idx1-ubyte').write_bytes(struct.pack('>II', 0x801, count) + labels)


def write_imagenet(folder: Path) -> None:
    folder.mkdir()
    random = np.random.RandomState(0)
    for part, count in (('train', 8), ('val', 3)):
        lines = []
        for index in range(count):
            name = f'{part}_{index}.png'
            Image.fromarray(random.randint(0, 256, (20, 24, 3)).astype(np.uint8)).save(folder / name)
            lines.append(f'{name} {index * 99}')
        (folder / f'{part}_list.txt').write_text('\n'.join(lines), 'utf-8')


@pytest.mark.parametrize(('name', 'write', 'test'), [('mnist', write_mnist, 16), ('imagenet', write_imagenet, 3)])
def test_data_of_the_user(tmp_path: Path, name: str, write: Any, test: int) -> None:
    flags = ['--model', 'LeNet', '--data', name, '--data_dir', 'data']
    write(tmp_path / 'data')
    small = ['--image_size', '32'] if name == 'imagenet' else []
    train = ['--num_epochs', '1', '--batch_size', '4', '--lite_python', '/nowhere/python']
    script('train', *flags, *small, *train, '--ratio', '0.5', '--stable_epochs', '0', folder=tmp_path)
    assert figures(tmp_path / 'models')['zeros_of_prunable'] == pytest.approx(0.5, abs=1e-4)
    output = script('evaluate', '--data', name, '--data_dir', 'data', *small, folder=tmp_path)
    assert f'accuracy on {test} test images' in output


REFUSALS = {
    '--pattern goes with --pruning_strategy base': ['--pruning_strategy', 'gmp', '--pattern', '2:4'],
    'together they have to be --num_epochs 40': ['--pruning_strategy', 'gmp', '--pruning_epochs', '40'],
    'a threshold holds at every step': ['--pruning_mode', 'threshold', '--stable_epochs', '1'],
    '--last_epoch belongs to --checkpoint': ['--last_epoch', '3', *LENET],
    'there is no checkpoint in': ['--checkpoint', 'nowhere', *LENET],
    'nothing is downloaded: put the four MNIST files there': ['--data', 'mnist', '--data_dir', 'nowhere'],
    'nothing is downloaded: put a text file of "path label" lines there': [
        '--data',
        'imagenet',
        '--data_dir',
        'nowhere',
    ],
    'do not fill a batch of 2000 on 1 ranks': ['--batch_size', '2000'],
}
CALLS = """
import json, sys
import train
for flags in json.load(sys.stdin):
    print('CALL', file=sys.stderr)
    try:
        train.main(flags)
    except (train.slim.SlimError, SystemExit) as error:
        print(error, file=sys.stderr)
"""


def test_refusals(tmp_path: Path) -> None:
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(FOLDER), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, '-c', CALLS],
        input=json.dumps(list(REFUSALS.values())),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    said = done.stderr.split('CALL\n')[1:]
    assert len(said) == len(REFUSALS)
    for words, text in zip(REFUSALS, said):
        assert words in ' '.join(text.split()), text
    assert not list(tmp_path.iterdir())
    assert (
        script('train', '--data', 'mnist', folder=tmp_path, code=1).splitlines()[-1].startswith('error: there is no ')
    )
