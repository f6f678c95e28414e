"""One rank of a supervised job: runs the training script, and lets the supervisor see that the process lives.

    python rank_process.py FOLDER INTERVAL SUPERVISOR SCRIPT [ARGUMENT ...]

``FOLDER/rank-N.json`` tells the process id and session, and ``FOLDER/rank-N.beat`` is touched every ``INTERVAL``
seconds. When the script ends, by an error too, the former becomes ``FOLDER/ended-N.json``: what the script has started
may still be there. Where the supervisor (a process id) is gone, the rank ends itself.
Python's own library is all that this file needs: it beats before Paddle is imported.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

__all__ = ['main']

_RANK = 'PADDLE_TRAINER_ID'
_ORPHANED = 97


def main(arguments: Sequence[str]) -> None:
    """Run a script as ``__main__`` while a thread beats."""
    folder, interval, supervisor, script, *rest = arguments
    rank = os.environ.get(_RANK, '0')
    record, beat = Path(folder, f'rank-{rank}.json'), Path(folder, f'rank-{rank}.beat')
    beat.touch()
    partial = record.with_suffix('.partial')
    partial.write_text(json.dumps({'pid': os.getpid(), 'session': os.getsid(0)}), 'utf-8')
    partial.replace(record)
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(beat, float(interval), int(supervisor), ended), daemon=True)
    thread.start()
    sys.argv = [script, *rest]
    sys.path[0] = str(Path(script).resolve().parent)
    try:
        runpy.run_path(script, run_name='__main__')
    finally:
        ended.set()
        thread.join()
        record.replace(record.with_name(f'ended-{rank}.json'))
        beat.unlink(missing_ok=True)


def _beat(file: Path, interval: float, supervisor: int, ended: threading.Event) -> None:
    while not ended.wait(interval):
        try:
            os.utime(file)
            os.kill(supervisor, 0)
        except PermissionError:
            pass
        except OSError:  # the folder or the supervisor is gone, and nobody would end this process
            os._exit(_ORPHANED)


if __name__ == '__main__':
    main(sys.argv[1:])
