"""Who takes part in a distributed job, and exchanges between the ranks outside the training program."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from paddleslim_ng.core import GraphWrapper
from paddleslim_ng.core.insertion import Insertion
from paddleslim_ng.core.ir_mode import ir_mode
from paddleslim_ng.core.paddle_compat import in_pir_mode, is_cpu_build, new_scope
from paddleslim_ng.distributed.collectives import all_reduce
from paddleslim_ng.errors import DistributedError

__all__ = ['Ranks', 'read_ranks']

_RANK, _SIZE = 'PADDLE_TRAINER_ID', 'PADDLE_TRAINERS_NUM'
_LOCAL_DEVICE = 'FLAGS_selected_gpus'
Integers = npt.NDArray[np.int64]


class Ranks:
    """This process among the ranks of a job.

    Exchanges are collective: every rank makes the same calls in the same order, or all of them wait for ever.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        device: index of the GPU to exchange on; the CPU where None.

    Raises:
        DistributedError: ``rank`` is outside ``range(size)``.
    """

    def __init__(self, rank: int, size: int, device: int | None = None) -> None:
        if not 0 <= rank < size:
            raise DistributedError(f'rank {rank} is outside a job of {size}')
        self.rank = rank
        self.size = size
        self.device = device
        self._program: Any = None
        self._fetch: Any = None
        self._executor: Any = None
        self._pir = False

    def gather(self, numbers: npt.ArrayLike) -> Integers:
        """Return what every rank gave, as an array of shape ``[size, count]``.

        Args:
            numbers: int64 numbers, equally many on every rank.
        """
        own = np.atleast_1d(np.asarray(numbers, dtype=np.int64)).reshape(-1)
        slots = np.zeros([self.size, own.size], np.int64)
        slots[self.rank] = own
        return self._sum(slots.reshape(-1)).reshape(self.size, -1) if self.size > 1 else slots

    def broadcast(self, content: bytes | None) -> bytes:
        """Return the content that rank 0 gave; the others give None.

        Raises:
            DistributedError: rank 0 gave None.
        """
        if self.rank == 0 and content is None:
            raise DistributedError('rank 0 has nothing to broadcast')
        given = content if self.rank == 0 and content is not None else b''
        length = int(self.gather([len(given)])[0, 0])
        padded = given.ljust(-(-length // 8) * 8, b'\0')
        numbers = np.frombuffer(padded, np.int64)
        if self.size > 1:
            sent = numbers if self.rank == 0 else np.zeros(-(-length // 8), np.int64)
            numbers = self._sum(sent)
        return numbers.tobytes()[:length]

    def stack(self, array: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return the arrays of all ranks, of one shape and element type, as one of shape ``[size, ...]``.

        Raises:
            DistributedError: shapes or element types differ; every rank raises it.
        """
        own = np.asarray(array, order='C')
        about = f'{own.dtype.str} {own.shape}'
        known = self.gather([zlib.crc32(about.encode()), own.nbytes])
        if (known != known[0]).any():
            raise DistributedError(f'the ranks gave arrays of different shapes or types; this one {about}')
        content = own.tobytes()
        rows = self.gather(np.frombuffer(content.ljust(-(-len(content) // 8) * 8, b'\0'), np.int64))
        parts = [np.frombuffer(row.tobytes()[: own.nbytes], own.dtype).reshape(own.shape) for row in rows]
        return np.stack(parts)

    def mean(self, array: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the mean over ranks of arrays of one shape, added up in the order of the ranks."""
        total = np.zeros(array.shape)
        for part in self.stack(np.asarray(array, np.float64)):
            total = total + part
        return total / self.size

    def barrier(self) -> None:
        """Wait until every rank has come here."""
        self.gather([0])

    def _sum(self, numbers: Integers) -> Integers:
        """Add int64 vectors of all ranks up; a program of one collective, made at first use."""
        if not numbers.size:
            return numbers  # Paddle feeds no empty arrays, and the ranks have nothing to tell each other
        if self._program is None:
            self._build()
        with ir_mode(self._pir):
            (found,) = self._executor.run(
                self._program, feed={'numbers': numbers}, fetch_list=[self._fetch], scope=self._scope
            )
        return np.asarray(found)

    def _build(self) -> None:
        self._pir = in_pir_mode()
        program = paddle.static.Program()
        with ir_mode(self._pir), paddle.static.program_guard(program, paddle.static.Program()):
            paddle.static.data('numbers', [-1], 'int64')
            graph = GraphWrapper(program)
            here = Insertion(graph)
            copy = here.op('scale', {'X': 'numbers'}, {'scale': 1.0})
            self._fetch = all_reduce(here, copy).raw
        place = paddle.CPUPlace() if self.device is None else paddle.CUDAPlace(self.device)
        self._executor = paddle.static.Executor(place)
        self._scope = new_scope()
        self._program = program

    def __repr__(self) -> str:
        return f'Ranks(rank={self.rank}, size={self.size})'


def read_ranks(environment: Mapping[str, str] | None = None) -> Ranks:
    """Read what ``paddle.distributed.launch`` tells a process; alone where it tells nothing.

    Args:
        environment: the variables; those of the process where None.

    Raises:
        DistributedError: the variables contradict each other.
    """
    given = os.environ if environment is None else environment
    try:
        rank, size = int(given.get(_RANK, '0')), int(given.get(_SIZE, '1'))
        device = None if is_cpu_build() else int(given.get(_LOCAL_DEVICE, '0').split(',')[0])
    except ValueError as error:
        raise DistributedError(f'the launcher left unusable variables: {error}') from error
    return Ranks(rank, size, device)
