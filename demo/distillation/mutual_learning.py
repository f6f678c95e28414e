"""Networks without a teacher teach each other (deep mutual learning, Zhang et al., 2018).

python mutual_learning.py
python mutual_learning.py --peers LeNet MobileNet --peer_scales 1 0.25
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import classifiers
import paddle

import paddleslim_ng as slim


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = classifiers.parser(__doc__, 'LeNet', 1.0, 0.05)
    parser.add_argument('--peers', nargs='+', help='two networks or more (default: the student, twice)')
    parser.add_argument('--peer_scales', type=float, nargs='+', help='multipliers of their channels')
    parser.add_argument('--temperature', type=float, default=1.0, help='default: 1, as in the paper')
    parser.add_argument('--weight', type=float, default=1.0, help='of what the others say (default: 1)')
    options = parser.parse_args(arguments)
    options.peers = options.peers or [options.student] * 2
    options.peer_scales = options.peer_scales or [options.student_scale] * len(options.peers)
    if len(options.peers) != len(options.peer_scales):
        parser.error('--peer_scales has one number for each of --peers')
    return options


def build_all(options: argparse.Namespace) -> list[Any]:
    """Build the peers, each with initial values of its own."""
    given = enumerate(zip(options.peers, options.peer_scales))
    return [classifiers.build(model, scale, options, options.seed + number) for number, (model, scale) in given]


def together(options: argparse.Namespace, nets: Sequence[Any], data: classifiers.Data) -> tuple[Any, Any]:
    """Train the peers in one program with one optimizer; return what they became and their parameters."""
    scope = paddle.static.Scope()
    peers = [slim.dist.Peer(net.program, net.logits, net.loss, startup_program=net.startup) for net in nets]
    joint = slim.dist.dml(peers, weight=options.weight, temperature=options.temperature, scope=scope)
    schedule = classifiers.minimize(joint.program, joint.startup_program, joint.total, options.lr, options.steps)
    slim.Executor().run(joint.startup_program, scope=scope)
    losses = [loss for peer in joint.peers for loss in (peer.own_loss, peer.divergence)]
    feeds = classifiers.batches(data.labelled, options.batch_size, options.steps, options.seed)
    last = classifiers.fit(joint.program, scope, feeds, [schedule.step], losses)
    for number in range(len(nets)):
        own, divergence = last[2 * number : 2 * number + 2]
        print(f'peer {number}, last steps: own loss {own:.4f}, divergence from the others {divergence:.4f}')
    return joint, scope


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    classifiers.begin(options)
    data = classifiers.load_data(options)
    rows = {}
    for number, net in enumerate(build_all(options)):
        classifiers.train_alone(net, data.labelled, options, options.steps, options.batch_size)
        rows[f'peer {number} alone, {options.peers[number]}'] = classifiers.accuracy(
            net.evaluation, net.scope, net.logits, data.test
        )
    joint, scope = together(options, build_all(options), data)
    for number, peer in enumerate(joint.peers):
        path = options.output / f'peer{number}'
        slim.runtime.save_inference_model(joint.extract(number), path, ['image'], [peer.logits], scope)
        saved = slim.runtime.load_inference_model(path, paddle.static.Scope())
        rows[f'peer {number} together'] = classifiers.accuracy(saved.program, saved.scope, saved.fetches[0], data.test)
        print(f'saved {path} with {len(slim.GraphWrapper(saved.program).all_parameters())} parameters')
    classifiers.report(rows, options)


if __name__ == '__main__':
    try:
        main()
    except slim.SlimError as error:
        raise SystemExit(f'error: {error}') from error
