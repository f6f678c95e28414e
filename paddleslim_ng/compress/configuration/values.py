"""What values of a configuration may be: the types that the option models are made of.

The aliases stand outside of the models because pydantic evaluates annotations, and ``X | None`` cannot be evaluated on
Python 3.9.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Optional, Union

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

__all__ = [
    'Bits',
    'Count',
    'DistillerReferences',
    'Epoch',
    'FieldError',
    'Fraction',
    'LayerRatios',
    'MaybeCount',
    'MaybeFloat',
    'MaybeFraction',
    'MaybePattern',
    'MaybePositive',
    'MaybeText',
    'MaybeTexts',
    'NonNegative',
    'Options',
    'Pattern',
    'Positive',
    'PrunerReference',
    'QuantizerReference',
    'Reference',
    'Share',
    'StrategyReferences',
    'Text',
    'Texts',
]


class Options(BaseModel):
    """Base of everything that a configuration describes: no unknown keys, no conversions, no infinite numbers."""

    model_config = ConfigDict(extra='forbid', strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())


class FieldError(ValueError):
    """A value that is wrong only beside others; raised by validators of whole models.

    Attributes:
        field: the key to point at.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Reference:
    """Mark of a field that names an instance of a plugin section.

    Attributes:
        section: such as ``'pruners'``.
        many: the field is a list of names.
    """

    section: str
    many: bool = False


def _check_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f'no regular expression: {error}') from error
    return text


Epoch = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Bits = Annotated[int, Field(ge=2, le=16)]
Text = Annotated[str, Field(min_length=1)]
Texts = list[Text]
Pattern = Annotated[Text, AfterValidator(_check_pattern)]

MaybeText = Optional[Text]
MaybeTexts = Optional[Texts]
MaybePattern = Optional[Pattern]
MaybeCount = Optional[Count]
MaybeFloat = Optional[float]
MaybePositive = Optional[Positive]
MaybeFraction = Optional[Fraction]
LayerRatios = Union[str, dict[str, Fraction], None]

# In the file a name; in options that a strategy is given, the object.
_NAME = WithJsonSchema({'type': 'string'})
_NAMES = WithJsonSchema({'type': 'array', 'items': {'type': 'string'}, 'minItems': 1})
PrunerReference = Annotated[Any, Reference('pruners'), _NAME]
QuantizerReference = Annotated[Any, Reference('quantizers'), _NAME]
DistillerReferences = Annotated[list[Any], Field(min_length=1), Reference('distillers', many=True), _NAMES]
StrategyReferences = Annotated[list[Any], Field(min_length=1), Reference('strategies', many=True), _NAMES]
