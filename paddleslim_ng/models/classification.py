"""A ready classifier: training and evaluation programs, metrics and an executor in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import paddle
import paddle.nn.functional as F  # noqa: N812

from paddleslim_ng.core import Executor, clone_program
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.models.network import Network
from paddleslim_ng.models.registry import create

__all__ = ['Classifier', 'build_classifier', 'image_classification']

# To Paddle, a program with the seed 0 has none, so the largest number stands for it.
_SEED_ZERO = 2**31 - 1


class TensorList(list[Any]):
    """A list of symbolic tensors that keeps their program alive.

    A PIR value does not: once its program is gone, touching the value ends the process.
    """

    def __init__(self, tensors: Iterable[Any], program: Any) -> None:
        super().__init__(tensors)
        self._program = program


@dataclass(frozen=True)
class Classifier:
    """A classifier's programs and the tensors of interest in them.

    Attributes:
        exe: executor on the chosen place; it resolves the tensors below in every program here and in their clones.
        train_program: forward, backward and optimizer operators.
        val_program: the forward part, in test mode.
        startup_program: initializes parameters and optimizer state; it has been run.
        inputs: image [N, C, H, W] float32 and label [N, 1] int64.
        outputs: top-1 accuracy, top-5 accuracy (top ``class_num`` when there are fewer classes) and mean loss.
        probabilities: softmax output, [N, class_num].
        logits: its input, [N, class_num].
        optimizer: the optimizer that trains.
    """

    exe: Executor
    train_program: Any
    val_program: Any
    startup_program: Any
    inputs: list[Any]
    outputs: list[Any]
    probabilities: Any
    logits: Any
    optimizer: Any


def image_classification(
    model: str | Network,
    image_shape: Sequence[int],
    class_num: int,
    use_gpu: bool = False,
    *,
    optimizer: Any = None,
    seed: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    scope: Any = None,
) -> tuple[Executor, Any, Any, list[Any], list[Any]]:
    """Build a classifier with loss, accuracies and optimizer, and initialize it.

    Args:
        model: a name of :data:`paddleslim_ng.models.MODELS`, or a network object.
        image_shape: [channels, height, width].
        class_num: number of classes.
        use_gpu: run on the first GPU instead of the CPU.
        optimizer: a ``paddle.optimizer`` object; default Momentum(0.01, 0.9) with L2 decay 4e-5.
        seed: makes initial values and dropout reproducible; None draws from Paddle's generator.
        model_kwargs: constructor arguments of the network, such as ``{'scale': 0.5}``.
        scope: where the parameters go; default the current global scope.

    Returns:
        ``(exe, train_program, val_program, inputs, outputs)``, with inputs [image, label] and outputs
        [acc_top1, acc_top5, loss]; see :class:`Classifier`.

    Raises:
        ConfigError: dynamic graph mode, unknown model or argument, an impossible shape, or a GPU without support.

    Example:
        >>> exe, train, val, inputs, outputs = slim.models.image_classification('MobileNet', [1, 28, 28], 10)
    """
    built = build_classifier(
        model,
        image_shape,
        class_num,
        use_gpu,
        optimizer=optimizer,
        seed=seed,
        model_kwargs=model_kwargs,
        scope=scope,
    )
    return built.exe, built.train_program, built.val_program, built.inputs, built.outputs


def build_classifier(
    model: str | Network,
    image_shape: Sequence[int],
    class_num: int,
    use_gpu: bool = False,
    *,
    optimizer: Any = None,
    seed: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    scope: Any = None,
) -> Classifier:
    """Do as :func:`image_classification`, and return everything that was made as a :class:`Classifier`."""
    _check(image_shape, class_num, use_gpu)
    network = _network(model, model_kwargs)
    train, startup = paddle.static.Program(), paddle.static.Program()
    if seed is not None:
        train.random_seed = startup.random_seed = seed or _SEED_ZERO
    with paddle.static.program_guard(train, startup), paddle.utils.unique_name.guard():
        image = paddle.static.data('image', [None, *image_shape], 'float32')
        label = paddle.static.data('label', [None, 1], 'int64')
        probabilities = network.net(image, class_dim=class_num)
        loss = F.cross_entropy(network.logits, label)
        top1 = paddle.static.accuracy(probabilities, label, k=1)
        top5 = paddle.static.accuracy(probabilities, label, k=min(5, class_num))
        val = clone_program(train, for_test=True)
        optimizer = optimizer or _default_optimizer()
        optimizer.minimize(loss)
    exe = Executor(paddle.static.cuda_places()[0] if use_gpu else paddle.CPUPlace())
    exe.run(startup, scope=scope)
    inputs, outputs = TensorList([image, label], train), TensorList([top1, top5, loss], train)
    return Classifier(exe, train, val, startup, inputs, outputs, probabilities, network.logits, optimizer)


def _default_optimizer() -> Any:
    decay = paddle.regularizer.L2Decay(4e-5)
    return paddle.optimizer.Momentum(learning_rate=0.01, momentum=0.9, weight_decay=decay)


def _network(model: str | Network, kwargs: Mapping[str, Any] | None) -> Network:
    if isinstance(model, Network):
        if kwargs:
            raise ConfigError('model_kwargs applies to a model given by name, not to a network object')
        return model
    return create(model, **(kwargs or {}))


def _check(image_shape: Sequence[int], class_num: int, use_gpu: bool) -> None:
    if paddle.in_dynamic_mode():
        raise ConfigError('image_classification builds static programs: call paddle.enable_static() first')
    if len(image_shape) != 3 or any(int(size) < 1 for size in image_shape):
        raise ConfigError(f'image_shape must be [channels, height, width], not {image_shape!r}')
    if int(class_num) < 1:
        raise ConfigError(f'class_num must be at least 1, not {class_num!r}')
    if use_gpu and not paddle.is_compiled_with_cuda():
        raise ConfigError('use_gpu=True, but this Paddle was built without CUDA')
