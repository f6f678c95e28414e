"""Train a classifier while its weights are pruned one by one, on one process or many, and export it.

    python train.py --pruning_mode ratio --ratio 0.75
    python train.py --pruning_mode ratio --ratio 0.75 --pruning_strategy gmp --prune_params_type conv1x1_only
    python -m paddle.distributed.launch --nproc_per_node 2 train.py --ratio 0.55 --is_distributed True
    paddleslim-ng launch --nproc 2 train.py --ratio 0.55 --is_distributed True --checkpoint models

run.sh has a command for every use, and README.md explains them. What several processes need beside the steps of
one is marked "Fleet step".
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from options import parse_arguments
from paddle.distributed import fleet
from pretrained import load_weights
from tasks import MODEL, TASKS, Share, accuracy, batches, load, steps_of

import paddleslim_ng as slim
from paddleslim_ng.errors import CheckpointError, ConfigError, DeployError
from paddleslim_ng.models.classification import Classifier, build_classifier
from paddleslim_ng.prune import UnstructuredPruner, make_unstructured_pruner
from paddleslim_ng.sparse import OneShot

CHECKPOINTS = 'checkpoints'


@dataclass
class Job:
    """What every step needs."""

    options: argparse.Namespace
    ranks: slim.distributed.Ranks
    net: Classifier
    rate: Any
    pruner: UnstructuredPruner
    checks: slim.distributed.RankChecks
    parts: tuple[Any, Any, Any]

    def say(self, text: str) -> None:
        """Print on rank 0: every process would say the same."""
        if self.ranks.rank == 0:
            print(text, flush=True)


def connect(options: argparse.Namespace) -> slim.distributed.Ranks:
    """Find out which of the processes this one is."""
    if options.is_distributed:
        # Fleet step 1: connect the ranks. On CPUs this also makes Fleet synchronize; it has to come before fleet.init.
        slim.distributed.init()
        # Fleet step 2: Fleet's own preparations.
        fleet.init(is_collective=True)
    ranks = slim.distributed.current_ranks()
    if ranks.size > 1 and not options.is_distributed:
        raise ConfigError(f'{ranks.size} processes were launched; they train one network with --is_distributed True')
    return ranks


def learning_rate(options: argparse.Namespace, steps: int) -> Any:
    """Return the scheduler: a factor of ``--lr`` by the number of the step."""
    epochs = options.num_epochs
    marks = options.step_epochs or [epochs * quarter / 4 for quarter in (1, 2, 3)]
    factors = {
        'constant': lambda step: 1.0,
        'piecewise_decay': lambda step: 0.1 ** sum(step >= mark * steps for mark in marks),
        'cosine_decay': lambda step: 0.5 + 0.5 * math.cos(math.pi * step / (epochs * steps)),
    }
    return paddle.optimizer.lr.LambdaDecay(options.lr, factors[options.lr_strategy])


def prepare(options: argparse.Namespace) -> Job:
    """Build the network and everything around it."""
    ranks = connect(options)
    parts = load(options, training=True)
    steps = steps_of(parts[0], options, ranks)
    rate = learning_rate(options, steps)
    decay = paddle.regularizer.L2Decay(options.l2_decay)
    optimizer = paddle.optimizer.Momentum(rate, options.momentum_rate, weight_decay=decay)
    if options.is_distributed:
        # Fleet step 3: gradients become the mean over the ranks, and initial weights those of rank 0.
        optimizer = fleet.distributed_optimizer(optimizer)
    task = TASKS[options.data]
    size = options.image_size or task.image_size
    net = build_classifier(
        options.model,
        [task.channels, size, size],
        task.classes,
        options.use_gpu,
        optimizer=optimizer,
        seed=options.seed,
        model_kwargs={} if options.scale is None else {'scale': options.scale},
    )
    # STEP 1: the pruner puts masks into the training program. It may be made before or after the startup program runs.
    pruner = make_pruner(options, net, steps)
    # Fleet step 4: make sure that gradients are reduced, and watch that weights and masks stay the same everywhere.
    checks = slim.distributed.RankChecks(net.train_program, ranks=ranks)
    job = Job(options, ranks, net, rate, pruner, checks, parts)
    if options.pretrained_model is not None:
        job.say(load_weights(options.pretrained_model, net.val_program, net.exe.place))
    return job


def make_pruner(options: argparse.Namespace, net: Classifier, steps: int) -> UnstructuredPruner:
    """Read the flags: all at once after the stable epochs, or by gradual magnitude pruning."""
    stable = options.stable_epochs * steps
    if options.pruning_strategy == 'base':
        schedule = OneShot(stable) if stable else None
        given = argparse.Namespace(**vars(options), schedule=schedule)
        return make_unstructured_pruner(net.train_program, given, place=net.exe.place)
    pruning = options.pruning_epochs * steps
    configs = {
        'stable_iterations': stable,
        'pruning_iterations': pruning,
        'tunning_iterations': options.tunning_epochs * steps,
        'pruning_steps': options.pruning_steps or max(1, min(100, (pruning - 1) // 10)),
        'initial_ratio': options.initial_ratio,
        'resume_iteration': 0,  # a checkpoint knows better
    }
    return make_unstructured_pruner(net.train_program, options, configs, place=net.exe.place)


def open_checkpoints(job: Job, folder: Path) -> slim.distributed.Checkpoints:
    """Everything that the next step depends on: the program's tensors and learning rate, and the pruner."""
    return slim.distributed.Checkpoints(folder, job.net.train_program, states={'pruner': job.pruner}, ranks=job.ranks)


