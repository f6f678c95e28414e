"""The engines that :func:`paddleslim_ng.deploy.measure` knows, and what keeps one from running a model here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

__all__ = ['ENGINES', 'Engine', 'cpu_flags', 'obstacle', 'remark']


@dataclass(frozen=True)
class Engine:
    """One way to run a model.

    Attributes:
        name: how arguments and results call it.
        title: how sentences call it.
        runtime: ``'paddle'`` (Paddle Inference) or ``'lite'`` (Paddle Lite).
        onednn: Paddle Inference uses the oneDNN kernels.
        precision: of Paddle Inference's kernels.
        needs_pdmodel: a ``.json`` model is translated first.
        in_float: the engine that does the same with float models.
    """

    name: str
    title: str
    runtime: str = 'paddle'
    onednn: bool = True
    precision: str = 'fp32'
    needs_pdmodel: bool = False
    in_float: str | None = None


_ROWS = (
    Engine('plain', 'Paddle Inference without oneDNN', onednn=False),
    Engine('onednn', 'Paddle Inference with oneDNN'),
    Engine('bf16', 'Paddle Inference bf16', precision='bf16'),
    # On a .json, Paddle 3.3 accepts the setting and computes in float all the same.
    Engine('int8', 'Paddle Inference int8', precision='int8', needs_pdmodel=True, in_float='onednn'),
    Engine('lite_x86', 'Lite x86', runtime='lite', needs_pdmodel=True),
    Engine('lite_arm', 'Lite Arm', runtime='lite', needs_pdmodel=True),
)
#: All engines by name, in the order of tables.
ENGINES = {engine.name: engine for engine in _ROWS}

_BF16_FLAGS = frozenset({'avx512_bf16', 'amx_bf16'})
_VNNI_FLAGS = frozenset({'avx512_vnni', 'avx_vnni', 'amx_int8'})
_AVX512_CORE = frozenset({'avx512f', 'avx512bw', 'avx512vl', 'avx512dq'})


def cpu_flags() -> frozenset[str]:
    """Return what the CPU says it can do, in Linux's words; empty where that cannot be read."""
    try:
        lines = Path('/proc/cpuinfo').read_text('utf-8').splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(':', 1)[1].split() for line in lines if line.startswith('flags')), []))


def obstacle(engine: Engine, quantized: bool, flags: Collection[str]) -> str:
    """Say why an engine cannot run a model on this CPU, or ``''``.

    Args:
        engine: one of :data:`ENGINES`.
        quantized: the model has quantization operators.
        flags: of the CPU, as from :func:`cpu_flags`.
    """
    if engine.name == 'lite_arm':
        return 'code for Arm cannot be executed on this machine; measure on the device'
    if engine.precision == 'int8' and not quantized:
        return 'the model is not quantized'
    if engine.precision == 'bf16' and quantized:
        return 'the model is quantized, and bf16 applies to float models'
    if engine.precision == 'bf16' and not (_BF16_FLAGS.intersection(flags) or _AVX512_CORE.issubset(flags)):
        return 'this CPU has neither bf16 instructions nor AVX-512 to emulate them, so oneDNN would compute in fp32'
    return ''


def remark(engine: Engine, quantized: bool, flags: Collection[str]) -> str:
    """Say what to know about the figures of an engine that runs, or ``''``; arguments as for :func:`obstacle`."""
    if engine.precision == 'bf16' and not _BF16_FLAGS.intersection(flags):
        return 'emulated: this CPU has no bf16 instructions'
    if engine.precision == 'int8' and not _VNNI_FLAGS.intersection(flags):
        return 'this CPU has no VNNI instructions, with which int8 would be faster'
    if engine.runtime == 'paddle' and engine.precision == 'fp32' and quantized:
        return 'simulates the quantized model in fp32'
    return ''
