"""PaddleSlim's ``TrainConfig`` as settings of the Compressor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from paddleslim_ng.compress.configuration import act_sections as act
from paddleslim_ng.compress.configuration.act_draft import Draft

__all__ = ['quantization_start', 'training']

_SECTION: Final = 'TrainConfig'
_BUILDER: Final = (_SECTION, 'optimizer_builder')
_PRUNING: Final = ('ChannelPrune', 'ASPPrune', 'UnstructurePrune')
# The second stage, quantization-aware training, has this part of the epochs and of the learning rate of the first.
_SECOND: Final = 0.1


def quantization_start(train: act.TrainConfig | None, sections: Mapping[str, Any]) -> int:
    """Return the epoch in which quantization-aware training begins: after pruning, if there is some."""
    staged = train is not None and train.epochs is not None and any(name in sections for name in _PRUNING)
    return train.epochs if staged and train is not None and train.epochs is not None else 0


def training(train: act.TrainConfig, sections: Mapping[str, Any], draft: Draft) -> dict[str, Any]:
    """Add the settings of the job to a draft, and return what the saved model's part says.

    Args:
        train: the section.
        sections: all sections.
        draft: gets the settings.
    """
    start = quantization_start(train, sections) if 'QuantAware' in sections else 0
    settings = draft.compressor
    epochs = train.epochs if train.epochs is not None else 1
    settings['epoch'] = epochs + (max(int(epochs * _SECOND), 1) if start else 0)
    settings['optimizer'] = _optimizer(train, draft)
    settings['schedule_by'] = 'batch'
    _two_rates(settings, train, start, draft)
    if train.amp_config is not None:
        settings['amp'] = {'init_loss_scaling': 128.0, **train.amp_config.model_dump(exclude_none=True)}
    draft.origins.update(
        {
            ('compressor', 'epoch'): (_SECTION, 'epochs'),
            ('compressor', 'amp'): (_SECTION, 'amp_config'),
            ('compressor', 'optimizer'): (*_BUILDER, 'optimizer'),
            ('compressor', 'optimizer', 'learning_rate'): (_SECTION, 'learning_rate'),
            ('compressor', 'optimizer', 'weight_decay'): (
                *_BUILDER,
                'regularizer' if train.optimizer_builder.regularizer is not None else 'weight_decay',
            ),
            ('compressor', 'optimizer', 'gradient_clip'): (*_BUILDER, 'grad_clip'),
        }
    )
    given = train.model_fields_set
    if 'eval_iter' in given:
        draft.note((_SECTION, 'eval_iter'), 'the network is evaluated after every epoch')
    if 'logging_iter' in given:
        draft.note((_SECTION, 'logging_iter'), 'progress is a bar, and figures come after every epoch')
    return {'origin_metric': train.origin_metric, 'target_metric': train.target_metric, 'batches': train.train_iter}


def _optimizer(train: act.TrainConfig, draft: Draft) -> dict[str, Any]:
    builder = train.optimizer_builder
    found = {'type': 'SGD', **builder.optimizer, 'learning_rate': train.learning_rate}
    decay = builder.regularizer if builder.regularizer is not None else builder.weight_decay
    if decay is not None:
        found['weight_decay'] = decay
    if builder.grad_clip is not None:
        found['gradient_clip'] = builder.grad_clip
    return found


def _two_rates(settings: dict[str, Any], train: act.TrainConfig, start: int, draft: Draft) -> None:
    """Let the second stage train at a tenth of the learning rate, which needs a schedule that counts epochs."""
    if not start:
        return
    rate = train.learning_rate
    if isinstance(rate, (int, float)):
        settings['optimizer']['learning_rate'] = {
            'type': 'PiecewiseDecay',
            'boundaries': [start],
            'values': [float(rate), float(rate) * _SECOND],
        }
        settings['schedule_by'] = 'epoch'
    else:
        draft.note(
            (_SECTION, 'learning_rate'),
            'the schedule goes on while quantization is trained, rather than beginning anew at a tenth of the rate',
        )
