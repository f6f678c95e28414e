"""What int8 brings in Paddle Inference: a quantized MobileNet against the same in float with oneDNN."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness import OURS, PADDLESLIM, Case, Metric, Outcome, Results, Target, median_of

from cases import calibration

BATCHES = (1, 8)
TURNS = 15


def measure(side: str, quick: bool) -> Outcome:
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as folder:
        (_theirs if side == PADDLESLIM else _ours)(Path(folder), quick)
        for batch in BATCHES:
            before, after = _seconds(Path(folder), batch, 3 if quick else TURNS)
            outcome.add(f'float_{batch}', before)
            outcome.add(f'int8_{batch}', after)
            outcome.add(f'ratio_{batch}', before / after)
        outcome.facts['kernels'] = _kernels(Path(folder))
    return outcome


def _ours(folder: Path, quick: bool) -> None:
    """Save the network, and quantize what was saved."""
    import paddle

    from paddleslim_ng.quant import quantize_model
    from paddleslim_ng.runtime import load_inference_model, save_inference_model

    program, output, scope = calibration.build(quick)
    save_inference_model(program, folder / 'float' / 'model', ['image'], [output], scope, check=False)
    model = load_inference_model(folder / 'float' / 'model', paddle.static.Scope())
    quantize_model(model, calibration.images(calibration.IMAGES), folder / 'int8' / 'model')


def _theirs(folder: Path, quick: bool) -> None:
    program, output, scope = calibration.build(quick)
    calibration.quantize_theirs(program, output, scope, 'hist', str(folder))


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    from paddleslim_ng.runtime.inference_model import model_files

    program, parameters = model_files(folder / name / 'model')
    return program, parameters


def _feed(batch: int) -> dict[str, Any]:
    import numpy as np

    return {'image': np.random.default_rng(0).standard_normal((batch, 3, 224, 224)).astype('float32')}


def _seconds(folder: Path, batch: int, turns: int) -> tuple[float, float]:
    """Run both in turns, each in a process of its own, and return the median CPU seconds of one run."""
    import numpy as np

    from paddleslim_ng.runtime.predictor_process import PredictorProcess

    times: dict[str, list[float]] = {'float': [], 'int8': []}
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(
                PredictorProcess(*_files(folder, name), precision='int8' if name == 'int8' else 'fp32')
            )
            for name in times
        }
        for process in processes.values():
            process.set_inputs({process.inputs[0]: _feed(batch)['image']})
            process.run(3)
        for _ in range(turns):
            for name, process in processes.items():
                times[name].append(process.run(2).cpu[-1])  # the first one brings its weights back into the caches
    return float(np.median(times['float'])) / 1e3, float(np.median(times['int8'])) / 1e3


def _kernels(folder: Path) -> str:
    """Say how many convolutions and products ran in int8."""
    import paddle

    from paddleslim_ng.deploy.kernel_count import count_heavy, kernels_of_inference
    from paddleslim_ng.runtime import load_inference_model

    model = load_inference_model(folder / 'int8' / 'model', paddle.static.Scope())
    return str(kernels_of_inference(*_files(folder, 'int8'), _feed(1), count_heavy(model.program)))


def notes(results: Results) -> list[str]:
    return [
        f'{side}: {outcome.facts["kernels"]}.' for side, outcome in results.items() if 'kernels' in outcome.facts
    ] + [
        'At batch 1, oneDNN itself says that 96 % of the int8 time is in the convolutions: all of them take and give '
        'integers, with no conversion between them. The ratio there follows the float side, which the load of a shared '
        'machine moves by a fifth.'
    ]


CASE = Case(
    key='int8_inference',
    title='int8 in Paddle Inference',
    text=f'A MobileNet at 3x224x224 of random weights, quantized with {calibration.IMAGES} images and the observer '
    "hist (ours with batch norms folded, PaddleSlim's with its defaults), against the same in float, both with oneDNN, "
    'one thread, in processes of their own that run turn by turn; median CPU seconds of one run.',
    measure=measure,
    metrics=tuple(
        metric
        for batch in BATCHES
        for metric in (
            Metric(f'float_{batch}', f'float, batch {batch}', 'ms', 1e3, compare=False),
            Metric(f'int8_{batch}', f'int8, batch {batch}', 'ms', 1e3),
            Metric(f'ratio_{batch}', f'float / int8, batch {batch}', '', compare=False),
        )
    ),
    targets=tuple(
        Target(
            f'int8 against float, batch {batch}', OURS, median_of(f'ratio_{batch}'), 3.1, 'times as fast', at_least=True
        )
        for batch in BATCHES
    ),
    rounds=2,
    notes=notes,
)
