"""What valid files mean: YAML, includes, references, classes of the user's, times, and the worked files."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from paddleslim_ng.compress.configuration import Registry, json_schema, load_config, spans, together
from paddleslim_ng.compress.configuration.document import read_document
from paddleslim_ng.compress.configuration.options import SensitivePruneOptions, UniformPruneOptions
from paddleslim_ng.compress.configuration.registry import SECTIONS
from paddleslim_ng.compress.configuration.values import Options
from paddleslim_ng.errors import ConfigError
from tests.compress.malformed import ACT, ENTRIES, HEAD
from tests.compress.schema_check import Schema

ROOT = Path(__file__).resolve().parents[2]
WORKED = sorted((ROOT / 'configs' / 'compress').glob('*.yaml'))
# A fragment of the pull request that this package's format comes from, completed.
OLDER = """\
version: 1.0
pruners:
  pruner_1:
    class: 'StructurePruner'
    pruning_axis:
      '*': 0
    criterions:
      '*': 'l1_norm'
strategies:
  sensitive_pruning_strategy:
    class: 'SensitivePruneStrategy'
    pruner: 'pruner_1'
    start_epoch: 1
    delta_rate: 0.2
    num_steps: 1
    eval_rate: 0.5
    pruned_params: '.*_sep_weights'
    sensitivities_file: 'mobilenet_acc_top1_sensitive.data'
compressor:
  epoch: 120
  checkpoint_path: 'none'
  strategies:
    - sensitive_pruning_strategy
