"""From one saved inference model to another, with no training script: the float model is the teacher."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Union

from paddleslim_ng.compress.auto_compressed import AutoCompressed
from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.decisive_metrics import with_metric
from paddleslim_ng.compress.delivery import MODEL, Timing, deliver
from paddleslim_ng.compress.fine_tuning import with_optimizer
from paddleslim_ng.compress.job_folder import JobFolder, job_record, model_digest
from paddleslim_ng.compress.optimizers import OptimizerLike
from paddleslim_ng.compress.plugins import Distiller, L2Distiller, SoftLabelDistiller
from paddleslim_ng.compress.saved_model_job import EvalFunction, SavedModelJob, SavedModelTrainer
from paddleslim_ng.compress.trainer_options import TrainerOptions
from paddleslim_ng.core.ir_mode import static_mode
from paddleslim_ng.deploy import find_interpreter
from paddleslim_ng.errors import ConfigError, nearest_names
from paddleslim_ng.runtime.model_files import ModelFiles, find_named_model

if TYPE_CHECKING:
    from paddleslim_ng.compress.configuration import CompressionConfig
    from paddleslim_ng.compress.configuration.configuration import SavedModel as ConfiguredModel

__all__ = ['AutoCompressed', 'auto_compress']

_LOG = logging.getLogger('paddleslim_ng')
_LOSSES: Final[Mapping[str, Callable[[], Distiller]]] = {'l2': L2Distiller, 'soft_label': SoftLabelDistiller}
_NEAR: Final = 0.01
_Config = Union['CompressionConfig', Mapping[str, Any], str, 'os.PathLike[str]']


@static_mode()
def auto_compress(
    model_dir: str | os.PathLike[str] | ModelFiles | None,
    train_data: Any,
    eval_data: Any,
    config: _Config,
    save_dir: str | os.PathLike[str],
    *,
    model_filename: str | None = None,
    params_filename: str | None = None,
    eval_function: EvalFunction | None = None,
    loss: str | Distiller = 'l2',
    train_optimizer: OptimizerLike | None = None,
    place: Any = None,
    measured: bool = True,
    engines: list[str] | None = None,
    repeats: int = 50,
    interpreter: str | os.PathLike[str] | None = None,
) -> AutoCompressed:
    """Compress a saved inference model by the strategies of a configuration; neither labels nor a script are needed.

    The loss is distillation from the model as it was given, a teacher that stays as it is: ``'l2'``, the mean square
    difference of what the last layers with weights compute (of a classifier, its logits), or ``'soft_label'``, the
    cross-entropy between their softmax, for classifiers alone. Strategies of the configuration see this loss as the
    network's own. Evaluated is what ``eval_function`` says, and the ``agreement`` with the outputs of the given model
    (1 is the same, 0 is what zeros have).

    Called again after an interruption, it goes on from the last checkpoint; called again when it is done, it writes the
    results anew. A folder of another job is refused.

    Args:
        model_dir: path without suffix or program file of a model of either format, a folder that holds one, or its
            files; that of the configuration where None.
        train_data: batches of the model's inputs, in any form that :class:`~paddleslim_ng.compress.Compressor` takes.
        eval_data: batches to compare outputs on; None where there is an ``eval_function``.
        config: a YAML file, a mapping like one, or a loaded configuration, this package's or PaddleSlim's
            AutoCompression. Relative paths of files that it lets the job write are below ``save_dir``. Without an
            optimizer, Adam learns, with a rate that falls from 0.001 to 0 along half a cosine.
        save_dir: folder of the results: ``model`` in float, ``int8`` where a strategy quantizes and names no path of
            its own, ``report.html``, ``job.json``, which says what job it is, and ``checkpoints``.
        model_filename: name of the program file in ``model_dir``.
        params_filename: name of the parameter file in ``model_dir``.
        eval_function: ``function(executor, program, feed names, fetch targets)`` returns a number, the ``metric``, or
            ``{name: number}``, the larger the better. With ``target_metric`` of the configuration, training ends when
            the first of them reaches it.
        loss: see above; or a distiller.
        train_optimizer: that of the configuration where None.
        place: device; the CPU where None.
        measured: time the models on the engines of this machine.
        engines: names of :data:`slim.deploy.ENGINES`; all where None.
        repeats: counted runs of each model on each engine.
        interpreter: a Python with Paddle Lite, for the times; found where None.

    Returns:
        The files with their figures; ``print`` it.

    Raises:
        ConfigurationError: the configuration is wrong; nothing has been read then.
        ConfigError: an argument is unusable, or ``save_dir`` holds another job.
        DataError: the model or the data cannot be used.
        EquivalenceError: a file does not compute what was compressed.

    Example:
        >>> print(slim.auto_compress('float/model', images, test_images, 'compress.yaml', 'compressed'))
    """
    settings = _loaded(config)
    distiller = _distiller(loss)
    if eval_data is None and eval_function is None:
        raise ConfigError('nothing tells how good a model is: give eval_data, or eval_function')
    timing = Timing(engines, repeats, interpreter) if measured else None
    if timing is not None:
        timing.require()
    _require_lite(settings, interpreter)
    files = _find(model_dir, model_filename, params_filename, settings.saved_model)
    folder = JobFolder(Path(save_dir))
    _keep_apart(files, folder.path)
    job = SavedModelJob(files, train_data, eval_data, eval_function, place)
    named = loss if isinstance(loss, str) else type(loss).__qualname__
    record = job_record(settings, model=model_digest(files), loss=named, **job.identity())
    folder.require(record)
    before = job.metrics_of(job.teacher)
    target = _target(settings.saved_model, before, eval_function)
    trainers: list[SavedModelTrainer] = []

    def trainer(context: Context, options: TrainerOptions) -> SavedModelTrainer:
        trainers.append(SavedModelTrainer(context, options, target))
        return trainers[-1]

    compressor = job.compressor(distiller, train_optimizer, trainer)
    learned = with_optimizer(with_metric(settings, list(before)), job.reader.length())
    compressor.config(folder.config_within(learned))
    folder.claim(record)
    result = compressor.run()
    return deliver(job, compressor, result, folder.path, before, timing, trainers[-1].went_on)


def _loaded(config: _Config) -> CompressionConfig:
    from paddleslim_ng.compress.configuration import CompressionConfig, load_config

    return config if isinstance(config, CompressionConfig) else load_config(config)


def _distiller(given: str | Distiller) -> Distiller:
    if isinstance(given, Distiller):
        return given
    if given not in _LOSSES:
        raise ConfigError(f'unknown loss {given!r}{nearest_names(str(given), _LOSSES)}; known: {", ".join(_LOSSES)}')
    return _LOSSES[given]()


def _find(
    path: str | os.PathLike[str] | ModelFiles | None,
    program: str | None,
    parameters: str | None,
    configured: ConfiguredModel | None,
) -> ModelFiles:
    """Return the files of the model: what the arguments say goes before the configuration."""
    if path is None and configured is not None:
        path = configured.model_dir
        program = program or configured.model_filename
        parameters = parameters or configured.params_filename
    if path is None:
        raise ConfigError('model_dir is missing, here and in the configuration')
    if isinstance(path, ModelFiles):
        return path
    return find_named_model(path, program, parameters)


def _keep_apart(files: ModelFiles, folder: Path) -> None:
    given = files.program.with_suffix('').resolve()
    if given == (folder / MODEL).resolve():
        raise ConfigError(f'{given}, the model itself, would be replaced by the result: give another save_dir')


def _require_lite(settings: CompressionConfig, interpreter: str | os.PathLike[str] | None) -> None:
    """Look for Paddle Lite before hours of training, where files for it are to be written."""
    paths = [getattr(one.options, 'mobile_model_save_path', None) for one in settings.strategies]
    if any(path is not None for path in paths):
        find_interpreter(interpreter)


def _target(
    configured: ConfiguredModel | None, before: Mapping[str, float], function: EvalFunction | None
) -> tuple[str, float] | None:
    """Return which metric ends training at which value; warn where the model is not what the configuration says."""
    target, origin = getattr(configured, 'target_metric', None), getattr(configured, 'origin_metric', None)
    if target is None and origin is None:
        return None
    if function is None:
        raise ConfigError('target_metric and origin_metric are values of eval_function, which is missing')
    name = next(iter(before))
    if origin is not None and abs(before[name] - origin) > _NEAR * max(abs(origin), _NEAR):
        _LOG.warning('%s of the given model is %g, and origin_metric says %g', name, before[name], origin)
    return (name, target) if target is not None else None
