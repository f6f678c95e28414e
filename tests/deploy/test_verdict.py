"""The words for measured figures, on made-up ones."""

from __future__ import annotations

import re

import pytest

from paddleslim_ng.deploy.engine_row import EngineRow
from paddleslim_ng.deploy.engines import ENGINES, obstacle, remark
from paddleslim_ng.deploy.kernel_count import KernelCount
from paddleslim_ng.deploy.verdict import compare, table, verdict
from paddleslim_ng.deploy.verification import Figures
from paddleslim_ng.runtime import Latency

ARM = 'code for Arm cannot be executed on this machine; measure on the device'


def about(median: float, spread: float = 0.02, interrupted: float = 0.0) -> Latency:
    """Return a latency whose percentiles lie ``spread`` of the median around it."""
    return Latency(median, median * (1 - spread), median * (1 + spread), 50, interrupted)


def row(model: str, engine: str, median: float | None, spread: float = 0.02, **other: object) -> EngineRow:
    return EngineRow(model, engine, None if median is None else about(median, spread), **other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ('before', 'after', 'outcome', 'words'),
    [
        (about(10.0), about(5.0), 'faster', '2.00x faster'),
        (about(5.0), about(11.0), 'slower', '2.20x slower'),
        (about(10.0, 0.3), about(9.0, 0.3), 'same', 'no faster: 1.11x, within the spread'),
        (about(9.0, 0.3), about(10.0, 0.3), 'same', 'no faster: 0.90x, within the spread'),
        (about(10.0, 0.001), about(9.5, 0.001), 'same', 'no faster: 1.05x, less than 10% apart'),
        # One of the two is noisy: its typical run lies outside the other's range, but not the other way round.
        (about(10.0, 0.01), Latency(8.0, 7.9, 12.0, 50), 'same', 'no faster: 1.25x, within the spread'),
        (Latency(10.0, 7.0, 12.0, 50), about(8.0, 0.01), 'same', 'no faster: 1.25x, within the spread'),
        (about(3.0), about(3.0), 'same', 'no faster: 1.00x, within the spread'),
    ],
)
def test_comparison(before: Latency, after: Latency, outcome: str, words: str) -> None:
    found = compare(before, after)
    assert (found.outcome, str(found)) == (outcome, words)
    assert found.ratio == pytest.approx(before.median / after.median)
    mirrored = {'faster': 'slower', 'slower': 'faster', 'same': 'same'}
    assert compare(after, before).outcome == mirrored[outcome]


def test_a_faster_model_is_recommended() -> None:
    rows = [row('original', 'onednn', 6.0), row('pruned', 'onednn', 4.0)]
    assert verdict(rows, 'original') == [
        'pruned on Paddle Inference with oneDNN: 1.50x faster than original (4.000 ms against 6.000 ms)',
        'fastest: pruned on Paddle Inference with oneDNN, 1.50x faster than original at its best',
    ]


def test_a_slower_model_is_not() -> None:
    rows = [row('original', 'onednn', 6.0), row('pruned', 'onednn', 9.0)]
    assert verdict(rows, 'original') == [
        'pruned on Paddle Inference with oneDNN: 1.50x slower than original (9.000 ms against 6.000 ms)',
        'for speed, keep original on Paddle Inference with oneDNN: nothing measured is faster',
    ]


def test_noise_is_no_speed() -> None:
    rows = [row('original', 'onednn', 6.0, 0.2), row('pruned', 'onednn', 5.5, 0.2)]
    assert verdict(rows, 'original') == [
        'pruned on Paddle Inference with oneDNN: no faster: 1.09x, within the spread (5.500 ms against 6.000 ms)',
        'for speed, keep original on Paddle Inference with oneDNN: nothing measured is clearly faster',
    ]


def int8_rows(lite: float) -> list[EngineRow]:
    """Return rows like those of MobileNetV1, with int8 on Lite x86 taking ``lite`` milliseconds."""
    return [
        row('original', 'onednn', 12.9),
        row('original', 'int8', None, note='the model is not quantized'),
        row('original', 'lite_x86', 13.2),
        row('original', 'lite_arm', None, note=ARM),
        row('int8', 'onednn', 60.0, quantized=True),
        row('int8', 'int8', 4.2, quantized=True, difference=0.004),
        row('int8', 'lite_x86', lite, quantized=True),
        row('int8', 'lite_arm', None, quantized=True, note=ARM),
    ]


