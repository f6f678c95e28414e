"""Build the documentation as static pages, without the network.

    python tools/build_docs.py OUTPUT

The pages of ``docs/`` become HTML at the same places in OUTPUT; the reference of the package, made from its docstrings,
goes to OUTPUT/reference/api.
"""

from __future__ import annotations

import argparse
import html
import importlib
import re
from pathlib import Path

import markdown2
import pdoc
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).resolve().parent.parent
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.6 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }}
pre {{ background: #f6f8fa; padding: .8rem; overflow-x: auto; }}
code {{ font-size: 90%; }}
table {{ border-collapse: collapse; }}
th, td {{ border: 1px solid #d0d7de; padding: .3rem .7rem; text-align: left; }}
{highlighting}
</style>
</head>
<body>
<nav><a href="{home}index.html">paddleslim_ng</a> &middot; <a href="{home}reference/api/index.html">API</a></nav>
{body}
</body>
</html>
"""
EXTRAS = ['fenced-code-blocks', 'tables', 'header-ids', 'cuddled-lists']


def render(source: Path, depth: int) -> str:
    """Return the HTML page of a Markdown file that lies ``depth`` folders below the root of the documentation."""
    text = source.read_text(encoding='utf-8')
    # The word after the language tells the tests what to do with a block, not the reader.
    text = re.sub(r'^```python[^\n]*$', '```python', text, flags=re.MULTILINE)
    title = next((line.lstrip('# ') for line in text.splitlines() if line.startswith('#')), source.stem)
    body = re.sub(r'(href="[^":]*)\.md(["#])', r'\1.html\2', markdown2.markdown(text, extras=EXTRAS))
    style = HtmlFormatter().get_style_defs('.codehilite')
    return PAGE.format(title=html.escape(title), highlighting=style, home='../' * depth, body=body)


def build(output: Path) -> int:
    """Write all pages below ``output`` and return how many come from Markdown."""
    pages = sorted((ROOT / 'docs').rglob('*.md'))
    for source in pages:
        relative = source.relative_to(ROOT / 'docs')
        target = (output / relative).with_suffix('.html')
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(render(source, len(relative.parts) - 1), encoding='utf-8')
    # pdoc forbids subprocesses while it imports, and Paddle starts one, so the package is imported before; and pdoc
    # sees only names that a module has loaded.
    package = importlib.import_module('paddleslim_ng')
    for name in package.__all__:
        setattr(package, name, getattr(package, name))
    pdoc.render.configure(docformat='google')
    pdoc.pdoc('paddleslim_ng', output_directory=output / 'reference' / 'api')
    return len(pages)


def main() -> None:
    """Build into the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('output', type=Path)
    output = parser.parse_args().output
    print(f'{build(output)} pages and the reference are in {output}/index.html')


if __name__ == '__main__':
    main()
