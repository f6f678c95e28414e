"""The job around a saved inference model: what trains, by which loss, and how it is evaluated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import paddle

from paddleslim_ng.compress.compressor import Compressor
from paddleslim_ng.compress.context import Context
from paddleslim_ng.compress.evaluation import as_numbers
from paddleslim_ng.compress.observer import Observer
from paddleslim_ng.compress.optimizers import OptimizerLike
from paddleslim_ng.compress.plugins import Distiller
from paddleslim_ng.compress.readers import Feed, Reader
from paddleslim_ng.compress.trainable import evaluation_program, trainable_program
from paddleslim_ng.compress.trainer import Trainer
from paddleslim_ng.compress.trainer_options import EpochRecord, TrainerOptions
from paddleslim_ng.core import Executor, GraphWrapper, clone_program
from paddleslim_ng.core.ir_mode import matching_ir
from paddleslim_ng.core.paddle_compat import in_pir_mode
from paddleslim_ng.dist import merge
from paddleslim_ng.errors import ConfigError, DataError
from paddleslim_ng.quant.output_distance import OutputDistance
from paddleslim_ng.runtime import InferenceModel
from paddleslim_ng.runtime.model_files import ModelFiles
from paddleslim_ng.runtime.model_loading import load_model_files

__all__ = ['AGREEMENT', 'METRIC', 'EvalFunction', 'SavedModelJob', 'SavedModelTrainer']

AGREEMENT: Final = 'agreement'
METRIC: Final = 'metric'
EvalFunction = Callable[[Any, Any, list[str], list[Any]], Any]
TrainerFactory = Callable[[Context, TrainerOptions], Trainer]


class SavedModelTrainer(Trainer):
    """Ends when a metric is good enough, and knows where it went on.

    Args:
        context: the job.
        options: see :class:`~paddleslim_ng.compress.Trainer`.
        target: ``(metric, value)`` that ends training, or None.

    Attributes:
        went_on: epoch and batch where an interrupted job was taken up; None where it began.
    """

    def __init__(self, context: Context, options: TrainerOptions, target: tuple[str, float] | None) -> None:
        super().__init__(context, options)
        self._target = target
        self.went_on: tuple[int, int] | None = None

    def fit(
        self, epochs: int, observer: Observer | None = None, *, epoch: int = 0, batch: int = 0, least: int = 0
    ) -> list[EpochRecord]:
        """Train; see :meth:`~paddleslim_ng.compress.Trainer.fit`."""
        self.went_on = (epoch, batch) if epoch or batch else None
        return super().fit(epochs, observer, epoch=epoch, batch=batch, least=least)

    def should_stop(self, record: EpochRecord) -> str | bool | None:
        """Tell after an epoch why training ends here, or None to go on."""
        if self._target is not None and record.metrics.get(self._target[0], -np.inf) >= self._target[1]:
            name, value = self._target
            return f'{name} is {record.metrics[name]:g} and has reached {value:g}'
        return super().should_stop(record)


class SavedModelJob:
    """A saved model twice: one that is compressed, and one that stays as it is and teaches.

    Args:
        files: of the model.
        train_data: batches to learn from.
        eval_data: batches to compare outputs on, or None.
        eval_function: measures a model, or None.
        place: device; the CPU where None.

    Attributes:
        files: of the model.
        given: evaluation program of the model as it was given.
        teacher: the model as it was given.
        example: the first batch of evaluation, or of training.
        reader: of the training data.
        eval_batches: what outputs are compared on.

    Raises:
        DataError: the model or the data cannot be used.
        GraphError: the model has no weights in floating point.
    """

    def __init__(
        self, files: ModelFiles, train_data: Any, eval_data: Any, eval_function: EvalFunction | None, place: Any
    ) -> None:
        self.files, self.place = files, place
        # Trained is what the present mode of Paddle builds, whatever format the files have.
        device, ir = Executor(place).place, 'pir' if in_pir_mode() else 'legacy'
        self._source = load_model_files(files, paddle.static.Scope(), device, ir)
        self.teacher = load_model_files(files, paddle.static.Scope(), device, ir)
        self.given = evaluation_program(self._source)
        self.feeds = [(name, name) for name in self._source.feeds]
        self.reader = Reader(train_data, self.feeds, 'train_data')
        self.eval_batches = self._batches(eval_data) if eval_data is not None else []
        self.example = self._first()
        self._function = eval_function
        self._distance = OutputDistance(self.teacher, self.eval_batches, place) if self.eval_batches else None

    @property
    def inputs(self) -> list[str]:
        """Names of the model's inputs."""
        return list(self._source.feeds)

    @property
    def outputs(self) -> list[str]:
        """Names of the model's outputs in the programs of the job."""
        return [GraphWrapper.name_of(item) for item in self._source.fetches]

    @property
    def file_bytes(self) -> int:
        """Size of the model's files."""
        parameters = self.files.parameters
        every = [self.files.program, *(parameters.iterdir() if parameters.is_dir() else [parameters])]
        return sum(path.stat().st_size for path in set(every) if path.is_file())

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Whole shapes of the inputs, by the first batch."""
        return {name: list(array.shape) for name, array in self.example.items()}

    def _batches(self, eval_data: Any) -> list[Feed]:
        reader = Reader(eval_data, self.feeds, 'eval_data')
        found: list[Feed] = self._told(lambda: list(reader.feeds(self.given)))
        return found

    def _first(self) -> Feed:
        """Return the first batch, and look at the first one of training, before hours have been spent."""
        if self.reader.is_exhaustible():
            if not self.eval_batches:
                raise ConfigError('train_data is a generator, which gives its batches once: give the function')
            return self.eval_batches[0]
        self.reader.set_epoch(0)
        trained: Feed = self._told(lambda: next(iter(self.reader.feeds(self.given))))
        return self.eval_batches[0] if self.eval_batches else trained

    def _told(self, read: Callable[[], Any]) -> Any:
        """Read data, and let errors say what a batch consists of."""
        try:
            return read()
        except DataError as error:
            raise DataError(f'{error}. A batch holds the inputs of the model, {self.inputs}, and no labels') from error

    def metrics(self, program: Any, scope: Any) -> dict[str, float]:
        """Return all figures of a network of the job."""
        graph = GraphWrapper(clone_program(program, for_test=True))
        outputs = [graph.var(name).raw for name in self.outputs]
        return self.metrics_of(InferenceModel(graph.program, self.inputs, outputs, scope))

    def metrics_of(self, model: InferenceModel) -> dict[str, float]:
        """Return all figures of a model with the inputs and outputs of the given one; first what the function says."""
        found: dict[str, float] = {}
        if self._function is not None:
            with matching_ir(model.program), paddle.static.scope_guard(model.scope):
                said = self._function(Executor(self.place), model.program, list(model.feeds), list(model.fetches))
            table = said if isinstance(said, Mapping) else {METRIC: said}
            found.update(as_numbers(table, 'eval_function'))
        if self._distance is not None:
            found[AGREEMENT] = 1.0 - self._distance(model)
        return found

    def compressor(
        self,
        distiller: Distiller,
        optimizer: OptimizerLike | None,
        trainer: Callable[[Context, TrainerOptions], Trainer],
    ) -> Compressor:
        """Return the compressor of a trainable copy, whose loss is the distance from the teacher."""
        train, outputs = trainable_program(self._source), [(name, name) for name in self.outputs]
        same = {name: name for name in self.inputs}
        merged = merge(self.teacher, train, same, self.place, self._source.scope, feed=self.example)
        startup = paddle.static.Program()
        with matching_ir(train), paddle.static.program_guard(train, startup):
            loss = GraphWrapper.name_of(distiller.loss(train, merged, startup))
        Executor(self.place).run(startup, scope=self._source.scope)
        return Compressor(
            self.place,
            self._source.scope,
            train,
            self.reader.source,
            self.feeds,
            [('loss', loss)],
            clone_program(self.given),
            None,
            self.feeds,
            outputs,
            eval_func={METRIC: self.metrics},
            train_optimizer=optimizer,
            trainer=trainer,
        )

    def identity(self) -> dict[str, Any]:
        """Return what tells the data from others.

        That is the number of batches, the seed of a reader that tells it, and a digest of what outputs are compared on.
        """
        digest = hashlib.blake2b(digest_size=8)
        for feed in self.eval_batches:
            for name, array in feed.items():
                digest.update(f'{name}|{array.shape}|'.encode())
                digest.update(array.tobytes())
        return {
            'batches': self.reader.length(),
            'seed': getattr(self.reader.source, 'seed', None),
            'eval_data': digest.hexdigest() if self.eval_batches else None,
        }
