"""Paddle Inference predictors on the CPU, set up the way that works on every tested Paddle."""

from __future__ import annotations

import os
from typing import Any

__all__ = ['cpu_predictor']

# Paddle 3.3 aborts in it on networks that activate the concatenation of convolutions, such as GoogLeNet.
_BROKEN_PASSES = ('conv_concat_activation_onednn_fuse_pass',)


def cpu_predictor(
    program_file: str | os.PathLike[str],
    parameter_file: str | os.PathLike[str],
    *,
    threads: int = 1,
    onednn: bool = True,
) -> Any:
    """Return a ``paddle.inference`` predictor of a saved model, which holds a copy of its parameters.

    Args:
        program_file: ``.pdmodel`` or ``.json``.
        parameter_file: ``.pdiparams``.
        threads: threads of the math library.
        onednn: use the oneDNN kernels, several times faster than Paddle's plain ones.
    """
    from paddle import inference

    config = inference.Config(os.fspath(program_file), os.fspath(parameter_file))
    config.disable_gpu()
    config.disable_glog_info()
    config.set_cpu_math_library_num_threads(threads)
    if onednn:
        config.enable_mkldnn()
        for name in _BROKEN_PASSES:
            config.delete_pass(name)
    elif hasattr(config, 'disable_mkldnn'):
        config.disable_mkldnn()
    return inference.create_predictor(config)
