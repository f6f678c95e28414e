"""Arguments that several commands have, and the kinds of their values."""

from __future__ import annotations

import argparse

__all__ = ['add_interpreter', 'add_normalization', 'add_timing', 'numbers']


def numbers(text: str) -> list[float]:
    """Return the numbers of a list with commas; argparse says what is none."""
    return [float(part) for part in text.split(',')]


def add_normalization(parser: argparse._ActionsContainer) -> None:
    """Declare how images become the inputs of a model."""
    parser.add_argument('--mean', type=numbers, metavar='A,B,C', help="of each channel (default: ImageNet's; grey .5)")
    parser.add_argument('--std', type=numbers, metavar='A,B,C', help='deviation of each channel')


def add_timing(parser: argparse._ActionsContainer) -> None:
    """Declare how ``--measure`` times what came out."""
    parser.add_argument('--repeats', type=int, metavar='N', help='counted runs for --measure (default: 50)')
    add_interpreter(parser)


def add_interpreter(parser: argparse._ActionsContainer) -> None:
    """Declare which Python has Paddle Lite."""
    parser.add_argument('--interpreter', metavar='PATH', help='a Python that has Paddle Lite (default: found)')
