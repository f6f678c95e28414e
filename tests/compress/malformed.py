"""Malformed configurations: a comment ``#!`` marks the line that the error has to name."""

from __future__ import annotations

# The whole file, and a part of the message.
FILES: dict[str, tuple[str, str]] = {
    'empty': ('', 'the file is empty'),
    'comment alone': ('# nothing #!\n', 'the file is empty'),
    'list at the top': ('- prune #!\n- train\n', 'the top of the file must be a mapping of sections, not a list'),
    'text at the top': ('prune #!\n', 'must be a mapping of sections, not text'),
    'null at the top': ('~ #!\n', 'must be a mapping of sections, not nothing'),
    'tab': ('version: 1.0\ncompressor:\n\tepoch: 3 #!\n', 'a tab: YAML is indented with spaces'),
    'unclosed bracket': (
        'version: 1.0\ncompressor: {epoch: 3\nx: 1 #!\n',
        'while parsing a flow mapping, which begins in line 2',
    ),
    'unclosed quote': (
        "version: 1.0\ncompressor: {init_model: 'a} #!\n\n\n",
        'no YAML: the quote that begins here does not end',
    ),
    'colon in a value': (
        'version: 1.0\ncompressor: epoch: 3 #!\n',
        'a value with a colon and a space is written in quotes',
    ),
    'undefined alias': ('version: 1.0\ncompressor: *settings #!\n', "undefined alias 'settings'"),
    'two documents': ('version: 1.0\n--- #!\nversion: 1.0\n', 'a second document begins'),
    'control character': ('version: 1.0\ncompressor: {init_model: "\x07"} #!\n', 'the character 0x7 is not allowed'),
    'object tag': (
        'version: 1.0\ncompressor: !!python/object/apply:os.system ["touch harm"] #!\n',
        'the tag !!python/object/apply:os.system is not allowed',
    ),
    'name tag': (
        'version: 1.0\ncompressor:\n  epoch: !!python/name:os.system #!\n',
        'is not allowed: only plain values',
    ),
    'own tag': ('version: 1.0\ncompressor: !settings {epoch: 1} #!\n', 'the tag !settings is not allowed'),
    'set tag': ('version: 1.0\ncompressor: !!set {epoch} #!\n', 'the tag !!set is not allowed'),
    'false tag': ('version: 1.0\ncompressor:\n  epoch: !!int many #!\n', "'many' is no !!int of YAML"),
    'number as a key': ('version: 1.0\n1: 2 #!\n', "the key '1' is a number in YAML: write it in quotes"),
    'boolean as a key': ('version: 1.0\non: 2 #!\n', "the key 'on' is true or false in YAML"),
    'list as a key': ('version: 1.0\n? [a, b] #!\n: 2\n', 'a key must be text'),
    'duplicate section': ('version: 1.0\ncompressor: {}\ncompressor: {} #!\n', 'is given twice, first in line 2'),
    'duplicate key': (
        'version: 1.0\ncompressor:\n  epoch: 1\n  seed: 2\n  epoch: 3 #!\n',
        'given twice, first in line 3',
    ),
    'alias in itself': ('version: 1.0\ncompressor: &a\n  optimizer: *a #!\n', 'an alias contains itself'),
    'merge of a number': ('version: 1.0\ncompressor: {<<: 3} #!\n', '<< merges a mapping'),
    'exploding aliases': (
        'version: 1.0\na: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n'
        + ''.join(f'{x}: &{x} [{", ".join([f"*{y}"] * 10)}]\n' for x, y in zip('bcdefg', 'abcdef')),
        'aliases make more than 100000 values',
    ),
    'too deep': (f'version: {"[" * 3000}{"]" * 3000} #!\n', 'is nested too deeply'),
    'no version': ('compressor: {epoch: 1} #!\n', 'version is missing: write version: 1.0'),
    'other version': ('version: 2.0 #!\ncompressor: {epoch: 1}\n', 'is 2.0, and this release reads 1.0'),
    'boolean version': ('version: true #!\ncompressor: {epoch: 1}\n', 'is true, and this release reads 1.0'),
    'no compressor': ('version: 1.0 #!\nstrategies: {}\n', 'the section compressor is missing'),
    'section is a list': (
        'version: 1.0\npruners: [a] #!\ncompressor: {epoch: 1}\n',
        "must be a mapping of instances, name: {class: ...}, not ['a']",
    ),
    'strategies one level up': (
        'version: 1.0\ncompressor: {epoch: 1}\nstrategies: #!\n  - prune\n',
        "not ['prune']; those that run are listed in compressor.strategies",
    ),
    'compressor is a list': (
        'version: 1.0\ncompressor: [{epoch: 1}] #!\n',
        "compressor: must be a mapping of settings, not [{'epoch': 1}]",
    ),
    'unknown section': ('version: 1.0\nstrategys: {} #!\ncompressor: {epoch: 1}\n', "did you mean 'strategies'"),
    'section of other tools': ('version: 1.0\nmodel: {} #!\ncompressor: {epoch: 1}\n', 'unknown section'),
    'missing include': ('version: 1.0\ninclude: nowhere.yaml #!\ncompressor: {epoch: 1}\n', 'there is no file'),
    'missing second include': (
        'version: 1.0\ninclude:\n  - good.yaml\n  - nowhere.yaml #!\ncompressor: {epoch: 1}\n',
        'there is no file',
    ),
    'include of itself': ('version: 1.0\ninclude: file.yaml #!\ncompressor: {epoch: 1}\n', 'include each other'),
    'include is a number': ('version: 1.0\ninclude: 3 #!\ncompressor: {epoch: 1}\n', 'a path or a list of paths'),
    'include of a folder': ('version: 1.0\ninclude: . #!\ncompressor: {epoch: 1}\n', 'there is no file'),
}
# What comes after a head with a strategy of the user's own, which must not be imported.
HEAD = """\
version: 1.0
strategies:
  own: {class: tracer.Tracer, value: 3}
"""
ENTRIES: dict[str, tuple[str, str]] = {
    'entry is no mapping': (
        '  prune: UniformPruneStrategy #!\ncompressor: {strategies: []}',
        'must be a mapping with a class, such as {class: UniformPruneStrategy}, not',
    ),
    'no class': ('  prune: {target_ratio: 0.5} #!\ncompressor: {strategies: []}', 'class is missing'),
    'class is a number': ('  prune: {class: 3} #!\ncompressor: {strategies: []}', 'must be the name of a class, not 3'),
    'unknown class': (
        '  prune:\n    class: UniformPruneStrateg #!\ncompressor: {strategies: []}',
        "unknown class 'UniformPruneStrateg'; did you mean 'UniformPruneStrategy'",
    ),
    'class of another section': (
        '  prune: {class: StructurePruner} #!\ncompressor: {strategies: []}',
        "'StructurePruner' belongs to the section pruners",
    ),
    'class that is not there yet': (
        '  search: {class: LightNASStrategy} #!\ncompressor: {strategies: []}',
        "'LightNASStrategy' is not available",
    ),
    'no path of a class': (
        '  p: {class: tracer.} #!\ncompressor: {strategies: [p]}',
        "'tracer.' is no path of a class",
    ),
    'unknown key': (
        '  prune:\n    class: SensitivePruneStrategy\n    detla_rate: 0.2 #!\ncompressor: {strategies: []}',
        "unknown key; did you mean 'delta_rate'",
    ),
    'unknown key far from all': (
        '  prune: {class: UniformPruneStrategy, zzzz: 1} #!\ncompressor: {strategies: []}',
        'unknown key; known: channel_ratios',
    ),
    'text for a number': (
        "  prune:\n    class: UniformPruneStrategy\n    target_ratio: '0.5' #!\ncompressor: {strategies: []}",
        "must be a number, not '0.5': write it without quotes",
    ),
    'number for text': (
        '  prune:\n    class: UniformPruneStrategy\n    pruned_params: 5 #!\ncompressor: {strategies: []}',
        'must be text, not 5: write it in quotes',
    ),
    'fraction of an epoch': (
        '  prune:\n    class: UniformPruneStrategy\n    start_epoch: 0.5 #!\ncompressor: {epoch: 1, strategies: []}',
        'must be a whole number, not 0.5',
    ),
    'boolean for a number': (
        '  prune:\n    class: UniformPruneStrategy\n    round_to: yes #!\ncompressor: {strategies: []}',
        'must be a whole number, not true',
    ),
    'null where a value is needed': (
        '  prune:\n    class: UniformPruneStrategy\n    round_to: #!\ncompressor: {strategies: []}',
        'must be a whole number, not nothing',
    ),
    'ratio above one': (
        '  prune:\n    class: UniformPruneStrategy\n    target_ratio: 1.5 #!\ncompressor: {strategies: []}',
        'must be below 1, not 1.5',
    ),
    'infinite ratio': (
        '  prune:\n    class: UniformPruneStrategy\n    target_ratio: .inf #!\ncompressor: {strategies: []}',
        'not inf',
    ),
    'NaN': (
        '  prune:\n    class: GreedyPruneStrategy\n    accuracy_floor: .nan #!\ncompressor: {strategies: []}',
        'must be a finite number, not nan',
    ),
    'negative epoch': (
        '  prune:\n    class: UniformPruneStrategy\n    start_epoch: -1 #!\ncompressor: {strategies: []}',
        'must be at least 0, not -1',
    ),
    'end before the start': (
        '  p:\n    class: UniformPruneStrategy\n    start_epoch: 4\n    end_epoch: 4 #!\ncompressor: {strategies: []}',
        'must be after start_epoch (4)',
    ),
    'no regular expression': (
        "  prune:\n    class: UniformPruneStrategy\n    pruned_params: '(' #!\ncompressor: {strategies: []}",
        'no regular expression: missing )',
    ),
    'unknown choice': (
        '  prune:\n    class: UniformPruneStrategy\n    target: macs #!\ncompressor: {strategies: []}',
        "must be one of 'flops', 'params', not 'macs'",
    ),
    'two aims': (
        '  p:\n    class: UniformPruneStrategy\n    target_ratio: 0.5\n    channel_ratios: 0.5 #!\n'
        'compressor: {strategies: []}',
        'not both',
    ),
    'ratio of one layer': (
        '  p:\n    class: UniformPruneStrategy\n    channel_ratios:\n      conv1: 0.5\n      conv2: 2 #!\n'
        'compressor: {strategies: []}',
        'strategies.p.channel_ratios.conv2: must be below 1, not 2',
    ),
    'no floor': ('  p: {class: GreedyPruneStrategy} #!\ncompressor: {strategies: []}', 'give accuracy_floor'),
    'pattern as seconds': (
        '  p:\n    class: UnstructuredPruneStrategy\n    pattern: 2:4 #!\ncompressor: {strategies: []}',
        'without quotes, YAML reads 2:4 as the number 124',
    ),
    'pattern upside down': (
        "  p:\n    class: UnstructuredPruneStrategy\n    pattern: '4:2' #!\ncompressor: {strategies: []}",
        'is N:M with 0 < N < M in quotes',
    ),
    'block of three': (
        '  p:\n    class: UnstructuredPruneStrategy\n    sparse_block: [2, 2, 2] #!\ncompressor: {strategies: []}',
        'must be a list of at most 2 entries, not [2, 2, 2]',
    ),
    'steps too short': (
        '  p:\n    class: GMPStrategy\n    pruning_iterations: 50\n    pruning_steps: 10 #!\n'
        'compressor: {strategies: []}',
        'must be more than 10 times pruning_steps',
    ),
    'phase in batches and epochs': (
        '  p:\n    class: GMPStrategy\n    pruning_iterations: 50\n    pruning_epochs: 2 #!\n'
        'compressor: {strategies: []}',
        'give pruning_iterations or pruning_epochs, not both',
    ),
    'phases too long': (
        '  p:\n    class: GMPStrategy\n    start_epoch: 1\n    end_epoch: 4\n    stable_epochs: 0.5\n'
        '    pruning_epochs: 3 #!\ncompressor: {strategies: []}',
        'reached after 3.5 epochs, and the strategy has 3',
    ),
    'bits of a weight': (
        '  q:\n    class: QuantizationStrategy\n    weight_bits:\n      conv1: 4\n      conv2: 1 #!\n'
        'compressor: {strategies: []}',
        'strategies.q.weight_bits.conv2: must be at least 2, not 1',
    ),
    'bits': (
        '  q:\n    class: QuantizationStrategy\n    weight_bits: 1 #!\ncompressor: {strategies: []}',
        'must be at least 2, not 1',
    ),
    'unknown algorithm': (
        '  q:\n    class: PostTrainingQuantStrategy\n    algo: kl #!\ncompressor: {strategies: []}',
        "must be one of 'hist', 'KL'",
    ),
    'searched and given': (
        '  q:\n    class: PostTrainingQuantStrategy\n    algo: KL #!\n    search: {}\ncompressor: {strategies: []}',
        'is searched for: put it below search',
    ),
    'searched and reconstructed': (
        '  q:\n    class: PostTrainingQuantStrategy\n    search: {}\n    reconstruction: {} #!\n'
        'compressor: {strategies: []}',
        'excludes search',
    ),
    'bounds upside down': (
        '  q:\n    class: PostTrainingQuantStrategy\n    search:\n      batch_nums: [9, 3] #!\n'
        'compressor: {strategies: []}',
        'the lower bound comes first',
    ),
    'unknown reference': (
        '  p:\n    class: UniformPruneStrategy\n    pruner: pruner_1 #!\n'
        'pruners: {pruner_2: {class: StructurePruner}}\ncompressor: {strategies: []}',
        "there is no instance 'pruner_1' in pruners; did you mean 'pruner_2'",
    ),
    'reference to another section': (
        '  p:\n    class: UniformPruneStrategy\n    pruner: l2 #!\ndistillers: {l2: {class: L2Distiller}}\n'
        'compressor: {strategies: []}',
        "'l2' is an instance of distillers, where one of pruners is wanted",
    ),
    'reference in a list': (
        '  d:\n    class: DistillationStrategy\n    distillers:\n      - l2\n      - fsp #!\n'
        'distillers: {l2: {class: L2Distiller}}\ncompressor: {strategies: []}',
        "strategies.d.distillers[1]: there is no instance 'fsp'",
    ),
    'reference is a number': (
        '  p:\n    class: UniformPruneStrategy\n    pruner: 3 #!\ncompressor: {strategies: []}',
        'there is no instance 3 in pruners',
    ),
    'reference instead of a list': (
        '  d:\n    class: DistillationStrategy\n    distillers: l2 #!\ndistillers: {l2: {class: L2Distiller}}\n'
        'compressor: {strategies: []}',
        "must be a list, not 'l2': write [l2]",
    ),
    'instance instead of its name': (
        '  p:\n    class: UniformPruneStrategy\n    pruner: {class: StructurePruner} #!\ncompressor: {strategies: []}',
        'must be the name of an instance of pruners',
    ),
    'reference twice': (
        '  d:\n    class: DistillationStrategy\n    distillers: [l2, l2] #!\n'
        'distillers: {l2: {class: L2Distiller}}\ncompressor: {strategies: []}',
        "strategies.d.distillers[1]: names 'l2' twice",
    ),
    'in rounds and beside them': (
        '  p: {class: UniformPruneStrategy}\n  r: {class: AlternationStrategy, strategies: [p]}\n'
        'compressor: {epoch: 2, strategies: [r, p]} #!\n',
        "compressor.strategies[1]: 'p' acts in the rounds of 'r': leave it out",
    ),
    'quantized in every round': (
        '  q: {class: QuantizationStrategy}\n  r:\n    class: AlternationStrategy\n    strategies: [q] #!\n'
        'compressor: {epoch: 2, strategies: [r]}\n',
        "'q' brings integers, which stay until the end: list it beside the rounds",
    ),
    'quantized twice': (
        '  a: {class: PostTrainingQuantStrategy}\n  b: {class: QuantizationStrategy}\n'
        'compressor: {epoch: 2, strategies: [a, b]} #!\n',
        "compressor.strategies[0]: 'b' brings integers into the network: keep one of the two",
    ),
    'channels after integers': (
        '  a: {class: UniformPruneStrategy, start_epoch: 2}\n  b: {class: QuantizationStrategy, start_epoch: 1}\n'
        'compressor: {epoch: 4, strategies: [a, b]} #!\n',
        "'a' removes channels after 'b' has brought integers: let it act before",
    ),
    'steps after integers': (
        '  a: {class: SensitivePruneStrategy, num_steps: 2}\n  b: {class: QuantizationStrategy, start_epoch: 1}\n'
        'compressor: {epoch: 4, strategies: [a, b]} #!\n',
        "'a' may remove channels after 'b' has brought integers: give it end_epoch: 1",
    ),
    'distilled twice at once': (
        '  a: {class: DistillationStrategy, distillers: [l2], end_epoch: 3}\n'
        '  b: {class: DistillationStrategy, distillers: [l2], start_epoch: 2}\n'
        'distillers: {l2: {class: L2Distiller}}\ncompressor: {epoch: 4, strategies: [a, b]} #!\n',
        "compressor.strategies[1]: 'a' distills in the same epochs",
    ),
    'percent': (
        '  p:\n    class: UniformPruneStrategy\n    target_ratio: 50% #!\ncompressor: {strategies: []}',
        "must be a number, not '50%': write 0.5",
    ),
    'optimizer as text': (
        'compressor:\n  strategies: []\n  optimizer: Adam #!\n',
        "must be a mapping, not 'Adam': write {type: Adam}",
    ),
    'no distillers': (
        '  d: {class: DistillationStrategy, distillers: []} #!\ncompressor: {strategies: []}',
        'must be a list of at least 1 entry, not []',
    ),
    'missing key': ('  d: {class: DistillationStrategy} #!\ncompressor: {strategies: []}', 'distillers: is missing'),
    'wrong teacher': (
        '  d:\n    class: DistillationStrategy\n    distillers: [l2]\n    teacher: {model: net} #!\n'
        'distillers: {l2: {class: L2Distiller}}\ncompressor: {strategies: []}',
        "strategies.d.teacher.model: unknown key; did you mean 'model_dir'",
    ),
    'name in two sections': (
        'pruners: {own: {class: StructurePruner}} #!\ncompressor: {strategies: []}',
        "pruners.own: the name 'own' is taken by an instance of strategies",
    ),
    'pairs that do not match': (
        'distillers:\n  fsp:\n    class: FSPDistiller\n    student_pairs: [[a, b]]\n'
        '    teacher_pairs: [[a, b], [c, d]] #!\ncompressor: {strategies: []}',
        'must be as many as student_pairs (1), not 2',
    ),
    'pair of three': (
        'distillers:\n  fsp:\n    class: FSPDistiller\n    teacher_pairs: [[a, b]]\n    student_pairs: [[a, b, c]] #!\n'
        'compressor: {strategies: []}',
        'must be a list of at most 2',
    ),
    'temperature': (
        'distillers:\n  soft:\n    class: SoftLabelDistiller\n    student_temperature: 0 #!\n'
        'compressor: {strategies: []}',
        'must be above 0, not 0',
    ),
    'two names of the weight': (
        'distillers:\n  l2:\n    class: L2Distiller\n    weight: 1\n    distillation_loss_weight: 2 #!\n'
        'compressor: {strategies: []}',
        'is another name of weight, which is given, too',
    ),
    'unknown criterion': (
        'pruners:\n  p:\n    class: StructurePruner\n    criterions:\n      "*": l1 #!\ncompressor: {strategies: []}',
        "pruners.p.criterions.*: must be one of 'l1_norm'",
    ),
    'no other criterion': (
        'pruners:\n  p:\n    class: StructurePruner\n    criterions: {conv: l1_norm} #!\ncompressor: {strategies: []}',
        "needs an entry '*'",
    ),
    'axis': (
        'pruners:\n  p:\n    class: StructurePruner\n    pruning_axis: {"*": 1} #!\ncompressor: {strategies: []}',
        'must be 0, not 1',
    ),
    'quantizer of the seed': (
        'quantizers: {q: {class: StaticQuantizer}} #!\ncompressor: {strategies: []}',
        "unknown class 'StaticQuantizer'; did you mean",
    ),
    'controller of the seed': (
        'controllers: {c: {class: SAController}} #!\ncompressor: {strategies: []}',
        'no strategy of this package searches with a controller yet',
    ),
    'unknown controller': (
        'controllers: {c: {class: RandomController}} #!\ncompressor: {strategies: []}',
        'controllers has no classes of its own',
    ),
    'search for ratios': (
        '  p: {class: AutoPruneStrategy} #!\ncompressor: {strategies: []}',
        'take SensitivePruneStrategy or GreedyPruneStrategy',
    ),
    'said by the quantizer': (
        '  q:\n    class: QuantizationStrategy\n    quantizer: lsq\n    use_pact: true #!\n'
        'quantizers: {lsq: {class: LSQQuantizer}}\ncompressor: {strategies: []}',
        "use_pact: is what the quantizer 'lsq' is for: leave it out",
    ),
    'unknown strategy': (
        'compressor:\n  epoch: 3\n  strategies: [own, other] #!\n',
        "compressor.strategies[1]: there is no instance 'other' in strategies",
    ),
    'pruner as a strategy': (
        'pruners: {p: {class: StructurePruner}}\ncompressor: {strategies: [p]} #!',
        "'p' is an instance of pruners, where one of strategies is wanted",
    ),
    'strategy twice': ('compressor: {strategies: [own, own]} #!', "names 'own' twice"),
    'no list of strategies': ('compressor: {epoch: 3} #!', 'is missing, and nothing would run: list some of own'),
    'strategies as text': ('compressor: {strategies: own} #!', "must be a list, not 'own': write [own]"),
    'starts after the end': (
        '  prune:\n    class: UniformPruneStrategy\n    start_epoch: 5 #!\ncompressor: {epoch: 5, strategies: [prune]}',
        "'prune' starts in epoch 5, and the job has 5 epochs",
    ),
    'no epochs': (
        '  prune: {class: UniformPruneStrategy}\n  quantize: {class: PostTrainingQuantStrategy}\n'
        'compressor:\n  strategies: [quantize, prune] #!',
        "'prune' starts in epoch 0, and the job has 0 epochs",
    ),
    'typo in the compressor': (
        'compressor:\n  strategies: []\n  checkpoint_pth: x #!\n',
        "unknown key; did you mean 'checkpoint_path'",
    ),
    'number as a path': ('compressor:\n  strategies: []\n  checkpoint_path: 3 #!\n', 'must be text, not 3'),
    'unknown optimizer': (
        'compressor:\n  strategies: []\n  optimizer:\n    type: Adamm #!\n',
        "compressor.optimizer.type: unknown type 'Adamm'; did you mean 'Adam'",
    ),
    'optimizer without a type': (
        'compressor:\n  strategies: []\n  optimizer: {learning_rate: 0.1} #!\n',
        'compressor.optimizer.type: is missing',
    ),
    'argument of another optimizer': (
        'compressor:\n  strategies: []\n  optimizer:\n    type: SGD\n    momentum: 0.9 #!\n',
        'unknown key',
    ),
    'unknown schedule': (
        'compressor:\n  strategies: []\n  optimizer:\n    type: SGD\n    learning_rate:\n      type: Cosine #!\n',
        "unknown type 'Cosine'",
    ),
    'schedule within a schedule': (
        'compressor:\n  strategies: []\n  optimizer:\n    type: SGD\n    learning_rate:\n      type: LinearWarmup\n'
        '      warmup_steps: 3\n      start_lr: 0\n      end_lr: 1\n      learning_rate:\n        type: StepDecay\n'
        '        learning_rate: 0.1\n        stepsize: 3 #!\n',
        "learning_rate.learning_rate.stepsize: unknown key; did you mean 'step_size'",
    ),
    'boundaries': (
        'compressor:\n  strategies: []\n  optimizer:\n    type: SGD\n    learning_rate:\n      type: PiecewiseDecay\n'
        '      values: [0.1, 0.2, 0.3]\n      boundaries: [4, 3] #!\n',
        'must ascend',
    ),
    'negative rate': (
        'compressor:\n  strategies: []\n  optimizer:\n    type: SGD\n    learning_rate: -0.1 #!\n',
        'must be above 0, not -0.1',
    ),
    'unknown clip': (
        'compressor:\n  strategies: []\n  optimizer:\n    type: SGD\n    gradient_clip:\n      type: Norm #!\n',
        "unknown type 'Norm'; known: ClipGradByGlobalNorm",
    ),
    'mode': ('compressor:\n  strategies: []\n  mode: best #!\n', "must be one of 'max', 'min', not 'best'"),
    'budget': ('compressor:\n  strategies: []\n  budget:\n    flops: 3 #!\n', 'unknown key'),
}
# PaddleSlim's files.
ACT: dict[str, tuple[str, str]] = {
    'sections of both kinds': (
        'QuantPost:\ncompressor: {strategies: []} #!\n',
        'compressor: cannot stand beside QuantPost',
    ),
    'TransformerPrune': (
        'TransformerPrune: {pruned_ratio: 0.25} #!\nDistillation:\nTrainConfig: {epochs: 1}\n',
        'TransformerPrune: is not available',
    ),
    'older name': ('Quantization: #!\nHyperParameterOptimization:\n', 'Quantization: is a name of older releases'),
    'key of an older section': (
        'Quantization:\n  weight_bit: 8 #!\nDistillation:\nTrainConfig: {epochs: 1}\n',
        "unknown key; did you mean 'weight_bits'",
    ),
    'older keys': (
        'Distillation:\n  distill_node_pair: [teacher_a, a] #!\nASPPrune:\nTrainConfig: {epochs: 1}\n',
        'Distillation.distill_node_pair: is a key of older releases: write node',
    ),
    'section of the own script': (
        'QuantPost:\nMetric: {name: RecMetric} #!\n',
        'settings of your own script stand below Global',
    ),
    'unknown act section': (
        'QuantAwar: {} #!\nDistillation:\nTrainConfig: {epochs: 1}\n',
        "unknown section beside those of PaddleSlim; did you mean 'QuantAware'",
    ),
    'unknown act key': (
        'QuantAware:\n  weight_bit: 8 #!\nDistillation:\nTrainConfig: {epochs: 1}\n',
        "QuantAware.weight_bit: unknown key; did you mean 'weight_bits'",
    ),
    'older key': (
        'UnstructurePrune:\n  pruned_ratio: 0.5 #!\nDistillation:\nTrainConfig: {epochs: 1}\n',
        'is a key of older releases: write ratio',
    ),
    'act type': (
        'QuantAware:\n  use_pact: maybe #!\nDistillation:\nTrainConfig: {epochs: 1}\n',
        "must be true or false, not 'maybe'",
    ),
    'act section is a list': ('QuantAware: [8] #!\nDistillation:\nTrainConfig: {epochs: 1}\n', 'must be a mapping'),
    'no distillation': ('QuantAware: #!\nTrainConfig: {epochs: 1}\n', 'add the section Distillation'),
    'no training': ('Global: {}\nQuantAware: #!\nDistillation:\n', 'add the section TrainConfig'),
    'training alone': ('TrainConfig: {epochs: 1} #!\n', 'no section says how to compress'),
    'no epochs of training': (
        'QuantAware:\nDistillation:\nTrainConfig: {learning_rate: 0.1} #!\n',
        'epochs or train_iter',
    ),
    'both lengths': ('QuantAware:\nDistillation:\nTrainConfig: {epochs: 1, train_iter: 5} #!\n', 'one of the two'),
    'search without quantization': ('HyperParameterOptimization: #!\n', 'add that section'),
    'search and reconstruction': (
        'QuantPost:\n  recon_level: layer-wise #!\nHyperParameterOptimization:\n',
        'QuantPost.recon_level: excludes HyperParameterOptimization',
    ),
    'two quantizations': (
        'QuantAware:\nQuantPost: #!\nDistillation:\nTrainConfig: {epochs: 1}\n',
        'QuantPost: excludes QuantAware: keep one of the two',
    ),
    'two prunings': (
        'ChannelPrune: {pruned_ratio: 0.5}\nASPPrune: #!\nDistillation:\nTrainConfig: {epochs: 1}\n',
        'excludes ChannelPrune',
    ),
    'two kinds of teaching': (
        'Distillation:\nMultiTeacherDistillation: #!\n  loss: [l2]\n  node: [[]]\n  alpha: [1]\n'
        '  teacher_model_dir: [a]\nTrainConfig: {epochs: 1}\n',
        'excludes Distillation',
    ),
    'ratios without names': (
        'ChannelPrune:\n  pruned_ratio: [0.5, 0.2] #!\nDistillation:\nTrainConfig: {epochs: 1}\n',
        'one entry for each of prune_params_name',
    ),
    'lengths of lists': (
        'Distillation:\n  node: [[a], [b]]\n  loss: [l2] #!\nTrainConfig: {epochs: 1}\n',
        'one entry for each list of node (2), not 1',
    ),
    'fsp': ('Distillation:\n  loss: fsp #!\nTrainConfig: {epochs: 1}\n', 'fsp compares pairs of layers'),
    'loss': ('Distillation:\n  loss: l3 #!\nTrainConfig: {epochs: 1}\n', "must be one of 'l2', 'soft_label'"),
    'half a pair': (
        'Distillation:\n  node: [teacher_a, a, teacher_b] #!\nTrainConfig: {epochs: 1}\n',
        'pairs of teacher_<name> and a name',
    ),
    'gmp without its strategy': (
        'UnstructurePrune:\n  gmp_config: {pruning_iterations: 9, tunning_iterations: 0, pruning_steps: 1, '
        'initial_ratio: 0} #!\nDistillation:\nTrainConfig: {epochs: 1}\n',
        'needs prune_strategy: gmp',
    ),
    'gmp too short': (
        'UnstructurePrune:\n  prune_strategy: gmp\n  gmp_config:\n    pruning_iterations: 10\n'
        '    tunning_iterations: 0\n    pruning_steps: 5 #!\n    initial_ratio: 0.1\n'
        'Distillation:\nTrainConfig: {epochs: 1}\n',
        'UnstructurePrune.gmp_config.pruning_steps: pruning_iterations (10) must be more than 10 times',
    ),
    'optimizer of act': (
        'QuantAware:\nDistillation:\nTrainConfig:\n  epochs: 1\n  optimizer_builder:\n    optimizer:\n'
        '      type: Momentun #!\n',
        "TrainConfig.optimizer_builder.optimizer.type: unknown type 'Momentun'; did you mean 'Momentum'",
    ),
    'argument of an optimizer of act': (
        'QuantAware:\nDistillation:\nTrainConfig:\n  epochs: 1\n  optimizer_builder:\n    optimizer:\n'
        '      type: Momentum\n      momentun: 0.9 #!\n',
        "TrainConfig.optimizer_builder.optimizer.momentun: unknown key; did you mean 'momentum'",
    ),
    'schedule of act': (
        'QuantAware:\nDistillation:\nTrainConfig:\n  epochs: 1\n  learning_rate:\n    type: PiecewiseDecay\n'
        '    boundaries: [4]\n    values: [0.1] #!\n',
        'TrainConfig.learning_rate.values: must be',
    ),
    'clip of act': (
        'QuantAware:\nDistillation:\nTrainConfig:\n  epochs: 1\n  optimizer_builder:\n    grad_clip:\n'
        '      type: ClipGradByGlobalNorm\n      norm: 1.0 #!\n',
        'TrainConfig.optimizer_builder.grad_clip.norm: unknown key',
    ),
    'recompute': (
        'QuantAware:\nDistillation:\nTrainConfig:\n  epochs: 1\n  recompute_config: {} #!\n',
        'is not available',
    ),
    'stages in batches': (
        'ASPPrune:\nQuantAware:\nDistillation:\nTrainConfig:\n  train_iter: 100 #!\n',
        'are two stages: give epochs',
    ),
    'model is a number': (
        'Global:\n  model_dir: 3 #!\nQuantPost:\n',
        'Global.model_dir: must be text, not 3',
    ),
}