def resume(job: Job) -> int:
    """Go back to a checkpoint where one is named, and return the first epoch to train."""
    source, own = job.options.checkpoint, job.options.model_path
    if source is None:
        if job.options.last_epoch >= 0:
            raise ConfigError('--last_epoch belongs to --checkpoint')
        return 0
    restored = open_checkpoints(job, source / CHECKPOINTS).restore()
    if restored is None:
        if source.resolve() == own.resolve() and job.options.last_epoch < 0:
            job.say(f'{source} has no checkpoint yet: starting from the beginning')
            return 0
        raise CheckpointError(f'there is no checkpoint in {(source / CHECKPOINTS).absolute()}')
    last = int(restored.position['epoch'])
    if job.options.last_epoch not in (-1, last):
        raise CheckpointError(
            f'the newest checkpoint in {source} is that after epoch {last}, and --last_epoch says '
            f'{job.options.last_epoch}: leave it out to go on from the newest'
        )
    job.say(f'going on after epoch {last}, step {restored.step}')
    return last + 1


def train_epoch(job: Job, epoch: int) -> None:
    options, net = job.options, job.net
    start, losses = time.time(), []
    if hasattr(job.parts[0], 'epoch'):
        job.parts[0].epoch = epoch  # varies the random crops
    # Fleet step 5: every rank trains on its own part of each batch.
    share = Share(job.parts[0], options, epoch, job.ranks)
    for number, feed in enumerate(batches(share, options.batch_size)):
        loss, top1 = net.exe.run(net.train_program, feed=feed, fetch_list=[net.outputs[2], net.outputs[0]])
        losses.append(float(loss))
        job.rate.step()
        # STEP 2: let the pruner make new masks where the ratio or the threshold asks for them.
        job.pruner.step()
        # Fleet step 6: compare the ranks after the first step and whenever masks have changed.
        job.checks.after_step()
        if number % options.log_period == 0:
            job.say(f'epoch {epoch}, batch {number}: loss {float(loss):.4f}, top-1 {float(np.mean(top1)):.4f}')
    slim.distributed.check_ranks(net.train_program, ranks=job.ranks, when=f'the end of epoch {epoch}')
    zeros = UnstructuredPruner.total_sparse(net.train_program)
    job.say(f'epoch {epoch}: loss {np.mean(losses):.4f}, zeros {zeros:.2%}, {time.time() - start:.1f} s')


