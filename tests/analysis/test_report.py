"""Sensitivity figure, charts and the HTML report."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from paddleslim_ng.analysis import LayerCost, ModelFigures, Report, ReportTable, plot_sensitivities, svg, write_report
from paddleslim_ng.errors import ConfigError
from paddleslim_ng.runtime import Latency

CURVES = {
    'conv2_1_sep_weights': {0.1: 0.0033, 0.3: 0.0070, 0.2: 0.0034},
    'conv3_1_sep_weights': {0.1: -0.0007, 0.2: 0.0073, 0.3: 0.0347},
}
VOID = {'meta', 'br'}


class Page(HTMLParser):
    """Checks that tags nest, and collects texts and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ''
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or '') for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or '') for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def full_report() -> Report:
    before = [
        LayerCost('conv1_weights', 'conv2d', (1, 32, 14, 14), 56448, 288),
        LayerCost('conv2_1_sep_weights', 'conv2d', (1, 64, 14, 14), 401408, 2048),
    ]
    after = [before[0], LayerCost('conv2_1_sep_weights', 'conv2d', (1, 45, 14, 14), 282240, 1440)]
    return Report(
        title='Digits <MobileNet> & friends',
        models=[
            ModelFigures('trained', 0.9712, 10896832, 3228864, 12999123, Latency(1.2, 1.1, 1.4, 50)),
            ModelFigures('pruned', 0.9012),
            ModelFigures('fine-tuned', 0.9698, 9588167, 3100000, 12400000, Latency(1.1, 1.0, 1.3, 50)),
        ],
        equivalence={'maximum absolute difference': 1.19e-6, 'feeds': 'synthesized <x>'},
        layers_before=before,
        layers_after=after,
        sensitivities=CURVES,
        loss=0.01,
        ratios={'conv2_1_sep_weights': 0.3, 'conv3_1_sep_weights': 0.20999995},
        tables=[ReportTable('Device <files>', ['file', 'size'], [['a<b>.nb', '12 kB']], 'Made & read.', ['5 < 6'])],
        notes=['pruned 19 of 64 channels of conv2_1_sep_weights', '<script>alert(1)</script>'],
        environment={'paddle': '3.3.1 (PIR)', 'threads': '1'},
    )


def test_report_is_one_safe_page(tmp_path: Path) -> None:
    path = tmp_path / 'report.html'
    write_report(path, full_report())
    html = path.read_text('utf-8')
    page = Page(html)
    assert page.open == []
    assert not {'script', 'link', 'img', 'iframe', 'object'}.intersection(page.tags)
    assert not [name for name, _ in page.attributes if name in ('src', 'href') or name.startswith('on')]
    assert 'http' not in html and 'url(' not in html and '@import' not in html
    assert 'prefers-color-scheme: dark' in html
    assert '<script>' not in html and '<script>alert(1)</script>' in page.text
    assert 'Digits <MobileNet> & friends' in page.text
    for text in ('10,896,832', '9,588,167', '96.98 %', '97.12 %', '−0.14 points', '−12.0 %', '13 MB', '1.100'):
        assert text in page.text, text
    for text in ('64 × 14 × 14', '45 × 14 × 14', '1.19e-06', 'synthesized <x>', '3.3.1 (PIR)', '0.2100', 'fine-tuned'):
        assert text in page.text, text
    for text in ('Device <files>', 'a<b>.nb', '12 kB', 'Made & read.', '5 < 6'):
        assert text in page.text, text
    assert page.tags.count('svg') == 2
    assert [p.name for p in tmp_path.iterdir()] == ['report.html']


