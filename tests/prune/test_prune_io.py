"""Saved pruned models: what comes back, into which programs, and what is refused."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddleslim_ng.core import GraphWrapper, has_array, load_array, store_array
from paddleslim_ng.errors import CheckpointError, GraphError
from paddleslim_ng.prune import Pruner, model_files, prune_io
from paddleslim_ng.prune.model_files import MANIFEST
from paddleslim_ng.prune.prune_io import load_model, save_model
from paddleslim_ng.prune.records import record_name
from paddleslim_ng.runtime import load_inference_model, save_inference_model
from tests.prune.pruning_net import PARAMETERS, Built, build, feed, fine_network, shapes

ROOT = Path(__file__).resolve().parents[2]
RATIOS = [0.5, 0.25, 0.5, 0.3]


def pruned_and_saved(folder: Path, program: str = 'train', **options: Any) -> tuple[Built, Any]:
    """Prune a network, train it for two steps if it is for training, and save it."""
    net = build(**options)
    pruned, _, _ = Pruner('random').prune(getattr(net, program), net.scope, PARAMETERS, RATIOS)
    if program == 'train':
        net.step(pruned, 2)
    save_model(net.exe, pruned, folder, scope=net.scope)
    return net, pruned


def state(program: Any, scope: Any) -> dict[str, Any]:
    """Everything a failing call must leave alone."""
    names = {var.name() for var in GraphWrapper(program).vars() if var.persistable()}
    names |= {record_name(name, axis) for name in names for axis in range(4)}
    values = {name: load_array(scope, name).tobytes() for name in names if has_array(scope, name)}
    return {'program': str(program), **values}


@pytest.mark.parametrize('optimizer', ['Momentum', 'Adam'])
def test_training_continues_exactly(tmp_path: Path, optimizer: str) -> None:
    net, pruned = pruned_and_saved(tmp_path, optimizer=optimizer)
    other = build(seed=9, optimizer=optimizer)
    load_model(other.exe, other.train, tmp_path, scope=other.scope)
    assert shapes(other.train) == shapes(pruned)
    for name, value in net.values(pruned).items():
        np.testing.assert_array_equal(load_array(other.scope, name), value, err_msg=name)
    assert other.step(other.train, 3) == net.step(pruned, 3)


def test_operators_become_those_of_the_pruned_program(tmp_path: Path) -> None:
    net, pruned = pruned_and_saved(tmp_path, 'val')
    other = build(seed=9)
    graph = GraphWrapper(other.val)
    assert graph.var('c1_weights').shape() == (12, 3, 3, 3)
    load_model(other.exe, graph, str(tmp_path), scope=other.scope)
    assert graph.program is other.val
    assert graph.var('c1_weights').shape() == (6, 3, 3, 3)
    wanted = GraphWrapper(pruned)
    for attribute in ('groups', 'sections', 'shape'):
        found = [(op.type(), op.attr(attribute)) for op in graph.ops()]
        assert found == [(op.type(), op.attr(attribute)) for op in wanted.ops()]
    # The halves of 5 and 7 channels have lost different numbers, which the shapes alone would not tell.
    np.testing.assert_array_equal(other.predict(other.val), net.predict(pruned))


def test_the_other_programs_of_the_network_can_follow(tmp_path: Path) -> None:
    """Records of what was kept come along, so that ``only_graph`` works in the new scope."""
    net, pruned = pruned_and_saved(tmp_path)
    other = build(seed=9)
    load_model(other.exe, other.train, tmp_path, scope=other.scope)
    val, _, _ = Pruner().prune(other.val, other.scope, PARAMETERS, RATIOS, only_graph=True)
    expected, _, _ = Pruner().prune(net.val, net.scope, PARAMETERS, RATIOS, only_graph=True)
    np.testing.assert_array_equal(other.predict(val), net.predict(expected))


def test_training_programs_load_what_evaluation_programs_saved(tmp_path: Path, caplog: Any) -> None:
    net, pruned = pruned_and_saved(tmp_path, 'val')
    other = build(seed=9)
    velocity = next(name for name in other.values(other.train) if 'c1_weights_velocity' in name)
    numbered = np.arange(12 * 27, dtype='float32').reshape(12, 3, 3, 3)
    store_array(other.scope, velocity, numbered)
    with caplog.at_level(logging.WARNING):
        load_model(other.exe, other.train, tmp_path, scope=other.scope)
    assert velocity in caplog.text
    kept = load_array(net.scope, 'c1_weights@kept_positions_0')[0, 1:]
    np.testing.assert_array_equal(load_array(other.scope, velocity), numbered[kept])
    other.step(other.train, 1)


def test_evaluation_programs_load_what_training_programs_saved(tmp_path: Path) -> None:
    net, pruned = pruned_and_saved(tmp_path)
    other = build(seed=9)
    load_model(other.exe, other.val, tmp_path, scope=other.scope)
    val, _, _ = Pruner().prune(net.val, net.scope, PARAMETERS, RATIOS, only_graph=True)
    np.testing.assert_array_equal(other.predict(other.val), net.predict(val))


def test_programs_pruned_alike_get_the_values_only(tmp_path: Path) -> None:
    net, pruned = pruned_and_saved(tmp_path)
    before = str(pruned)
    wanted = net.step(pruned, 2)
    load_model(net.exe, pruned, tmp_path, scope=net.scope)
    assert str(pruned) == before
    assert net.step(pruned, 2) == wanted


def test_unpruned_models_and_models_pruned_twice(tmp_path: Path) -> None:
    net = build()
    save_model(None, net.train, tmp_path / 'dense', scope=net.scope)
    once, _, _ = Pruner('random').prune(net.val, net.scope, PARAMETERS, [0.25] * 4)
    twice, _, _ = Pruner('random').prune(once, net.scope, PARAMETERS, [0.25] * 4)
    save_model(None, GraphWrapper(twice), tmp_path / 'twice', scope=net.scope)
    other = build(seed=9)
    dense = other.predict(other.val)
    load_model(None, other.val, tmp_path / 'dense', scope=other.scope)
    assert (other.predict(other.val) != dense).any()
    load_model(None, other.val, tmp_path / 'twice', scope=other.scope)
    np.testing.assert_array_equal(other.predict(other.val), net.predict(twice))


def test_the_global_scope_is_the_default(tmp_path: Path) -> None:
    net = build()
    with paddle.static.scope_guard(net.scope):
        save_model(net.exe, net.val, tmp_path)
        store_array(net.scope, 'c1_weights', np.zeros([12, 3, 3, 3], dtype='float32'))
        load_model(net.exe, net.val, tmp_path)
    assert load_array(net.scope, 'c1_weights').any()


def test_saving_again_replaces_the_model_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / 'notes.txt').write_text('mine')
    net, pruned = pruned_and_saved(tmp_path)
    first = sorted(path.name for path in tmp_path.iterdir())
    assert len(first) == 4
    net.step(pruned, 1)
    save_model(net.exe, pruned, tmp_path, scope=net.scope)
    second = sorted(path.name for path in tmp_path.iterdir())
    assert len(second) == 4
    assert [name for name in first if 'params' in name] != [name for name in second if 'params' in name]
    assert (tmp_path / 'notes.txt').read_text() == 'mine'
    shown = json.loads((tmp_path / MANIFEST).read_text())
    assert shown['shapes']['c1_weights'] == [6, 3, 3, 3]
    groups = json.loads(next(tmp_path.glob('__groups__*')).read_text())
    assert (groups['dw_weights'], groups['c4_weights'], groups['c1_weights']) == (6, 4, 1)


@pytest.mark.parametrize('at', ['publish', 'atomic_write'])
def test_a_crash_while_saving_leaves_the_old_model(tmp_path: Path, monkeypatch: Any, at: str) -> None:
    net, pruned = pruned_and_saved(tmp_path)
    wanted = net.step(pruned, 2)

    def crash(path: Any, *_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model_files, at, crash)
        with pytest.raises(KeyboardInterrupt):
            save_model(net.exe, pruned, tmp_path, scope=net.scope)
    load_model(net.exe, pruned, tmp_path, scope=net.scope)
    assert net.step(pruned, 2) == wanted


def test_programs_that_do_not_fit_their_scope_are_not_saved(tmp_path: Path) -> None:
    net = build()
    Pruner().prune(net.val, net.scope, PARAMETERS, RATIOS)
    with pytest.raises(GraphError, match=r"'c1_\w+' has shape \[6.* in the scope and \[12"):
        save_model(net.exe, net.val, tmp_path / 'new', scope=net.scope)
    with pytest.raises(GraphError, match='c1_'):
        save_model(net.exe, net.val, tmp_path / 'new', scope=paddle.static.Scope())
    assert not (tmp_path / 'new').exists()


def damage(folder: Path, kind: str) -> str:
    """Spoil one file and return what the message must name."""
    manifest, params = folder / MANIFEST, next(folder.glob('__params__*'))
    content = json.loads(manifest.read_text())
    if kind == 'no manifest':
        manifest.unlink()
    elif kind == 'no arrays':
        params.unlink()
    elif kind == 'short arrays':
        params.write_bytes(params.read_bytes()[:-100])
    elif kind == 'flipped bit':
        data = bytearray(params.read_bytes())
        data[len(data) // 2] ^= 1
        params.write_bytes(bytes(data))
    elif kind == 'groups':
        next(folder.glob('__groups__*')).write_text('{}')
    elif kind == 'short manifest':
        manifest.write_text(manifest.read_text()[:-50])
    elif kind == 'binary manifest':
        manifest.write_bytes(b'\xff\xfe\x00')
    else:
        edit = {
            'kind': lambda: content.update(kind='something else'),
            'version': lambda: content.update(version=99),
            'missing key': lambda: content.pop('order'),
            'shape': lambda: content['shapes'].update(c1_weights=[3]),
            'position': lambda: content['kept']['c1_weights']['0'][0].__setitem__(1, 77),
            'positions': lambda: content['kept']['c1_weights']['0'][0].pop(),
            'axis': lambda: content['kept'].update(c1_weights={'9': [[1, 0]]}),
            'path': lambda: content['params'].update(file='../' + params.name),
            'list': lambda: content.update(shapes=[]),
        }
        edit[kind]()
        manifest.write_text(json.dumps(content))
    return (
        params.name
        if 'arrays' in kind or kind in ('flipped bit', 'shape')
        else '__groups__'
        if kind == 'groups'
        else MANIFEST
    )


@pytest.mark.parametrize(
    'kind',
    ['no manifest', 'no arrays', 'short arrays', 'flipped bit', 'groups', 'short manifest', 'binary manifest', 'kind']
    + ['version', 'missing key', 'shape', 'position', 'positions', 'axis', 'path', 'list'],
)
def test_damaged_files_are_named_and_nothing_changes(saved: Path, dense: Built, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / 'copy'
    folder.mkdir()
    for path in saved.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    named = damage(folder, kind)
    before = state(dense.train, dense.scope)
    with pytest.raises(CheckpointError, match=named):
        load_model(dense.exe, dense.train, folder, scope=dense.scope)
    assert state(dense.train, dense.scope) == before


@pytest.fixture(scope='module')
def saved(tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp('saved')
    pruned_and_saved(folder)
    return folder


@pytest.fixture(scope='module')
def dense() -> Built:
    """A network that no test changes."""
    return build(seed=9)


def test_a_missing_directory(dense: Built, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='nowhere'):
        load_model(dense.exe, dense.train, tmp_path / 'nowhere', scope=dense.scope)


@pytest.mark.parametrize('kind', ['wider', 'other network', 'other dtype', 'impossible'])
def test_models_of_other_networks_are_refused_and_nothing_changes(saved: Path, tmp_path: Path, kind: str) -> None:
    folder = saved
    if kind == 'wider':
        folder = tmp_path
        net = build(scale=2)
        save_model(net.exe, net.val, folder, scope=net.scope)
    elif kind in ('other dtype', 'impossible'):
        folder = tmp_path
        files = model_files.read_model_files(saved)
        if kind == 'other dtype':
            files.arrays['fc_offset'] = files.arrays['fc_offset'].astype('float64')
        else:
            files.arrays['c1_bn_mean'] = np.zeros(7, dtype='float32')
            files.kept.pop('c1_bn_mean')
        model_files.write_model_files(folder, files)
    other = build(seed=9, body=fine_network) if kind == 'other network' else build(seed=9)
    before = state(other.train, other.scope)
    with pytest.raises(GraphError, match='fit the program|another network'):
        load_model(other.exe, other.train, folder, scope=other.scope)
    assert state(other.train, other.scope) == before


def test_a_failure_while_storing_undoes_everything(saved: Path, monkeypatch: Any) -> None:
    other = build(seed=9)
    before = state(other.train, other.scope)
    stored = []

    def failing(scope: Any, name: str, *arguments: Any) -> None:
        stored.append(name)
        if len(stored) == 60:
            raise MemoryError
        store_array(scope, name, *arguments)

    monkeypatch.setattr(prune_io, 'store_array', failing)
    with pytest.raises(MemoryError):
        load_model(other.exe, other.train, saved, scope=other.scope)
    assert state(other.train, other.scope) == before


SAVING = """
import sys
import paddle
from paddleslim_ng.prune.records import record_name
from paddleslim_ng.runtime import load_inference_model, save_inference_model
from tests.prune.pruning_net import PARAMETERS, build
from paddleslim_ng.prune import Pruner
from paddleslim_ng.prune.prune_io import save_model

