"""Sensitivity analysis of a MobileNet, with a function and with an Evaluator."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from harness import OURS, PADDLESLIM, Case, Metric, Outcome, Results, Target, cpu_seconds, median_of

PARAMETERS = (
    'conv2_1_sep_weights',
    'conv2_2_sep_weights',
    'conv3_1_sep_weights',
    'conv3_2_sep_weights',
    'conv4_1_sep_weights',
)
RATIOS = (0.1, 0.2, 0.3)
BATCH = 64
IMAGES = 2048
QUICK_IMAGES = 256


class Job:
    """The network, the images and their labels, and evaluation by a function that counts its own time.

    Labels are what the dense network says, so the metric is the share of images on which a pruned network agrees.
    """

    def __init__(self, side: str, quick: bool) -> None:
        import numpy as np

        from cases import networks

        paddle = networks.paddle
        self.side = side
        self.place = paddle.CPUPlace()
        # PaddleSlim's sensitivity works in the global scope.
        self.scope = paddle.static.global_scope()
        kwargs = {'scale': 0.25} if quick else {}
        built = networks.build_classifier('MobileNet', [1, 28, 28], 10, model_kwargs=kwargs, scope=self.scope)
        self.program, self.accuracy = built.val_program, built.outputs[0]
        self.probabilities, self.logits = built.probabilities, built.logits
        self.exe = built.exe
        self._keep = built
        networks.fill(self.program, self.scope)
        images = QUICK_IMAGES if quick else IMAGES
        self.images = np.random.default_rng(1).normal(size=(images, 1, 28, 28)).astype(np.float32)
        self.labels = np.zeros((images, 1), dtype=np.int64)
        self.seconds: list[float] = []
        self.programs: set[int] = set()
        self._seen: list[Any] = []
        self._balance_classes()

    def feeds(self) -> list[dict[str, Any]]:
        starts = range(0, len(self.images), BATCH)
        return [{'image': self.images[i : i + BATCH], 'label': self.labels[i : i + BATCH]} for i in starts]

    def _balance_classes(self) -> None:
        """Shift the classes so that none wins always, and take the network's answers as labels."""
        import numpy as np

        from paddleslim_ng.core.parameters import load_array, store_array

        runs = [self.exe.run(self.program, feed, [self.logits], scope=self.scope)[0] for feed in self.feeds()]
        logits = np.concatenate(runs)
        store_array(self.scope, 'fc7_offset', load_array(self.scope, 'fc7_offset') - logits.mean(axis=0))
        self.labels = (logits - logits.mean(axis=0)).argmax(axis=1).reshape(-1, 1).astype(np.int64)

    def evaluate(self, program: Any) -> float:
        """Return the accuracy of ``program``; what users write."""
        start = time.process_time()
        if id(program) not in self.programs:
            self.programs.add(id(program))
            self._seen.append(program)
        right = 0.0
        for feed in self.feeds():
            result = self.exe.run(program, feed, [self.accuracy], scope=self.scope)[0]
            right += float(result.reshape(-1)[0]) * len(feed['image'])
        self.seconds.append(time.process_time() - start)
        return right / len(self.images)

    def analysis(self, **evaluation: Any) -> dict[str, dict[float, float]]:
        with tempfile.TemporaryDirectory() as folder:
            if self.side == PADDLESLIM:
                from paddleslim.prune import sensitivity as their_sensitivity

                return their_sensitivity(
                    self.program, self.place, list(PARAMETERS), self.evaluate, str(Path(folder) / 's'), list(RATIOS)
                )
            from paddleslim_ng.prune.sensitive.sensitivity import sensitivity

            file = str(Path(folder) / 'sensitivities.json')
            return sensitivity(
                self.program,
                self.place,
                PARAMETERS,
                sensitivities_file=file,
                pruned_ratios=RATIOS,
                progress=False,
                **evaluation,
            )


