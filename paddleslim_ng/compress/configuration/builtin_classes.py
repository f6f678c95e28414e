"""The plugin classes of this package as a table: section, name, options, and where the class is."""

from __future__ import annotations

from typing import Final

from paddleslim_ng.compress.configuration import options as strategies
from paddleslim_ng.compress.configuration import plugin_options as plugins
from paddleslim_ng.compress.configuration.values import Options

__all__ = ['BUILTIN', 'PLANNED', 'SECTIONS']

SECTIONS: Final = ('pruners', 'distillers', 'quantizers', 'strategies', 'controllers')
_PLUGINS = 'paddleslim_ng.compress.plugins'
_STRATEGIES = 'paddleslim_ng.compress.strategies'

BUILTIN: Final[tuple[tuple[str, str, type[Options], str], ...]] = (
    ('pruners', 'StructurePruner', plugins.StructurePrunerOptions, f'{_PLUGINS}:StructurePruner'),
    ('distillers', 'L2Distiller', plugins.L2DistillerOptions, f'{_PLUGINS}:L2Distiller'),
    ('distillers', 'FSPDistiller', plugins.FSPDistillerOptions, f'{_PLUGINS}:FSPDistiller'),
    ('distillers', 'SoftLabelDistiller', plugins.SoftLabelDistillerOptions, f'{_PLUGINS}:SoftLabelDistiller'),
    ('distillers', 'LossDistiller', plugins.LossDistillerOptions, f'{_PLUGINS}:LossDistiller'),
    *(
        ('quantizers', name, options, f'{_PLUGINS}:{name}')
        for name, options in (
            ('MovingAverageQuantizer', plugins.MovingAverageQuantizerOptions),
            ('LSQQuantizer', plugins.LSQQuantizerOptions),
            ('PACTQuantizer', plugins.PACTQuantizerOptions),
        )
    ),
    *(
        ('strategies', name, options, f'{_STRATEGIES}:{name}')
        for name, options in (
            ('UniformPruneStrategy', strategies.UniformPruneOptions),
            ('SensitivePruneStrategy', strategies.SensitivePruneOptions),
            ('GreedyPruneStrategy', strategies.GreedyPruneOptions),
            ('UnstructuredPruneStrategy', strategies.UnstructuredPruneOptions),
            ('GMPStrategy', strategies.GMPOptions),
            ('AlternationStrategy', strategies.AlternationOptions),
            ('DistillationStrategy', strategies.DistillationOptions),
            ('QuantizationStrategy', strategies.QuantizationOptions),
            ('PostTrainingQuantStrategy', strategies.PostTrainingQuantOptions),
        )
    ),
)
# Names that users know from elsewhere.
PLANNED: Final = {
    'AutoPruneStrategy': 'ratios are not searched for by trial; take SensitivePruneStrategy or GreedyPruneStrategy',
    'LightNASStrategy': 'the search for architectures is not driven by a configuration yet',
    'SAController': 'no strategy of this package searches with a controller yet; a class of your own may stand here',
    'MKLDNNPostTrainingQuantStrategy': 'take PostTrainingQuantStrategy with inference_model_save_path',
    'PruneStrategy': 'take UniformPruneStrategy or SensitivePruneStrategy',
    'MagnitudePruner': 'take UnstructuredPruneStrategy with mode: threshold',
    'RatioPruner': 'take UnstructuredPruneStrategy',
}