def test_int8_is_taken_from_paddle_inference_and_not_from_lite_x86() -> None:
    assert verdict(int8_rows(29.4), 'original') == [
        'int8 on Paddle Inference with oneDNN: 4.65x slower than original (60.0 ms against 12.9 ms)',
        'int8 on Paddle Inference int8: 3.07x faster than original (4.200 ms against 12.9 ms on Paddle Inference with '
        'oneDNN)',
        'int8 on Lite x86: 2.23x slower than original (29.4 ms against 13.2 ms); keep fp32 there',
        'fastest: int8 on Paddle Inference int8, 3.07x faster than original at its best',
        'not executed: original on Paddle Inference int8: the model is not quantized',
        f'not executed: original, int8 on Lite Arm: {ARM}',
    ]


def test_fp32_is_kept_on_lite_unless_int8_is_faster_there() -> None:
    def lite(milliseconds: float) -> str:
        return next(text for text in verdict(int8_rows(milliseconds), 'original') if 'int8 on Lite x86:' in text)

    assert lite(13.2).endswith('within the spread (13.2 ms against 13.2 ms); keep fp32 there')
    assert lite(6.6).endswith('2.00x faster than original (6.600 ms against 13.2 ms)')
    both = [row('original', 'lite_x86', 10.0, quantized=True), row('pruned', 'lite_x86', 12.0, quantized=True)]
    assert not any('keep fp32' in text for text in verdict(both, 'original'))


def test_engines_of_one_model() -> None:
    rows = [row('model', 'plain', 30.0), row('model', 'onednn', 10.0, 0.1), row('model', 'lite_x86', 10.5, 0.1)]
    assert verdict(rows) == ['fastest: model on Paddle Inference with oneDNN; Lite x86 within the spread of it']
    assert verdict(rows[:2]) == ['fastest: model on Paddle Inference with oneDNN']


def test_nothing_ran() -> None:
    rows = [row('model', 'lite_x86', None, note='no Python with Paddle Lite was found')]
    assert verdict(rows) == [
        'nothing could be measured',
        'not executed: model on Lite x86: no Python with Paddle Lite was found',
    ]


def test_other_outputs_and_a_busy_machine_are_said() -> None:
    rows = [
        row('model', 'plain', 30.0),
        row('model', 'bf16', 5.0, difference=0.08),
        row('model', 'onednn', 10.0, difference=1e-6),
        EngineRow('model', 'lite_x86', about(9.0, interrupted=0.6), difference=float('inf')),
        row('other', 'lite_x86', 9.0, difference=1e30),
    ]
    bf16, lite, other, busy = verdict(rows)[1:]
    assert 'differ by more than 1000% of their scale' in other and other.endswith('do not use it there')
    assert bf16 == (
        'outputs of model on Paddle Inference bf16 differ by 8.0% of their scale from those on Paddle Inference '
        'without oneDNN: check the accuracy there'
    )
    assert lite == 'outputs of model on Lite x86 are no numbers, or of another shape: do not use it there'
    assert 'busy' in busy and '60%' in busy


def test_an_engine_that_computes_something_else_is_not_recommended() -> None:
    rows = [
        row('original', 'onednn', 10.0),
        row('int8', 'onednn', 50.0, quantized=True),
        row('int8', 'int8', 8.0, quantized=True, difference=0.1),
        row('int8', 'lite_x86', 1.0, quantized=True, difference=0.62),
    ]
    found = verdict(rows, 'original')
    assert 'fastest: int8 on Paddle Inference int8, 1.25x faster than original at its best' in found
    assert any('differ by 62.0%' in text and text.endswith('do not use it there') for text in found)
    assert any('differ by 10.0%' in text and text.endswith('check the accuracy there') for text in found)


def test_table() -> None:
    text = table(int8_rows(29.4), 'original')
    head, *lines = text.splitlines()
    assert head.split() == ['model', 'engine', 'median', 'ms', 'p10', 'p90', 'memory', 'MB', *head.split()[-3:]]
    assert head.split()[-3:] == ['speed', 'difference', 'note']
    assert len(lines) == 8
    assert re.search(r'int8 +lite_x86 +29\.4 +28\.8 +30\.0 +- +0\.45x', text)
    assert lines[1].endswith('the model is not quantized')
    assert re.search(r'int8 +int8 +4\.200 +4\.116 +4\.284 +- +3\.07x +4\.0e-03', text)


