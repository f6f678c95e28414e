"""Specifications: what they refuse, and that nothing is lost on the way to disk and back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddleslim_ng.errors import CheckpointError, ConfigError
from paddleslim_ng.quant import QuantizationSpec, TensorQuantization

SCALES = st.floats(2.0**-120, 2.0**120, width=32, allow_nan=False)


def example() -> QuantizationSpec:
    tensors = [
        TensorQuantization('x', 8, np.array([0.1])),
        TensorQuantization('w', 4, np.array([0.1, 0.2, 0.3]), axis=0, kind='weight'),
        TensorQuantization('v', 8, np.array([0.5]), kind='weight'),
    ]
    return QuantizationSpec(
        {tensor.name: tensor for tensor in tensors}, {'a': ('x', 'w'), 'b': ('x', 'v')}, {'c': 'no threshold'}
    )


@given(st.lists(SCALES, min_size=1, max_size=5), st.integers(2, 16))
def test_scales_survive_json_to_the_last_bit(scales: list[float], bits: int) -> None:
    tensor = TensorQuantization('w', bits, np.array(scales, 'float32'), axis=1, kind='weight')
    spec = QuantizationSpec({'w': tensor}, {'y': ('w',)})
    again = QuantizationSpec.from_json(spec.to_json())
    assert again == spec
    assert again.tensors['w'].scale.tobytes() == np.array(scales, 'float32').tobytes()


def test_file(tmp_path: Path) -> None:
    spec = example()
    spec.save(tmp_path / 'spec.json')
    assert QuantizationSpec.load(tmp_path / 'spec.json') == spec
    assert [path.name for path in tmp_path.iterdir()] == ['spec.json']
    (tmp_path / 'spec.json').write_text(spec.to_json()[:-20])
    with pytest.raises(CheckpointError, match=r'spec\.json: this is no quantization'):
        QuantizationSpec.load(tmp_path / 'spec.json')
    with pytest.raises(CheckpointError, match='cannot read'):
        QuantizationSpec.load(tmp_path / 'none.json')


@pytest.mark.parametrize(
    'damage',
    [
        lambda found: found.update(version=2),
        lambda found: found.update(format='another'),
        lambda found: found.pop('tensors'),
        lambda found: found['tensors'][0].update(scale=[float('nan')]),
        lambda found: found['tensors'][0].update(scale=['a']),
        lambda found: found['tensors'][0].update(unknown=1),
        lambda found: found['operators'].update(a=['nothing']),
    ],
)
def test_damage_is_noticed(damage: Any) -> None:
    found = json.loads(example().to_json())
    damage(found)
    with pytest.raises(CheckpointError):
        QuantizationSpec.from_json(json.dumps(found))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'bits': 1}, 'from 2 to 16'),
        ({'bits': 17}, 'from 2 to 16'),
        ({'bits': 8.0}, 'from 2 to 16'),
        ({'bits': True}, 'from 2 to 16'),
        ({'scale': np.array([0.0])}, 'finite and positive'),
        ({'scale': np.array([np.nan])}, 'finite and positive'),
        ({'scale': np.array([np.inf])}, 'finite and positive'),
        ({'scale': np.array([-1.0])}, 'finite and positive'),
        ({'scale': np.array([1e-60])}, 'in float32'),
        ({'scale': np.array([])}, 'finite and positive'),
        ({'scale': np.array([1.0, 2.0])}, '2 scales and no axis'),
        ({'axis': 0}, 'axis of'),
        ({'axis': -1, 'kind': 'weight'}, 'axis of'),
        ({'kind': 'bias'}, r"one of \['weight', 'activation'\]"),
        ({'zero_point': 128}, 'from -127 to 127'),
    ],
)
def test_fields_of_no_use(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TensorQuantization(**{'name': 'x', 'bits': 8, 'scale': np.array([1.0]), **fields})


def test_parts_that_contradict_each_other() -> None:
    tensors = example().tensors
    with pytest.raises(ConfigError, match="stands under the name 'y'"):
        QuantizationSpec({'y': tensors['x']}, {})
    with pytest.raises(ConfigError, match='quantized and skipped'):
        QuantizationSpec(tensors, {'a': ('x',)}, {'a': 'why'})
    with pytest.raises(ConfigError, match='reads quantized: nothing'):
        QuantizationSpec(tensors, {'a': ()})


def test_nothing_can_be_changed() -> None:
    scale = np.array([0.5], 'float32')
    tensor = TensorQuantization('x', 8, scale)
    scale[0] = 2
    assert tensor.scale.tolist() == [0.5]
    with pytest.raises(ValueError, match='read-only'):
        tensor.scale[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        tensor.bits = 4  # type: ignore[misc]
    spec = example()
    with pytest.raises(TypeError):
        spec.tensors['y'] = tensor  # type: ignore[index]


def test_thresholds_and_limits() -> None:
    tensor = TensorQuantization('x', 4, np.array([0.5]))
    assert (tensor.limit, tensor.threshold.tolist()) == (7, [3.5])
    assert TensorQuantization('x', 16, np.array([1.0])).limit == 32767


def test_parts_of_a_specification() -> None:
    spec = example()
    part = spec.without(['a'], 'too sensitive')
    assert dict(part.operators) == {'b': ('x', 'v')}
    assert set(part.tensors) == {'x', 'v'}
    assert dict(part.skipped) == {'c': 'no threshold', 'a': 'too sensitive'}
    assert spec.only(['b'], 'too sensitive') == part
    with pytest.raises(ConfigError, match=r"\['nothing'\]"):
        spec.without(['nothing'])
