"""Every optimizer, clip, decay, schedule, loss scaling and moving average that training programs are pruned with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import paddle
from paddle import nn

CONFIGURATIONS = ('3.3.1 PIR', '3.3.1 legacy', '2.6.2')
Make = Callable[[], Any]


class Case(NamedTuple):
    """One row of the table.

    Attributes:
        group: part of the table.
        make: gives the optimizer.
        dtype: element type of the network.
        minimize: appends backward pass and update; ``optimizer.minimize`` where None.
        refused: ``{configuration: 'Error: part of the message'}`` where Paddle itself cannot build it.
    """

    group: str
    make: Make
    dtype: str = 'float64'
    minimize: Callable[[Any, Any], Any] | None = None
    refused: Mapping[str, str] = {}


def configuration() -> str:
    """Return which of :data:`CONFIGURATIONS` is running."""
    paddle.enable_static()
    if paddle.__version__.startswith('2.'):
        return '2.6.2'
    return '3.3.1 PIR' if paddle.framework.in_pir_mode() else '3.3.1 legacy'


def _optimizer(name: str, **options: Any) -> Make:
    return lambda: getattr(paddle.optimizer, name)(learning_rate=0.01, **options)


def _momentum(**options: Any) -> Any:
    return paddle.optimizer.Momentum(0.02, 0.9, **options)


def _schedule() -> Any:
    return paddle.optimizer.lr.PiecewiseDecay([2, 4], [0.1, 0.01, 0.001])


def _ema(optimizer: Any, loss: Any) -> None:
    optimizer.minimize(loss)
    paddle.static.ExponentialMovingAverage(0.9).update()


def _model_average(optimizer: Any, loss: Any) -> None:
    optimizer.minimize(loss)
    paddle.incubate.ModelAverage(0.5, min_average_window=2, max_average_window=4)


def _scaled_loss(optimizer: Any, loss: Any) -> None:
    amp = paddle.static.amp
    if configuration() != '3.3.1 PIR':
        amp.decorate(optimizer, init_loss_scaling=8.0, use_dynamic_loss_scaling=True, incr_every_n_steps=2).minimize(
            loss
        )
        return
    scaler = paddle.amp.GradScaler(init_loss_scaling=8.0, use_dynamic_loss_scaling=True, incr_every_n_steps=2)
    scaler.minimize(amp.decorate(optimizer, dtype='float16'), scaler.scale(loss))


def _decorated(optimizer: Any, loss: Any) -> None:
    options = {'init_loss_scaling': 8.0, 'use_dynamic_loss_scaling': True}
    paddle.static.amp.decorate(optimizer, **options).minimize(loss)


def _absent(name: str) -> dict[str, str]:
    return {'2.6.2': f"AttributeError: has no attribute '{name}'"}


def _built_for_pir(function: str) -> dict[str, str]:
    return {'3.3.1 legacy': f'TypeError: {function}(): argument (position 1) must be Value'}


CASES: Mapping[str, Case] = {
    'SGD': Case('optimizer', _optimizer('SGD')),
    'Momentum': Case('optimizer', _momentum),
    'Momentum, Nesterov': Case('optimizer', lambda: _momentum(use_nesterov=True)),
    'Momentum, multi-tensor': Case('optimizer', lambda: _momentum(use_multi_tensor=True), 'float32'),
    'LarsMomentum': Case('optimizer', lambda: paddle.incubate.optimizer.LarsMomentumOptimizer(0.5, 0.9)),
    'Adagrad': Case('optimizer', _optimizer('Adagrad')),
    'Adadelta': Case('optimizer', lambda: paddle.optimizer.Adadelta(1.0)),
    'RMSProp': Case('optimizer', _optimizer('RMSProp')),
    'RMSProp, centered': Case('optimizer', _optimizer('RMSProp', centered=True, momentum=0.9)),
    'Adam': Case('optimizer', _optimizer('Adam')),
    'Adam, AMSGrad': Case(
        'optimizer',
        _optimizer('Adam', amsgrad=True),
        refused={'2.6.2': "TypeError: unexpected keyword argument 'amsgrad'"},
    ),
    'Adam, multi-tensor': Case('optimizer', _optimizer('Adam', use_multi_tensor=True), 'float32'),
    'AdamW': Case('optimizer', _optimizer('AdamW', weight_decay=0.05)),
    'Adamax': Case('optimizer', _optimizer('Adamax')),
    'NAdam': Case('optimizer', _optimizer('NAdam'), refused=_absent('NAdam')),
    'RAdam': Case('optimizer', _optimizer('RAdam'), refused=_absent('RAdam')),
    'Lamb': Case('optimizer', _optimizer('Lamb')),
    'ASGD': Case(
        'optimizer', _optimizer('ASGD', batch_num=2), refused={**_absent('ASGD'), **_built_for_pir('index_put')}
    ),
    'Rprop': Case('optimizer', _optimizer('Rprop'), refused=_absent('Rprop')),
    'ClipGradByGlobalNorm': Case(
        'gradient clipping', lambda: _momentum(grad_clip=nn.ClipGradByGlobalNorm(0.1)), refused=_built_for_pir('sqrt')
    ),
    'ClipGradByNorm': Case('gradient clipping', lambda: _momentum(grad_clip=nn.ClipGradByNorm(0.05)), 'float32'),
    'ClipGradByValue': Case(
        'gradient clipping',
        lambda: _momentum(grad_clip=nn.ClipGradByValue(0.01)),
        refused={'3.3.1 PIR': 'NotImplementedError: '},
    ),
    'L1Decay': Case('weight decay', lambda: _momentum(weight_decay=paddle.regularizer.L1Decay(0.01))),
    'L2Decay': Case('weight decay', lambda: _momentum(weight_decay=paddle.regularizer.L2Decay(0.01))),
    'L2Decay with Adam': Case('weight decay', _optimizer('Adam', weight_decay=paddle.regularizer.L2Decay(0.01))),
    'L1Decay and ClipGradByNorm with RMSProp': Case(
        'weight decay',
        _optimizer('RMSProp', weight_decay=paddle.regularizer.L1Decay(0.01), grad_clip=nn.ClipGradByNorm(0.05)),
        'float32',
    ),
    'PiecewiseDecay': Case('learning rate', lambda: paddle.optimizer.Momentum(_schedule())),
    'CosineAnnealingDecay with Adam': Case(
        'learning rate', lambda: paddle.optimizer.Adam(paddle.optimizer.lr.CosineAnnealingDecay(0.1, 5))
    ),
    'loss scaling, dynamic': Case('mixed precision', _momentum, 'float32', _scaled_loss),
    'amp.decorate without GradScaler': Case(
        'mixed precision',
        _momentum,
        'float32',
        _decorated,
        refused={'3.3.1 PIR': 'ValueError: check_finite_and_unscale_(): argument (position 2) must be Value'},
    ),
    'ModelAverage': Case('moving average', _momentum, minimize=_model_average),
    'ExponentialMovingAverage': Case(
        'moving average',
        _momentum,
        minimize=_ema,
        refused={
            '3.3.1 PIR': 'TypeError: full: argument (position 3) must be one of paddle::DataType',
            **_built_for_pir('logical_not'),
        },
    ),
    'LookAhead': Case(
        'moving average', lambda: paddle.incubate.LookAhead(paddle.optimizer.SGD(0.05), alpha=0.5, k=2), 'float32'
    ),
}


def append_update(case: Case, loss: Any) -> Any:
    """Append a case's backward pass and update to the program of ``loss`` and return its optimizer."""
    optimizer = case.make()
    if case.minimize is None:
        optimizer.minimize(loss)
    else:
        case.minimize(optimizer, loss)
    return optimizer


def table() -> list[str]:
    """Return the rows of the table in ``docs/reference/training-programs.md``."""
    rows = ['| what | ' + ' | '.join(CONFIGURATIONS) + ' |', '|---|' + '---|' * len(CONFIGURATIONS)]
    for name, case in CASES.items():
        cells = [
            f'refused: `{case.refused[one].partition(":")[0]}`' if one in case.refused else 'works'
            for one in CONFIGURATIONS
        ]
        rows.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return rows
