"""From a YAML file to checked settings, with the file and line of whatever is wrong."""

from __future__ import annotations

from paddleslim_ng.compress.configuration.compressor_settings import CompressorSettings
from paddleslim_ng.compress.configuration.configuration import CompressionConfig, Instance, SavedModel
from paddleslim_ng.compress.configuration.json_schema import json_schema
from paddleslim_ng.compress.configuration.loading import load_config
from paddleslim_ng.compress.configuration.problems import ConfigurationError, Place, Problem
from paddleslim_ng.compress.configuration.registry import PluginClass, Registry
from paddleslim_ng.compress.configuration.timing import Span, spans, together
from paddleslim_ng.compress.configuration.values import FieldError, Options, Reference

__all__ = [
    'CompressionConfig',
    'CompressorSettings',
    'ConfigurationError',
    'FieldError',
    'Instance',
    'Options',
    'Place',
    'PluginClass',
    'Problem',
    'Reference',
    'Registry',
    'SavedModel',
    'Span',
    'json_schema',
    'load_config',
    'spans',
    'together',
]
