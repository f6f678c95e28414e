"""Measure this library against PaddleSlim and write RESULTS.md and RESULTS.json next to this file.

    make bench BENCH_ARGS='--cases prune depth'

Results of cases that are not run are kept. A side whose environment is missing is left out, and the report says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import report
from cases import CASES
from harness import LEGACY, PADDLE26, PADDLESLIM, PIR, SIDES, Case, Outcome, Side

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
THREADS = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')
PYTHON_OPTIONS = {'paddle33': (LEGACY, PIR), 'paddle26': (PADDLE26,), 'paddleslim': (PADDLESLIM,)}


def main() -> int:
    """Measure and write; return the number of sides that failed."""
    args = _arguments()
    output = args.output or (HERE / ('RESULTS-quick' if args.quick else 'RESULTS'))
    pythons = _find_pythons(args)
    records: dict[str, Any] = _read(output.with_suffix('.json'))
    records['environment'] = {
        'processor': _processor(),
        'processors': os.cpu_count(),
        'versions': records.get('environment', {}).get('versions', {}),
    }
    failures = 0
    for key in args.cases:
        record = _run_case(CASES[key], pythons, args.quick, args.rounds, records['environment']['versions'])
        failures += len(record['circumstances']['failed'])
        records.setdefault('cases', {})[key] = record
        _write(records, output)
        for line in report.missed(CASES[key], _results(record)):
            print(f'  not reached: {line}')
    print(f'wrote {output.with_suffix(".md").name} and {output.with_suffix(".json").name}')
    return min(failures, 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--quick', action='store_true', help='small networks and one round, to see that everything works'
    )
    parser.add_argument('--cases', nargs='+', choices=sorted(CASES), default=list(CASES), help='which to run')
    parser.add_argument('--rounds', type=int, help='how often the sides take turns; default: what each case says')
    parser.add_argument('--output', type=Path, help='where to write, without suffix; default RESULTS beside this file')
    for name in PYTHON_OPTIONS:
        parser.add_argument(f'--{name}', type=Path, metavar='PYTHON', help='interpreter of that environment')
    return parser.parse_args()


def _find_pythons(args: argparse.Namespace) -> dict[str, Path]:
    """Return the interpreter of each side that has an environment."""
    given = {key: getattr(args, name) for name, keys in PYTHON_OPTIONS.items() for key in keys}
    found = {}
    for side in SIDES:
        python = given[side.key] or ROOT / side.venv / 'bin' / 'python'
        if os.access(python, os.X_OK):
            found[side.key] = python.absolute()
        else:
            print(f'left out: {side.title} ({side.venv} is not there)')
    return found


def _run_case(
    case: Case, pythons: dict[str, Path], quick: bool, rounds: int | None, versions: dict[str, Any]
) -> dict[str, Any]:
    """Let the sides take turns on one case."""
    rounds = rounds or (1 if quick else case.rounds)
    results: dict[str, Outcome] = {}
    failed: list[str] = []
    loads: list[float] = []
    for turn in range(rounds):
        for side in SIDES:
            if side.key not in pythons or side.key in failed:
                continue
            loads.append(os.getloadavg()[0])
            print(f'{case.key}, round {turn + 1} of {rounds}: {side.title} (load {loads[-1]:.1f})', flush=True)
            answer = _run_worker(case, side, pythons[side.key], quick)
            if answer is None:
                failed.append(side.key)
                results.pop(side.key, None)
                continue
            versions[side.key] = answer['versions']
            results.setdefault(side.key, Outcome()).merge(report.outcome_of(answer))
    return {
        'circumstances': {
            'date': datetime.date.today().isoformat(),
            'rounds': rounds,
            'quick': quick,
            'load': loads,
            'failed': failed,
        },
        'results': {key: dataclasses.asdict(outcome) for key, outcome in results.items()},
    }


def _run_worker(case: Case, side: Side, python: Path, quick: bool) -> dict[str, Any] | None:
    """Measure one side once; print the end of its messages and return None where it fails."""
    environment = {**os.environ, **dict.fromkeys(THREADS, '1'), 'FLAGS_enable_pir_api': str(int(side.pir))}
    environment['PYTHONPATH'] = str(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / 'answer.json'
        command = [str(python), str(HERE / 'worker.py'), case.key, side.key, str(output)]
        command += ['--quick'] if quick else []
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace'
        )
        if done.returncode == 0 and output.exists():
            answer: dict[str, Any] = json.loads(output.read_text(encoding='utf-8'))
            return answer
    print(f'  failed with status {done.returncode}:\n' + '\n'.join(done.stdout.splitlines()[-15:]), file=sys.stderr)
    return None


def _results(record: dict[str, Any]) -> dict[str, Outcome]:
    return {side.key: report.outcome_of(record['results'][side.key]) for side in SIDES if side.key in record['results']}


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    content: dict[str, Any] = json.loads(file.read_text(encoding='utf-8'))
    return content


def _write(records: dict[str, Any], output: Path) -> None:
    """Replace both files."""
    done = [
        (case, records['cases'][key]['circumstances'], _results(records['cases'][key]))
        for key, case in CASES.items()
        if key in records['cases']
    ]
    texts = {'.json': json.dumps(records, indent=1) + '\n', '.md': report.render(done, records['environment'])}
    for suffix, text in texts.items():
        fresh = output.with_suffix(suffix + '.new')
        fresh.write_text(text, encoding='utf-8')
        fresh.replace(output.with_suffix(suffix))


def _processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        return 'unknown processor'
    return next((line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')), 'unknown processor')


if __name__ == '__main__':
    sys.exit(main())
