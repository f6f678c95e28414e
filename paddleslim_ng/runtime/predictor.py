"""Paddle Inference predictors on the CPU, set up the way that works on every tested Paddle."""

from __future__ import annotations

import os
from typing import Any

from paddleslim_ng.errors import ConfigError

__all__ = ['cpu_predictor']

# Paddle 3.3 aborts in it on networks that activate the concatenation of convolutions, such as GoogLeNet.
_BROKEN_PASSES = ('conv_concat_activation_onednn_fuse_pass',)
# Method of the configuration that asks oneDNN for a precision.
_PRECISIONS = {'fp32': None, 'bf16': 'enable_mkldnn_bfloat16', 'int8': 'enable_mkldnn_int8'}


def cpu_predictor(
    program_file: str | os.PathLike[str],
    parameter_file: str | os.PathLike[str],
    *,
    threads: int = 1,
    onednn: bool = True,
    precision: str = 'fp32',
) -> Any:
    """Return a ``paddle.inference`` predictor of a saved model, which holds a copy of its parameters.

    Args:
        program_file: ``.pdmodel`` or ``.json``.
        parameter_file: ``.pdiparams``.
        threads: threads of the math library.
        onednn: use the oneDNN kernels, several times faster than Paddle's plain ones.
        precision: ``'fp32'``; ``'bf16'``, which casts where the CPU can; ``'int8'``, which takes effect on quantized
            models in a ``.pdmodel`` only. The last two need ``onednn``.

    Raises:
        ConfigError: an unknown precision, or one that needs oneDNN without it.
    """
    if precision not in _PRECISIONS or (precision != 'fp32' and not onednn):
        raise ConfigError(f'precision must be one of {list(_PRECISIONS)}, with onednn for all but fp32: {precision!r}')
    from paddle import inference

    config = inference.Config(os.fspath(program_file), os.fspath(parameter_file))
    config.disable_gpu()
    config.disable_glog_info()
    config.set_cpu_math_library_num_threads(threads)
    if onednn:
        config.enable_mkldnn()
        for name in _BROKEN_PASSES:
            config.delete_pass(name)
        enable = _PRECISIONS[precision]
        if enable is not None:
            getattr(config, enable)()
    elif hasattr(config, 'disable_mkldnn'):
        config.disable_mkldnn()
    return inference.create_predictor(config)
