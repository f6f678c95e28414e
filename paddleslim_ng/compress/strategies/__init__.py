"""The strategies that come with the package, a file each."""

from __future__ import annotations
