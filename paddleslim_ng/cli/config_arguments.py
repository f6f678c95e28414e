"""The arguments of ``paddleslim-ng config`` and their help."""

from __future__ import annotations

import argparse

__all__ = ['ABOUT', 'ACTIONS', 'add_arguments']

ACTIONS = ('check', 'schema')
ABOUT = """\
Check configurations of the Compressor, or print their JSON schema.

check    Read files and what they include, and say what would run: strategies in the order of their calls, with their
         epochs, and which act at the same time. A file that is wrong gives a line `file:line: key: what is wrong` for
         each problem, and exit code 2. Nothing is run, and nothing is written. Classes of your own, which a file names
         by their path, are imported last of all, from PYTHONPATH, to check their keys.
schema   Print the JSON schema, by which editors complete and check files while they are written.

examples:
  paddleslim-ng config check compress.yaml
  paddleslim-ng config check configs/*.yaml --no-import
  paddleslim-ng config schema -o compress.schema.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument('action', choices=ACTIONS, help='check files, or print the schema')
    parser.add_argument('files', nargs='*', metavar='FILE', help='the files to check')
    parser.add_argument('--no-import', action='store_true', help='do not import classes of your own')
    parser.add_argument('-o', '--output', metavar='PATH', help='file for the schema (default: print it)')
