"""A whole configuration, checked: what the Compressor is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from pydantic import BaseModel

from paddleslim_ng.compress.configuration.compressor_settings import CompressorSettings
from paddleslim_ng.compress.configuration.problems import ConfigurationError, Place, Problem
from paddleslim_ng.compress.configuration.registry import PluginClass
from paddleslim_ng.compress.configuration.values import (
    MaybeCount,
    MaybeFloat,
    MaybeText,
    Options,
    Reference,
)
from paddleslim_ng.errors import ConfigError

__all__ = ['CompressionConfig', 'Instance', 'InstanceName', 'SavedModel', 'reference_of']

_MaybePlugin = Optional[PluginClass]
_MaybeOptions = Optional[BaseModel]


@dataclass(frozen=True)
class InstanceName:
    """Stands in an option of a user's class for the instance that is meant, until instances are made.

    Attributes:
        name: of the instance.
    """

    name: str


@dataclass(frozen=True)
class Instance:
    """One entry of a plugin section.

    Attributes:
        section: such as ``'strategies'``.
        name: what the file calls it.
        class_name: what the file says after ``class``.
        place: where it stands.
        plugin: the class; None for a class of the user's that was not imported.
        options: its checked options, in which references are names; None as above.
        refers_to: names of the instances that it needs.
    """

    section: str
    name: str
    class_name: str
    place: Place
    plugin: _MaybePlugin
    options: _MaybeOptions
    refers_to: tuple[str, ...] = ()


class SavedModel(Options):
    """Where a configuration says what is compressed: the model of ``slim.auto_compress``.

    ``origin_metric`` and ``target_metric`` are those of PaddleSlim's ``TrainConfig``; ``batches`` is its
    ``train_iter``.
    """

    model_dir: MaybeText = None
    model_filename: MaybeText = None
    params_filename: MaybeText = None
    origin_metric: MaybeFloat = None
    target_metric: MaybeFloat = None
    batches: MaybeCount = None


@dataclass(frozen=True)
class CompressionConfig:
    """A configuration that is valid as a whole.

    Attributes:
        file: the file it comes from.
        version: of the schema.
        compressor: settings of the job.
        instances: all plugins, by name, in the order of the file.
        settings: free settings of the section ``Global`` of PaddleSlim's files, for the user's own script.
        saved_model: what PaddleSlim's files say of the model to compress; None in others.
        notes: what is worth knowing: keys whose meaning differs, instances that nothing uses.
    """

    file: str
    version: str
    compressor: CompressorSettings
    instances: Mapping[str, Instance]
    settings: Mapping[str, Any] = field(default_factory=dict)
    saved_model: SavedModel | None = None
    notes: tuple[Problem, ...] = ()

    @property
    def strategies(self) -> list[Instance]:
        """The strategies that run, in the order in which they are called."""
        return [self.instances[name] for name in self.compressor.strategies]

    @property
    def epochs(self) -> int:
        """Number of epochs: ``epoch``, or more where the ``end_epoch`` of a strategy says so."""
        ends = [getattr(one.options, 'end_epoch', 0) for one in self.strategies]
        return max([self.compressor.epoch, *(end for end in ends if isinstance(end, int))])

    def with_epochs(self, batches_per_epoch: int) -> CompressionConfig:
        """Return the configuration with a number of epochs where the file counts batches (``train_iter``).

        Args:
            batches_per_epoch: batches that the reader gives.

        Raises:
            ConfigError: that is no positive number.
        """
        if isinstance(batches_per_epoch, bool) or not isinstance(batches_per_epoch, int) or batches_per_epoch < 1:
            raise ConfigError(f'batches_per_epoch is a number of batches, not {batches_per_epoch!r}')
        if self.saved_model is None or self.saved_model.batches is None:
            return self
        epochs = -(-self.saved_model.batches // batches_per_epoch)
        return replace(self, compressor=self.compressor.model_copy(update={'epoch': epochs}))

    def create_strategies(self) -> list[Any]:
        """Make the strategies, with the pruners and distillers that they refer to.

        An instance that two strategies refer to is one object. Strategies get the attribute ``name``.

        Raises:
            ConfigurationError: a class cannot be imported or refuses its options.
        """
        made: dict[str, Any] = {}
        found = [self._create(one, made) for one in self.strategies]
        for strategy, one in zip(found, self.strategies):
            strategy.name = one.name
        return found

    def _create(self, instance: Instance, made: dict[str, Any]) -> Any:
        if instance.name in made:
            return made[instance.name]
        if instance.plugin is None or instance.options is None:
            raise ConfigurationError.at(
                instance.place,
                f'the class {instance.class_name!r} was not imported: load the configuration with import_classes=True',
                (instance.section, instance.name),
            )
        objects = {name: self._create(self.instances[name], made) for name in instance.refers_to}
        options = instance.options.model_copy(update=dict(_resolved(instance.options, objects)))
        try:
            made[instance.name] = instance.plugin.create(options)
        except (ConfigError, TypeError) as error:
            raise ConfigurationError.at(
                instance.place, f'{instance.class_name}: {error}', (instance.section, instance.name)
            ) from error
        return made[instance.name]


def reference_of(model: type[BaseModel], name: str) -> Reference | None:
    """Return the mark of a field that refers to other instances, or None."""
    marks = [mark for mark in model.model_fields[name].metadata if isinstance(mark, Reference)]
    return marks[0] if marks else None


def _resolved(options: BaseModel, objects: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in type(options).model_fields:
        value = getattr(options, name)
        mark = reference_of(type(options), name)
        if mark is not None and mark.many:
            yield name, [objects[item] for item in value]
        elif mark is not None:
            yield name, objects[value] if value is not None else None
        else:
            yield name, _filled(value, objects)


def _filled(value: Any, objects: Mapping[str, Any]) -> Any:
    if isinstance(value, InstanceName):
        return objects[value.name]
    if isinstance(value, list):
        return [_filled(item, objects) for item in value]
    return value