net = build()
pruned, _, _ = Pruner().prune(net.train, net.scope, PARAMETERS, [0.5, 0.25, 0.5, 0.3])
net.step(pruned, 2)
save_model(net.exe, pruned, sys.argv[1], scope=net.scope)
print('LOSSES', *net.step(pruned, 3))
"""


def test_models_cross_from_one_ir_to_the_other(tmp_path: Path, ir: str) -> None:
    if paddle.__version__.startswith('2.'):
        pytest.skip('Paddle 2 has one IR only')
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    environment = {**os.environ, 'FLAGS_enable_pir_api': '0' if ir == 'pir' else '1', 'PYTHONPATH': path}
    command = [sys.executable, '-W', 'ignore', '-c', SAVING, str(tmp_path / 'model')]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    wanted = [float(word) for word in done.stdout.split('LOSSES')[1].split()]
    other = build(seed=9)
    load_model(other.exe, other.train, tmp_path / 'model', scope=other.scope)
    np.testing.assert_allclose(other.step(other.train, 3), wanted, rtol=1e-4)


def test_inference_models(tmp_path: Path) -> None:
    net = build()
    save_inference_model(net.val, tmp_path / 'dense', ['x'], [net.probabilities], net.scope, check=False)
    pruned, _, _ = Pruner().prune(net.val, net.scope, PARAMETERS, RATIOS)
    save_model(net.exe, pruned, tmp_path / 'pruned', scope=net.scope)
    model = load_inference_model(tmp_path / 'dense')
    load_model(net.exe, model.program, tmp_path / 'pruned', scope=model.scope)
    found = net.exe.run(model.program, {'x': feed(0)['x']}, model.fetches, scope=model.scope)[0]
    np.testing.assert_allclose(found, net.predict(pruned), rtol=1e-5)
