"""The converter's own list of operators, and what it says of a model."""

from __future__ import annotations

from pathlib import Path

import paddle
import pytest

import paddleslim_ng as slim
from paddleslim_ng.deploy import lite_support
from paddleslim_ng.errors import ConfigError, DeployError
from tests.deploy import lite_nets as nets

TABLE = """\
[I  noise before it]
Supported OPs on ' kX86':
                                        OP_name  kHost  kUnk  kX86
                     __xpu__spatial_transformer            Y
                                            abs      Y
                                         conv2d                  Y
                                           relu      Y           Y
                                   bitwise_xor9            Y
noise after it
"""


def test_the_table_is_read_by_columns() -> None:
    assert lite_support._parse(TABLE) == {'abs', 'conv2d', 'relu'}
    assert lite_support._parse('no table') == frozenset()


def test_devices_differ_and_unknown_operators_are_found(tmp_path: Path) -> None:
    arm, x86 = lite_support.supported_operators('arm'), lite_support.supported_operators('x86')
    assert {'conv2d', 'relu', 'pool2d', 'softmax', 'reshape2'} <= arm & x86
    assert arm != x86 and 'digamma' not in arm
    net = nets.zoo('LeNet', (1, 12, 12))
    nets.save(net, tmp_path / 'net', 'pdmodel')
    model = slim.runtime.load_inference_model(tmp_path / 'net', scope=paddle.static.Scope(), ir='legacy')
    assert lite_support.lacking_operators(model.program, 'arm') == []
    model.program.global_block().ops[1].desc.set_type('digamma')
    assert lite_support.lacking_operators(slim.GraphWrapper(model.program), 'opencl') == ['digamma']


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'arm'"):
        lite_support.supported_operators('amr')
    with pytest.raises(DeployError, match='no Python with Paddle Lite'):
        lite_support.supported_operators('arm', interpreter=tmp_path / 'python')