"""


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f'{name.replace("__", "/")}.yaml'
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, 'utf-8')
    return folder / 'main.yaml'


def options(config: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = config.instances[name].options.model_dump()
    return found


def test_older_files(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, main=OLDER))
    (strategy,) = config.strategies
    assert isinstance(strategy.options, SensitivePruneOptions)
    assert strategy.options.model_dump(
        include={'pruner', 'start_epoch', 'delta_rate', 'eval_rate', 'target_ratio'}
    ) == {
        'pruner': 'pruner_1',
        'start_epoch': 1,
        'delta_rate': 0.2,
        'eval_rate': 0.5,
        'target_ratio': 0.5,
    }
    assert (config.epochs, config.compressor.checkpoint_path, config.notes) == (120, None, ())
    assert strategy.refers_to == ('pruner_1',)


SAFE = [
    'a: 1\nb: 0x1f\nc: 0o7\nd: 1_000\ne: 1:30\nf: -3\n',
    'a: 1.0\nb: .5\nc: 2.5e+3\nd: .inf\ne: -.INF\nf: 1.0e-3\n',
    'a: yes\nb: No\nc: on\nd: false\ne: ~\nf:\ng: null\nh: Null\n',
    'a: text\nb: "quoted\\n"\nc: \'single\'\nd: |\n  block\n  lines\ne: >\n  folded\n  lines\n',
    'a: [1, [2, {b: 3}]]\nb: {c: {d: []}}\n',
    'a: &x {p: 1, q: [2]}\nb: *x\nc: {<<: *x, q: 3, r: 4}\nd: {<<: [{p: 5}, *x]}\ne:\n  z: 1\n  <<: *x\n',
    '%YAML 1.1\n---\na: 1\n...\n',
    '# comment\na: "é"\n',
    'a: 2026-01-02\n',
    '? a\n: 1\n',
]


@pytest.mark.parametrize('text', SAFE)
def test_values_are_those_of_the_safe_loader(tmp_path: Path, text: str) -> None:
    assert read_document(write(tmp_path, main=text)).data == yaml.safe_load(text)


@pytest.mark.parametrize(('text', 'value'), [('1e-3', 1e-3), ('-2E5', -2e5), ('1.5e3', 1500.0), ('1e', '1e')])
def test_exponents_are_numbers_as_in_json(tmp_path: Path, text: str, value: Any) -> None:
    found = read_document(write(tmp_path, main=f'a: {text}\n')).data['a']
    assert (found, type(found)) == (value, type(value))


def test_places_are_lines_and_columns(tmp_path: Path) -> None:
    document = read_document(write(tmp_path, main='\na:\n  b: [1,\n    2]\n  c: {d: 3}\n'))
    places = {path: (place.line, place.column) for path, place in document.places.items()}
    assert places == {
        (): (2, 1),
        ('a',): (2, 1),
        ('a', 'b'): (3, 3),
        ('a', 'b', 0): (3, 7),
        ('a', 'b', 1): (4, 5),
        ('a', 'c'): (5, 3),
        ('a', 'c', 'd'): (5, 7),
    }
    assert document.place_of(('a', 'c', 'nothing', 'here')).line == 5


PRUNE = 'strategies:\n  prune: {class: UniformPruneStrategy}\n'


def test_entries_of_a_file_replace_those_that_it_includes(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        main='version: 1.0\ninclude: below/base.yaml\n'
        'strategies:\n  prune: {class: UniformPruneStrategy, round_to: 4}\n'
        'compressor: {epoch: 7, strategies: [prune, sparse]}\n',
        below__base='include: [deeper.yaml]\ncompressor: {epoch: 3, seed: 5}\n'
        'strategies:\n  prune: {class: UniformPruneStrategy, target_ratio: 0.3}\n  sparse: {class: GMPStrategy}\n',
        below__deeper='pruners: {norm: {class: StructurePruner}}\ncompressor: {seed: 1, patience: 9}\n',
    )
    config = load_config(main)
    assert options(config, 'prune')['round_to'] == 4
    assert options(config, 'prune')['target_ratio'] == 0.5
    assert (config.epochs, config.compressor.seed, config.compressor.patience) == (7, 5, 9)
    assert [one.name for one in config.strategies] == ['prune', 'sparse']
    assert config.instances['norm'].place.file == str(tmp_path / 'below' / 'deeper.yaml')
    assert [str(note) for note in config.notes] == [
        f'{tmp_path / "below" / "deeper.yaml"}:1: pruners.norm: nothing uses it'
    ]


def test_the_same_file_may_come_twice(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        main='version: 1.0\ninclude: [one.yaml, two.yaml]\n' + PRUNE + 'compressor: {epoch: 1, strategies: [prune]}\n',
        one='include: base.yaml\n',
        two='include: base.yaml\n',
        base='pruners: {norm: {class: StructurePruner}}\n',
    )
    assert set(load_config(main).instances) == {'prune', 'norm'}


def test_an_empty_section_hides_nothing(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        main='version: 1.0\ninclude: base.yaml\nstrategies:\ncompressor:\n',
        base=PRUNE + 'compressor: {epoch: 1, strategies: [prune]}\n',
    )
    assert [one.name for one in load_config(main).strategies] == ['prune']


def test_words_for_nothing(tmp_path: Path) -> None:
    text = (
        'version: 1.0\nstrategies:\n  prune:\n    class: UniformPruneStrategy\n    pruner: none\n'
        '    excluded_params: None\n'
        'compressor:\n  epoch: 1\n  init_model: none\n  budget: none\n  strategies: [prune]\n'
    )
    config = load_config(write(tmp_path, main=text))
    assert options(config, 'prune')['pruner'] is options(config, 'prune')['excluded_params'] is None
    assert config.compressor.init_model is config.compressor.budget is None


def test_instances_may_be_named_before_they_come(tmp_path: Path) -> None:
    text = (
        'version: 1.0\ncompressor: {strategies: [d], epoch: 2}\n'
        'strategies: {d: {class: DistillationStrategy, distillers: [b, a]}}\n'
        'distillers: {a: {class: L2Distiller}, b: {class: SoftLabelDistiller, distillation_loss_weight: 0.25}}\n'
    )
    config = load_config(write(tmp_path, main=text))
    assert config.strategies[0].refers_to == ('b', 'a')
    assert options(config, 'b')['weight'] == 0.25


OWN = """\
from pydantic import BaseModel
from paddleslim_ng.compress.strategy import Strategy


class Helper:
    def __init__(self, size: int = 1):
        self.size = size


class Plain(Strategy):
    def __init__(self, helper, helpers=(), title: str = '', sizes: tuple = (), start_epoch=0, end_epoch=0):
        super().__init__(start_epoch, end_epoch)
        self.helper, self.helpers, self.title, self.sizes = helper, helpers, title, sizes


class Modelled(Strategy):
    class Options(BaseModel):
        rate: float
        end_epoch: int = 0

    def __init__(self, options):
        super().__init__(0, options.end_epoch)
        self.rate = options.rate
"""
USER = """\
version: 1.0
controllers:
  a: {class: own_classes.Helper, size: 2}
  b: {class: 'own_classes:Helper'}
strategies:
  plain: {class: own_classes.Plain, helper: a, helpers: [b, a, other], title: a, sizes: [3, 4]}
  modelled: {class: own_classes.Modelled, rate: 0.5, end_epoch: 6}
