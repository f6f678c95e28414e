"""Trains a sparse network, leaving a checkpoint after every step; a test kills it and goes on from there.

python tests/sparse/resume_worker.py FOLDER REGROWTH
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddleslim_ng.core import store_array
from paddleslim_ng.runtime.atomic import publish, temporary_sibling
from paddleslim_ng.sparse import GMPUnstructuredPruner, Polynomial, UnstructuredPruner
from tests.sparse.sparse_net import SparseNet

STEPS = 40
CONFIGS = {
    'stable_iterations': 0,
    'pruning_iterations': 33,
    'tuning_iterations': 0,
    'pruning_steps': 3,
    'initial_ratio': 0.1,
}


class Run:
    """A network and its pruner, with everything that a checkpoint holds."""

    def __init__(self, regrowth: bool) -> None:
        self.net = SparseNet()
        if regrowth:
            schedule = Polynomial(2, 38, 3.0, 3)
            self.pruner: UnstructuredPruner = UnstructuredPruner(
                self.net.main, ratio=0.8, scope=self.net.scope, schedule=schedule, regrowth=True
            )
        else:
            self.pruner = GMPUnstructuredPruner(self.net.main, 0.8, scope=self.net.scope, configs=CONFIGS)
        self.net.start()

    def go(self, steps: int, folder: Path | None = None) -> None:
        while self.pruner.iteration < steps:
            self.net.train(self.pruner.iteration)
            self.pruner.step()
            if folder is not None:
                self.save(folder / 'checkpoint.npz')
                time.sleep(0.04)  # so that the test can kill the run before it ends

    def everything(self) -> dict[str, Any]:
        state = {f'pruner:{name}': value for name, value in self.pruner.state_dict().items()}
        return {**state, **self.net.persistables()}

    def save(self, path: Path) -> None:
        with temporary_sibling(path) as temporary:
            with open(temporary, 'wb') as file:
                np.savez(file, **self.everything())
            publish(temporary, path)

    def load(self, path: Path) -> None:
        with np.load(path) as found:
            state = {name.partition(':')[2]: found[name] for name in found.files if name.startswith('pruner:')}
            self.pruner.load_state_dict(state)
            for name in found.files:
                if not name.startswith('pruner:'):
                    store_array(self.net.scope, name, found[name])


if __name__ == '__main__':
    paddle.enable_static()
    Run(sys.argv[2] == '1').go(STEPS, Path(sys.argv[1]))
    os._exit(0)