def distance(difference: float, top1: float) -> Figures:
    return Figures(1, True, False, 0.0, 0.0, difference, difference, top1)


def test_quantized_models_are_said_to_have_kernels_distances_and_the_defects_of_runtimes() -> None:
    mixed = KernelCount(27, 28, 0, {'fc': 1})
    rows = [
        row('original', 'plain', 30.0),
        row('original', 'onednn', 12.9),
        row('int8', 'plain', 70.0, quantized=True, distance=distance(0.03, 1.0)),
        row('int8', 'onednn', 60.0, quantized=True, distance=distance(0.03, 1.0)),
        row('int8', 'int8', 4.2, quantized=True, kernels=mixed, distance=distance(0.04, 0.5)),
        row('int8', 'lite_x86', 29.4, quantized=True, kernels=KernelCount(28, 28, 1), distance=distance(0.7, 0.25)),
        row('int8', 'lite_arm', None, quantized=True, kernels=KernelCount(28, 28, 1), note=ARM),
    ]
    found = verdict(rows, 'original')
    for sentence in (
        'int8 on Paddle Inference int8: 27 of 28 convolutions and products are int8 kernels (not: 1 x fc)',
        'int8 on Lite x86: 28 of 28 convolutions and products are int8 kernels',
        'int8 on Lite Arm: 28 of 28 convolutions and products are int8 kernels; structure verified, not executed',
        'outputs of int8 differ from those of original on these inputs by 3.0% of their scale, simulated in float '
        '(top-1 agreement 100.0%), 4.0% of their scale, Paddle Inference int8 (top-1 agreement 50.0%), 70.0% of their '
        'scale, Lite x86 (top-1 agreement 25.0%)',
    ):
        assert sentence in found
    defects = [text for text in found if ' x int8 fc: ' in text]
    # No product is int8 on Paddle Inference, and an Arm file is not executed.
    assert len(defects) == 1 and defects[0].startswith('int8 on Lite x86 has 1 x int8 fc: ') and 'bias' in defects[0]
    assert not any('kernels' in text or ' x int8 fc: ' in text for text in verdict(rows[:2], 'original'))


NATIVE = ('avx512f', 'avx512bw', 'avx512vl', 'avx512dq', 'avx512_bf16', 'avx512_vnni')


@pytest.mark.parametrize(
    ('engine', 'quantized', 'flags', 'blocked', 'noted'),
    [
        ('bf16', False, NATIVE, '', ''),
        ('bf16', False, ('amx_bf16',), '', ''),
        ('bf16', False, NATIVE[:4], '', 'emulated'),
        ('bf16', False, ('avx2',), 'neither bf16 instructions nor AVX-512', 'emulated'),
        ('bf16', True, NATIVE, 'quantized', ''),
        ('int8', False, NATIVE, 'not quantized', ''),
        ('int8', True, NATIVE, '', ''),
        ('int8', True, ('avx2',), '', 'no VNNI'),
        ('plain', False, (), '', ''),
        ('onednn', True, NATIVE, '', 'simulates'),
        ('lite_x86', True, (), '', ''),
        ('lite_arm', False, NATIVE, 'cannot be executed', ''),
    ],
)
def test_what_keeps_an_engine_from_running(
    engine: str, quantized: bool, flags: tuple[str, ...], blocked: str, noted: str
) -> None:
    for wanted, found in (
        (blocked, obstacle(ENGINES[engine], quantized, flags)),
        (noted, remark(ENGINES[engine], quantized, flags)),
    ):
        assert wanted in found and bool(wanted) == bool(found)


def test_interrupted_runs_do_not_count_while_enough_others_do() -> None:
    assert Latency.of([1.0, 9.0, 1.0, 1.0], [0, 3, 0, 0]) == Latency(1.0, 1.0, 1.0, 3, 0.25)
    mostly = Latency.of([1.0, 9.0, 9.0, 9.0, 9.0], [0, 1, 1, 2, 1])
    assert (mostly.median, mostly.repeats, mostly.interrupted) == (9.0, 5, 0.8)
    assert Latency.of([2.0, 4.0]) == Latency(3.0, 2.2, 3.8, 2, 0.0)