def measure(side: str, quick: bool) -> Outcome:
    job, outcome = Job(side, quick), Outcome()
    evaluation = {} if side == PADDLESLIM else {'eval_func': job.evaluate}
    seconds, losses = cpu_seconds(lambda: job.analysis(**evaluation))
    outcome.add('whole', seconds)
    outcome.add('evaluations', sum(job.seconds))
    outcome.add('overhead', seconds / sum(job.seconds))
    outcome.facts.update(count=len(job.seconds), programs=len(job.programs), losses=_plain(losses))
    outcome.facts['first_and_median'] = [job.seconds[0], sorted(job.seconds)[len(job.seconds) // 2]]
    if side != PADDLESLIM:
        _measure_evaluator(job, outcome)
    return outcome


def _measure_evaluator(job: Job, outcome: Outcome) -> None:
    from paddleslim_ng.prune.evaluation.evaluator import Evaluator

    seconds, losses = cpu_seconds(lambda: job.analysis(evaluator=Evaluator(job.feeds(), 'top1', [job.probabilities])))
    outcome.add('evaluator', seconds)
    outcome.facts['evaluator_losses'] = _plain(losses)


def _plain(losses: dict[str, dict[float, float]]) -> dict[str, dict[str, float]]:
    return {name: {f'{ratio:g}': float(loss) for ratio, loss in row.items()} for name, row in losses.items()}


def evaluator_gain(results: Results, side: str) -> float | None:
    """Return how many times as long PaddleSlim's analysis took as ours with an Evaluator."""
    if side not in results or PADDLESLIM not in results:
        return None
    ours, theirs = results[side].median('evaluator'), results[PADDLESLIM].median('whole')
    return theirs / ours if ours and theirs else None


def _difference(left: dict[str, dict[str, float]], right: dict[str, dict[str, float]]) -> float:
    pairs = [(loss, right[name][ratio]) for name, row in left.items() for ratio, loss in row.items()]
    return max(abs(a - b) for a, b in pairs)


def notes(results: Results) -> list[str]:
    sentences = []
    for side, outcome in results.items():
        facts = outcome.facts
        line = f'{side}: {facts["count"]} evaluations of {facts["programs"]} programs'
        if PADDLESLIM in results and side != PADDLESLIM:
            theirs = results[PADDLESLIM].facts['losses']
            line += f"; losses differ from PaddleSlim's by at most {_difference(facts['losses'], theirs):.4f}"
        if 'evaluator_losses' in facts:
            line += f', between function and Evaluator by {_difference(facts["losses"], facts["evaluator_losses"]):.4f}'
        sentences.append(line + '.')
    gains = {side: evaluator_gain(results, side) for side in OURS}
    told = ', '.join(f'{gain:.0f} times ({side})' for side, gain in gains.items() if gain is not None)
    if told:
        sentences.append(f"With an Evaluator the whole analysis is faster than PaddleSlim's: {told}.")
    return sentences


CASE = Case(
    key='sensitivity',
    title='Sensitivity of a MobileNet',
    text=f'`sensitivity` of MobileNet for images of 1x28x28: {len(PARAMETERS)} parameters x {len(RATIOS)} ratios on '
    f'{IMAGES} images in batches of {BATCH}, first with an `eval_func` on the executor, then with an `Evaluator` '
    "in one process. Labels are the dense network's own answers.",
    measure=measure,
    metrics=(
        Metric('whole', 'whole analysis, `eval_func`'),
        Metric('evaluations', 'the evaluations in it'),
        Metric('overhead', 'whole / evaluations', unit='', compare=False),
        Metric('evaluator', 'whole analysis, `Evaluator`', compare=False),
    ),
    targets=(
        Target('whole / evaluations', OURS, median_of('overhead'), 1.03, 'times'),
        Target('programs compiled', OURS, lambda r, s: r[s].facts.get('programs') if s in r else None, 1, ''),
        Target('`Evaluator` faster than PaddleSlim', OURS, evaluator_gain, 10, 'times', at_least=True),
    ),
    rounds=1,
    notes=notes,
)
