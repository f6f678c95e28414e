"""From a YAML file to checked settings, with the file and line of whatever is wrong."""

from __future__ import annotations
