"""Options of distillation: the strategy, and where a teacher comes from."""

from __future__ import annotations

from typing import Any, Literal, Union

from pydantic import Field, model_validator

from paddleslim_ng.compress.configuration.strategy_options import StrategyOptions
from paddleslim_ng.compress.configuration.values import (
    DistillerReferences,
    FieldError,
    MaybeText,
    NonNegative,
    Options,
    Text,
)

__all__ = ['DistillationOptions', 'TeacherModel']


class TeacherModel(Options):
    """A teacher that is read from a saved inference model."""

    model_dir: Text = Field(description='Folder of the model, or its path without suffix.')
    model_filename: MaybeText = Field(None, description='Name of the program file in that folder.')
    params_filename: MaybeText = Field(None, description='Name of the file of parameters in that folder.')


_Teacher = Union[Literal['programs', 'original'], TeacherModel, list[TeacherModel]]


class DistillationOptions(StrategyOptions):
    """Options of ``DistillationStrategy``: losses between teachers and the network, for `distiller_optimizer`."""

    distillers: DistillerReferences = Field(description='Instances of `distillers`; their losses are added up.')
    teacher: _Teacher = Field(
        'programs',
        description=(
            'Where teachers come from: the `teacher_programs` of the Compressor, a copy of the `original` network as '
            'it was before compression, or saved inference models.'
        ),
    )
    task_weight: NonNegative = Field(1.0, description="Weight of the network's own loss beside the distillers'.")

    @model_validator(mode='after')
    def _has_teachers(self) -> Any:
        if self.teacher == []:
            raise FieldError('teacher', 'names no model')
        return self