def test_report_leaves_out_what_is_not_known(tmp_path: Path) -> None:
    write_report(tmp_path / 'a.html', Report('Short', models=[ModelFigures('only', accuracy=0.5)]))
    page = Page((tmp_path / 'a.html').read_text('utf-8'))
    assert page.tags.count('h2') == 1 and '50.00 %' in page.text
    with pytest.raises(ConfigError, match='title'):
        write_report(tmp_path / 'b.html', Report(''))
    with pytest.raises(ConfigError, match='2 columns'):
        write_report(tmp_path / 'b.html', Report('T', tables=[ReportTable('t', ['a', 'b'], [['only one']])]))
    assert not (tmp_path / 'b.html').exists()


def test_layers_without_counterpart_are_shown() -> None:
    gone, new = LayerCost('a', 'mul', (1, 2), 4, 4), LayerCost('b', 'mul', (1, 2), 6, 6)
    text = Page(Report('T', layers_before=[gone, gone], layers_after=[gone, new]).html()).text
    assert 'b' in text and '+25.0 %' in text


def test_chart_places_points_in_the_picture() -> None:
    points = [(0.1, 0.0), (0.2, 0.5), (0.3, math.nan), (0.4, 1.0)]
    axes = svg.axes_for([points], 0.6)
    assert axes.x_ticks[0] == 0 and axes.x_ticks[-1] >= 0.4 and axes.y_ticks[-1] >= 1
    chart = svg.line_chart('a "b" <c>', points, axes, threshold=0.6, chosen=0.15)
    page = Page(chart)
    assert page.open == [] and ('aria-label', 'a "b" <c>') in page.attributes
    assert len(re.findall('class="point"', chart)) == 3
    width, height = (float(n) for n in re.search(r'viewBox="0 0 (\S+) (\S+)"', chart).groups())
    for name, value in page.attributes:
        if name in ('cx', 'x1', 'x2', 'x'):
            assert 0 <= float(value) <= width
        if name in ('cy', 'y1', 'y2', 'y'):
            assert 0 <= float(value) <= height
    chosen = re.search(r'circle class="chosen" cx="(\S+)" cy="(\S+)"', chart)
    assert tuple(map(float, chosen.groups())) == pytest.approx(axes.at(0.15, 0.25), abs=0.05)


@pytest.mark.parametrize(('low', 'high'), [(0, 1), (-0.0007, 0.0347), (0, 0), (3, 3), (0, 9e-9), (-5, 1234)])
def test_ticks_enclose_and_are_few(low: float, high: float) -> None:
    ticks = svg.nice_ticks(low, high)
    assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12
    assert 2 <= len(ticks) <= 7
    assert list(ticks) == sorted(set(ticks))


def test_sensitivity_figure(tmp_path: Path) -> None:
    before = matplotlib.get_backend()
    figure = plot_sensitivities(CURVES, tmp_path / 'curves.png', loss=0.01)
    assert (tmp_path / 'curves.png').read_bytes().startswith(b'\x89PNG')
    assert [p.name for p in tmp_path.iterdir()] == ['curves.png']
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines if line.get_label() in CURVES}
    assert set(lines) == set(CURVES)
    assert list(lines['conv2_1_sep_weights'].get_xdata()) == [0.1, 0.2, 0.3]
    assert list(lines['conv2_1_sep_weights'].get_ydata()) == [0.0033, 0.0034, 0.0070]
    assert matplotlib.get_backend() == before
    plot_sensitivities({f'p{n}': {0.1: n / 10} for n in range(45)}, tmp_path / 'many.svg')
    with pytest.raises(ConfigError, match='empty'):
        plot_sensitivities({'a': {}})
    with pytest.raises(ConfigError, match='cannot write'):
        plot_sensitivities(CURVES, tmp_path / 'curves.doc')


def test_figure_leaves_pyplot_alone() -> None:
    import subprocess
    import sys

    code = (
        'import sys, paddleslim_ng as slim\n'
        'slim.analysis\n'
        'assert "matplotlib" not in sys.modules\n'
        'slim.analysis.plot_sensitivities({"a": {0.1: 0.5}})\n'
        'assert "matplotlib.pyplot" not in sys.modules\n'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