def evaluate(job: Job, dataset: Any) -> tuple[float, float]:
    # STEP 3: nothing to do. Zeros are exact at every moment; pruner.update_params() is for scripts that want it.
    def scores(feed: Any) -> Any:
        return job.net.exe.run(job.net.val_program, feed=feed, fetch_list=[job.net.probabilities])[0]

    # Fleet step 7: batch norm's statistics differ from rank to rank; evaluate with their mean, and share the work.
    with slim.distributed.shared_statistics(job.net.val_program, ranks=job.ranks):
        return accuracy(scores, dataset, job.options.batch_size, job.ranks)


def save_checkpoint(job: Job, checkpoints: slim.distributed.Checkpoints, epoch: int) -> None:
    # Fleet step 8: each rank has a file of its own.
    checkpoints.save((epoch + 1) * steps_of(job.parts[0], job.options, job.ranks), {'epoch': epoch})


def save_model(job: Job) -> None:
    """Save the network as an inference model."""
    # STEP 4: nothing to do, as in STEP 3.
    net, path = job.net, job.options.model_path / MODEL
    # Fleet step 9: rank 0 writes what is the same for all.
    with slim.distributed.shared_statistics(net.val_program, ranks=job.ranks):
        if job.ranks.rank == 0:
            saved = slim.runtime.save_inference_model(
                net.val_program, path, ['image'], [net.probabilities], executor=net.exe
            )
            print(f'saved {saved.program_file}, {saved.file_bytes:,} bytes', flush=True)


def export_lite(job: Job) -> None:
    """Convert the saved network for Arm, and say which layers get kernels that skip zeros."""
    options = job.options
    try:
        python = slim.deploy.find_interpreter(options.lite_python).path
    except DeployError as error:
        print(f'Paddle Lite is left out: {error}')
        return
    source, target = options.model_path / MODEL, options.model_path / f'{MODEL}-arm.nb'
    try:
        model = slim.deploy.to_lite(source, target, 'arm', sparse=options.lite_sparse, interpreter=python)
    except DeployError as error:
        print(f'no sparse file for Paddle Lite: {error}')
        return
    sparse = sum(layer.sparse for layer in model.sparse_layers)
    print(f'{target}: {model.file_bytes:,} bytes; {sparse} layers have sparse kernels on Arm')
    for layer in model.sparse_layers:
        print(f'  {layer}')


def finish(job: Job) -> None:
    """Report the final figures, and export."""
    save_model(job)
    validation, test = evaluate(job, job.parts[1])[0], evaluate(job, job.parts[2])
    sparsity = job.pruner.sparsity()
    job.say(f'zeros: {sparsity.prunable:.4%} of the prunable weights, {sparsity.total:.4%} of all parameters')
    job.say(f'top-1 accuracy: validation {validation:.4f}, test {test[0]:.4f}; top-5, test {test[1]:.4f}')
    if job.ranks.rank == 0:
        figures = {
            'validation_top1': validation,
            'test_top1': test[0],
            'test_top5': test[1],
            'zeros_of_prunable': sparsity.prunable,
            'zeros_of_all': sparsity.total,
            'ranks': job.ranks.size,
        }
        slim.runtime.atomic_write(job.options.model_path / 'figures.json', json.dumps(figures, indent=1).encode())
        export_lite(job)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(__doc__, arguments)
    paddle.enable_static()
    job = prepare(options)
    ir = slim.GraphWrapper(job.net.train_program).ir
    job.say(f'Paddle {paddle.__version__}, {ir} programs, {job.ranks.size} processes; results in {options.model_path}')
    checkpoints = open_checkpoints(job, options.model_path / CHECKPOINTS)
    for epoch in range(resume(job), options.num_epochs):
        train_epoch(job, epoch)
        last = epoch + 1 == options.num_epochs
        if (epoch + 1) % options.test_period == 0 and not last:
            job.say(f'epoch {epoch}: top-1 on the validation part {evaluate(job, job.parts[1])[0]:.4f}')
        if (epoch + 1) % options.model_period == 0 or last:
            save_checkpoint(job, checkpoints, epoch)
            if not last:
                save_model(job)
    finish(job)
    # Fleet step 10: give Fleet its own functions back.
    slim.distributed.shutdown()


if __name__ == '__main__':
    try:
        main()
    except slim.SlimError as error:
        raise SystemExit(f'error: {error}') from error
