"""PaddleSlim's AutoCompression files, translated into configurations of this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from paddleslim_ng.compress.configuration import act_sections as act
from paddleslim_ng.compress.configuration.act_draft import Draft
from paddleslim_ng.compress.configuration.act_methods import METHODS
from paddleslim_ng.compress.configuration.act_training import training
from paddleslim_ng.compress.configuration.configuration import SavedModel
from paddleslim_ng.compress.configuration.document import Document
from paddleslim_ng.compress.configuration.known_keys import one_of
from paddleslim_ng.compress.configuration.problems import ConfigurationError, KeyPath, Problem, Problems
from paddleslim_ng.compress.configuration.registry import SECTIONS
from paddleslim_ng.compress.configuration.validation import check_model, shown, without_none

__all__ = ['ACT_SECTIONS', 'Translation', 'translate_act']

_GLOBAL: Final = 'Global'
_MODEL_KEYS: Final = ('model_dir', 'model_filename', 'params_filename')
# Sections that are known and not taken, with the reason.
_REFUSED: Final[Mapping[str, str]] = {
    'TransformerPrune': 'is not available: pruning of attention heads is not driven by a configuration yet; '
    'ChannelPrune and UnstructurePrune are',
    'Quantization': 'is a name of older releases: call it QuantPost beside HyperParameterOptimization, or QuantAware',
    'Prune': 'is a name of older releases: take ChannelPrune or ASPPrune',
}
ACT_SECTIONS: Final = (_GLOBAL, *act.ACT_MODELS, *_REFUSED)
_TRAINED: Final = ('QuantAware', 'ChannelPrune', 'ASPPrune', 'UnstructurePrune')
_TEACHING: Final = ('Distillation', 'MultiTeacherDistillation')


@dataclass(frozen=True)
class Translation:
    """What a file of PaddleSlim means.

    Attributes:
        document: the same as a configuration of this package; places are those of the file.
        settings: the section ``Global``.
        saved_model: the model to compress.
        notes: where the meaning differs.
        origins: keys of the file by keys of ``document``.
    """

    document: Document
    settings: Mapping[str, Any]
    saved_model: SavedModel
    notes: tuple[Problem, ...]
    origins: Mapping[KeyPath, KeyPath]

    def told_by_file(self, error: ConfigurationError) -> ConfigurationError:
        """Return an error about ``document`` in the keys of the file."""
        return ConfigurationError(
            Problem(problem.place, self._origin(problem.path), problem.message) for problem in error.problems
        )

    def _origin(self, path: KeyPath) -> KeyPath:
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return (*self.origins[path[:length]], *path[length:])
        return path


def translate_act(document: Document) -> Translation:
    """Translate a file with sections such as ``QuantAware`` and ``TrainConfig``.

    Raises:
        ConfigurationError: a key, type or combination that PaddleSlim would not understand or silently pass over.
    """
    problems = Problems()
    document, former = _with_present_names(document)
    _check_names(document, problems)
    sections = _read_sections(document, problems)
    settings = document.data.get(_GLOBAL) or {}
    if not isinstance(settings, dict):
        problems.add(document.place_of((_GLOBAL,)), (_GLOBAL,), f'must be a mapping, not {shown(settings)}')
        settings = {}
    _check_combination(sections, document, problems)
    problems.raise_if_any()
    draft = Draft(document)
    for name, present in former.items():
        draft.note((present,), f'{name} is read as {present}, its name since')
    saved = {key: settings[key] for key in _MODEL_KEYS if settings.get(key) is not None}
    train = sections.get('TrainConfig')
    if isinstance(train, act.TrainConfig):
        saved.update(training(train, sections, draft))
    for name, method in METHODS.items():
        if name in sections:
            method(sections[name], sections, draft)
    model = check_model(SavedModel, without_none(saved), document, (_GLOBAL,), problems)
    problems.raise_if_any()
    finished = draft.finish()
    return Translation(
        finished, settings, model if isinstance(model, SavedModel) else SavedModel(), tuple(draft.notes), draft.origins
    )


def _with_present_names(document: Document) -> tuple[Document, dict[str, str]]:
    """Return a document in which training with integers is called as it is now, and what was called otherwise.

    Beside ``HyperParameterOptimization``, the older name meant quantization after training.
    """
    ((old, new),) = act.FORMER_SECTIONS.items()
    if old not in document.data or {new, 'QuantPost', 'HyperParameterOptimization'} & set(document.data):
        return document, {}
    data = {new if name == old else name: value for name, value in document.data.items()}
    places = {(new, *path[1:]) if path[:1] == (old,) else path: place for path, place in document.places.items()}
    return Document(data, document.file, places), {old: new}


def _check_names(document: Document, problems: Problems) -> None:
    for name in document.data:
        place = document.place_of((name,))
        if name in _REFUSED:
            problems.add(place, (name,), _REFUSED[name])
        elif name not in (*ACT_SECTIONS, 'version', 'include'):
            known = [section for section in ACT_SECTIONS if section not in _REFUSED]
            message = (
                f'unknown section beside those of PaddleSlim{one_of(name, known)}; settings of your own script stand '
                f'below {_GLOBAL}'
            )
            if name in (*SECTIONS, 'compressor'):
                first = next(section for section in document.data if section in ACT_SECTIONS)
                message = f"cannot stand beside {first}: the sections of PaddleSlim's files make a file of their own"
            problems.add(place, (name,), message)


def _read_sections(document: Document, problems: Problems) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, model in act.ACT_MODELS.items():
        if name not in document.data:
            continue
        value = document.data[name]
        if value is not None and not isinstance(value, dict):
            problems.add(document.place_of((name,)), (name,), f'must be a mapping, not {shown(value)}')
            continue
        made = check_model(model, without_none(value or {}), document, (name,), problems)
        if made is not None:
            found[name] = made
    return found


def _check_combination(sections: Mapping[str, Any], document: Document, problems: Problems) -> None:
    """Refuse what PaddleSlim passes over without a word, or stops at in the midst of the work."""
    given = [name for name in document.data if name in act.ACT_MODELS]
    teaching = [name for name in given if name in _TEACHING]
    trained = [name for name in given if name in _TRAINED]

    def refuse(name: str, message: str) -> None:
        problems.add(document.place_of((name,)), (name,), message)

    for name in trained:
        if not teaching:
            refuse(name, 'trains, and its loss is the difference from a teacher: add the section Distillation')
    if len(teaching) > 1:
        refuse(teaching[1], f'excludes {teaching[0]}: keep one of the two')
    if (trained or teaching) and 'TrainConfig' not in given:
        refuse((trained or teaching)[0], 'trains: add the section TrainConfig with epochs or train_iter')
    if 'HyperParameterOptimization' in given and 'QuantPost' not in given:
        refuse('HyperParameterOptimization', 'searches the settings of QuantPost: add that section')
    post = sections.get('QuantPost')
    if isinstance(post, act.QuantPost) and post.recon_level and 'HyperParameterOptimization' in given:
        path: KeyPath = ('QuantPost', 'recon_level')
        problems.add(document.place_of(path), path, 'excludes HyperParameterOptimization: keep one of the two')
    if 'QuantPost' in given and 'QuantAware' in given:
        refuse('QuantPost', 'excludes QuantAware: keep one of the two')
    pruning = [name for name in trained if name != 'QuantAware']
    if len(pruning) > 1:
        refuse(pruning[1], f'excludes {pruning[0]}: keep one of the two')
    if not [name for name in given if name != 'TrainConfig']:
        problems.add(document.place_of(()), (), 'no section says how to compress: add one such as QuantAware')
    train = sections.get('TrainConfig')
    if isinstance(train, act.TrainConfig) and train.train_iter is not None and pruning and 'QuantAware' in trained:
        path = ('TrainConfig', 'train_iter')
        problems.add(document.place_of(path), path, f'{pruning[0]} and then QuantAware are two stages: give epochs')