compressor: {epoch: 2, strategies: [modelled, plain]}
"""


@pytest.fixture
def own_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / 'own_classes.py').write_text(OWN, 'utf-8')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, 'dont_write_bytecode', True)
    monkeypatch.delitem(sys.modules, 'own_classes', raising=False)
    return tmp_path


def test_classes_of_the_user(own_classes: Path) -> None:
    config = load_config(write(own_classes, main=USER))
    assert config.epochs == 6
    modelled, plain = config.create_strategies()
    assert (modelled.rate, modelled.end_epoch, modelled.name) == (0.5, 6, 'modelled')
    assert plain.helper.size == 2
    assert plain.helpers[1] is plain.helper
    assert plain.helpers[0].size == 1
    assert (plain.helpers[2], plain.title, plain.sizes) == ('other', 'a', (3, 4))


def test_classes_of_the_user_may_be_left_alone(own_classes: Path) -> None:
    config = load_config(write(own_classes, main=USER), import_classes=False)
    assert 'own_classes' not in sys.modules
    assert [span.known for span in spans(config)] == [False, False]
    assert config.notes == ()
    with pytest.raises(ConfigError, match='was not imported'):
        config.create_strategies()


def test_instances_that_refer_to_each_other(own_classes: Path) -> None:
    text = (
        'version: 1.0\ncontrollers:\n'
        '  a: {class: own_classes.Plain, helper: b}\n  b: {class: own_classes.Plain, helper: a}\n'
        'strategies:\n  s: {class: own_classes.Plain, helper: a}\ncompressor: {epoch: 1, strategies: [s]}\n'
    )
    with pytest.raises(
        ConfigError, match=r'main.yaml:3: controllers.a: the instances refer to each other: a -> b -> a'
    ):
        load_config(write(own_classes, main=text))


def test_registered_classes() -> None:
    class Halve:
        def __init__(self, factor: float = 2.0) -> None:
            self.factor = factor

    registry = Registry()
    registry.register('pruners', 'Halve', Halve)
    data = {
        'version': 1.0,
        'pruners': {'half': {'class': 'Halve', 'factor': 3.0}},
        'strategies': {'prune': {'class': 'UniformPruneStrategy', 'pruner': 'half'}},
        'compressor': {'epoch': 1, 'strategies': ['prune']},
    }
    config = load_config(data, registry)
    assert options(config, 'half') == {'factor': 3.0}
    with pytest.raises(ConfigError, match="unknown class 'Halve'"):
        load_config(data)
    assert 'Halve' in json.dumps(json_schema(registry))


@pytest.mark.parametrize(
    ('section', 'name', 'plugin', 'message'),
    [
        ('pruner', 'A', int, "no section 'pruner'; did you mean 'pruners'"),
        ('pruners', 'a.b', int, 'is an identifier'),
        ('pruners', 'StructurePruner', dict, 'has a class .* already'),
        ('pruners', 'A', 'module:A', 'give the model of its options'),
        ('pruners', 'A', lambda *args: None, r'takes .\*args'),
    ],
)
def test_what_a_registry_refuses(section: str, name: str, plugin: Any, message: str) -> None:
    registry = Registry()
    with pytest.raises(ConfigError, match=message):
        registry.register(section, name, plugin)
    assert sorted(registry.classes('pruners')) == ['StructurePruner']


def test_times() -> None:
    config = load_config(
        {
            'version': 1.0,
            'strategies': {
                'a': {'class': 'UniformPruneStrategy', 'start_epoch': 1},
                'b': {'class': 'GMPStrategy', 'start_epoch': 2, 'end_epoch': 9},
                'c': {'class': 'SensitivePruneStrategy', 'start_epoch': 9},
                'd': {'class': 'PostTrainingQuantStrategy'},
                'e': {'class': 'GMPStrategy', 'end_epoch': 30},
            },
            'compressor': {'epoch': 10, 'strategies': ['b', 'a', 'c', 'd']},
        }
    )
    assert config.epochs == 10
    assert [(span.name, span.start, span.end, span.open, span.at_end) for span in spans(config)] == [
        ('b', 2, 9, False, False),
        ('a', 1, 10, True, False),
        ('c', 9, 10, True, False),
        ('d', 0, 10, True, True),
    ]
    assert together(config) == [('b', 'a', 2, 9), ('a', 'c', 9, 10)]
    assert [note.path for note in config.notes] == [('strategies', 'e')]


def test_later_ends_make_the_job_longer() -> None:
    data: dict[str, Any] = {
        'version': 1.0,
        'strategies': {'s': {'class': 'GMPStrategy', 'end_epoch': 30}},
        'compressor': {'epoch': 10, 'strategies': ['s']},
    }
    assert load_config(data).epochs == 30


def test_worked_files_exist() -> None:
    """One for every strategy, and combinations."""
    used = {one.class_name: file for file in WORKED for one in load_config(file).strategies}
    assert set(used) == set(Registry().classes('strategies'))
    assert sum(len(load_config(file).strategies) > 1 for file in WORKED) >= 4


@pytest.mark.parametrize('file', WORKED, ids=lambda file: file.name)
def test_worked_files(file: Path) -> None:
    config = load_config(file)
    assert [note for note in config.notes if 'nothing uses it' in note.message] == []
    assert all(one.options is not None for one in config.strategies)
    assert file.read_text('utf-8').startswith('# ')


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node['$ref']} if isinstance(node.get('$ref'), str) else set()
        return own.union(*map(references, node.values())) if node else own
    return set().union(*map(references, node)) if isinstance(node, list) and node else set()


def test_schema_knows_all_keys() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert references(schema) <= {f'#/$defs/{name}' for name in schema['$defs']}
    native, translated = schema['else'], schema['then']
    for section, classes in ((name, Registry().classes(name)) for name in SECTIONS):
        rows = native['properties'][section]['additionalProperties']
        assert rows['properties']['class']['anyOf'][0]['enum'] == list(classes)
        for row, (name, plugin) in zip(rows['allOf'], classes.items()):
            assert row['if']['properties']['class']['const'] == name
            more = {'distillation_loss_weight'} if section == 'distillers' else set()
            assert set(row['then']['properties']) == {'class', *plugin.options.model_fields, *more}
            assert row['then']['additionalProperties'] is False
    assert {'QuantAware', 'Quantization', 'TrainConfig', 'Global'} <= set(translated['properties'])
    assert schema['$id'].startswith('urn:') and schema['title']
    described = [rule for model in schema['$defs'].values() for rule in model.get('properties', {}).items()]
    assert not [name for name, rule in described if name != 'type' and not rule.get('description')]
    assert schema['$defs']['UniformPruneOptions']['properties']['max_ratio']['default'] == 0.9


def test_every_key_is_described() -> None:
    for section in SECTIONS:
        for name, plugin in Registry().classes(section).items():
            for key, field in plugin.options.model_fields.items():
                assert field.description, f'{name}.{key}'


def test_options_do_not_change() -> None:
    made = UniformPruneOptions(target_ratio=0.3)
    with pytest.raises(ValueError, match='frozen'):
        made.target_ratio = 0.4  # type: ignore[misc]
    assert issubclass(UniformPruneOptions, Options)


def test_page_of_the_reference_has_every_key() -> None:
    """Key, default and meaning stand in a table, the same as in the models."""
    page = (ROOT / 'docs' / 'reference' / 'compress-configuration.md').read_text('utf-8')
    for section in SECTIONS:
        for name, plugin in Registry().classes(section).items():
            assert f'`{name}`' in page, name
            for field in plugin.options.model_fields.values():
                assert re.sub(r'\s+', ' ', str(field.description)) in page, f'{name}: {field.description}'


SCHEMA = Schema(json_schema())


@pytest.mark.parametrize('file', WORKED, ids=lambda file: file.name)
def test_schema_accepts_worked_files(file: Path) -> None:
    assert SCHEMA.accepts(yaml.safe_load(file.read_text('utf-8')))


# What only the whole file tells, or two keys together, no schema knows.
SEEN_BY_EDITORS = (
    'no class',
    'unknown class',
    'unknown key',
    'text for a number',
    'number for text',
    'fraction of an epoch',
    'ratio above one',
    'negative epoch',
    'unknown choice',
    'ratio of one layer',
    'block of three',
    'bits',
    'unknown algorithm',
    'reference instead of a list',
    'missing key',
    'wrong teacher',
    'pair of three',
    'temperature',
    'unknown criterion',
    'typo in the compressor',
    'unknown optimizer',
    'argument of another optimizer',
    'unknown schedule',
    'schedule within a schedule',
    'negative rate',
    'unknown clip',
    'mode',
    'unknown act key',
    'act type',
    'loss',
)


@pytest.mark.parametrize('name', SEEN_BY_EDITORS)
def test_schema_refuses_malformed_files(name: str) -> None:
    text = HEAD + ENTRIES[name][0] if name in ENTRIES else ACT[name][0]
    assert not SCHEMA.accepts(yaml.safe_load(text))


def test_schema_accepts_older_files() -> None:
    data = yaml.safe_load(OLDER)
    data['compressor']['checkpoint_path'] = None
    data['distillers'] = {'soft': {'class': 'SoftLabelDistiller', 'distillation_loss_weight': 0.5}}
    assert load_config(data).instances['soft']
    assert SCHEMA.accepts(data)


def test_classes_of_the_user_have_any_keys_in_the_schema() -> None:
    assert SCHEMA.accepts(yaml.safe_load(USER))
