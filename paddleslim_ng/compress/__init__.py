"""Several compression methods in one training job, driven by code or by a YAML file."""

from __future__ import annotations

from paddleslim_ng.compress.strategy import Strategy

__all__ = ['Strategy']
