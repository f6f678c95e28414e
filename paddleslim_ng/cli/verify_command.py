"""``paddleslim-ng verify``."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from paddleslim_ng.cli.exit_codes import ExitCode
from paddleslim_ng.cli.model_argument import feeds_for, load_model, read_arrays, read_shapes
from paddleslim_ng.cli.program import Outcome

__all__ = ['run']


def run(arguments: argparse.Namespace) -> Outcome:
    """Compare a file with the model that it came from."""
    shapes, arrays = read_shapes(arguments.shape), read_arrays(arguments.feeds)
    from paddleslim_ng.deploy import verify

    reference = load_model(arguments.reference, arguments)
    feeds = feeds_for([reference], arrays, arguments.batch, shapes)
    found = verify(
        arguments.artifact,
        feeds,
        reference,
        predictors=arguments.predictors,
        tolerance=arguments.tolerance,
        interpreter=arguments.interpreter,
        check=False,
    )
    code = ExitCode.OK if found.passed else ExitCode.CHECK_FAILED
    return Outcome(str(found), {**asdict(found), 'passed': found.passed}, code)
