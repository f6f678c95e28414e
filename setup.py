"""Build entry point; all metadata is in pyproject.toml."""

from __future__ import annotations

from setuptools import setup

setup()
