"""All results so far: a Markdown page with pictures, and an HTML page that holds everything."""

import base64
import html
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from common import errors
from common.experiments import conclusion
from common.machine import files

_TITLE = 'What has been reproduced, and at which scale'
_INTRODUCTION = (
  "Each section is one figure or table of a paper. Its claim is ours in words, and the paper's in "
  'substance. The test of a claim was fixed before the runs. "holds": the 95% interval lies beyond '
  'the threshold; "contrary": it lies on the other side of zero; "not shown": neither. At scales '
  'below paper, a verdict is about the direction of a claim, never about a score.'
)
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: auto; padding: 1rem; }
img { max-width: 100%; height: auto; }
figure { margin: 1rem 0; } figcaption { font-size: 0.85rem; color: #444; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.85rem; }
th, td { padding: 0.2rem 0.6rem; border-bottom: 1px solid #ccc; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.word { font-weight: bold; } li { overflow-wrap: anywhere; }
"""


def write(results_folder: pathlib.Path, output: pathlib.Path) -> list[pathlib.Path]:
  """Writes `reproduction.md` with its pictures, and `reproduction.html`, to a folder.

  Args:
    results_folder: Holds a folder for each experiment and scale.
    output: Where the pages go.

  Returns:
    The pages.

  Raises:
    UserError: If there are no results yet.
  """
  paths = sorted(results_folder.glob('*/*/result.json'))
  if not paths:
    raise errors.UserError(
      f'{results_folder} has no results yet: run an experiment first, see scripts/reproduce.py list'
    )
  results = [(path.parent, conclusion.load(path)) for path in paths]
  output.mkdir(parents=True, exist_ok=True)
  pages = [output / 'reproduction.md', output / 'reproduction.html']
  with files.replacing(pages[0]) as file:
    file.write(_markdown(results, output / 'reproduction'))
  with files.replacing(pages[1]) as file:
    file.write(_html(results))
  return pages


_Results = Sequence[tuple[pathlib.Path, Mapping[str, Any]]]


def _name(result: Mapping[str, Any]) -> str:
  also = f' ({", ".join(result["also"])})' if result['also'] else ''
  return f'{result["id"]}{also}, scale {result["scale"]}'


def _markdown(results: _Results, pictures: pathlib.Path) -> str:
  """The Markdown page; copies pictures and their numbers to a folder beside it."""
  shutil.rmtree(pictures, ignore_errors=True)
  lines = [f'# {_TITLE}', '', _INTRODUCTION, '', *_overview(results)]
  for folder, result in results:
    lines += ['', f'## {_name(result)}', '', f'{result["title"]}. {result["changes"]}', '']
    lines += [f'- **{each["word"]}**: {_sentence(each)}' for each in result['claims']]
    lines += [
      f'  - {finding["word"]}: {finding["test"]}: {finding["numbers"]}'
      for each in result['claims']
      for finding in each['findings']
    ]
    for title, table in _tables(result):
      lines += ['', f'{title}:', '', *_markdown_table(table)]
    for picture in result['pictures']:
      name = f'{result["id"]}.{result["scale"]}.{picture["kind"]}'
      pictures.mkdir(parents=True, exist_ok=True)
      for ending in ('png', 'csv'):
        shutil.copyfile(folder / f'{picture["file"]}.{ending}', pictures / f'{name}.{ending}')
      lines += ['', f'![{picture["caption"]}]({pictures.name}/{name}.png)']
      lines += ['', f'Numbers: [{name}.csv]({pictures.name}/{name}.csv)']
    lines += ['', _provenance(result)]
  return '\n'.join(lines) + '\n'


def _overview(results: _Results) -> list[str]:
  lines = ['| experiment | claim | verdict |', '|---|---|---|']
  for _, result in results:
    for claim in result['claims']:
      lines.append(f'| {_name(result)} | {_sentence(claim)} | {claim["word"]} |')
  return lines


def _sentence(claim: Mapping[str, Any]) -> str:
  return f'{claim["text"]} ({claim["section"]})'


def _tables(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
  """Titles and tables: what was measured, then the paper's."""
  tables = [('Measured here, with 95% bootstrap intervals', table) for table in result['tables']]
  if result['paper']:
    tables.append(('The paper', result['paper']))
  return tables


def _markdown_table(table: Mapping[str, Any]) -> list[str]:
  tasks = conclusion.tasks_of(table)
  lines = [f'| {table["label"]} | {" | ".join(tasks)} |', '|---' * (len(tasks) + 1) + '|']
  for name, row in table['rows'].items():
    cells = ' | '.join(conclusion.cell(row.get(task)) for task in tasks)
    lines.append(f'| {name} | {cells} |')
  return lines


def _provenance(result: Mapping[str, Any]) -> str:
  """What the result rests on, and what is missing, in sentences."""
  runs = result['runs']
  sentences = []
  if runs['planned']:
    sentences.append(f'{runs["finished"]} of {runs["planned"]} runs; {result["machine"]}.')
  if result['code']:
    sentences.append(f'Code version {result["code"]}.')
  sentences += [f'Not run: {name}: {why}.' for name, why in runs['unavailable'].items()]
  sentences += [f'Failed: {name}: {why}.' for name, why in runs['failed'].items()]
  return ' '.join(sentences)


def _html(results: _Results) -> str:
  """One page with the pictures inside it, in vectors."""
  parts = [
    '<!doctype html>',
    '<html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    f'<title>{_TITLE}</title><style>{_STYLE}</style></head><body>',
    f'<h1>{_TITLE}</h1><p>{html.escape(_INTRODUCTION)}</p>',
  ]
  for number, (_, result) in enumerate(results):
    words = ', '.join(claim['word'] for claim in result['claims'])
    parts.append(f'<div><a href="#r{number}">{html.escape(_name(result))}</a>: {words}</div>')
  for number, (folder, result) in enumerate(results):
    parts += _html_section(number, folder, result)
  return '\n'.join([*parts, '</body></html>']) + '\n'


def _html_section(number: int, folder: pathlib.Path, result: Mapping[str, Any]) -> list[str]:
  escape = html.escape
  parts = [f'<h2 id="r{number}">{escape(_name(result))}</h2>']
  parts.append(f'<p>{escape(result["title"])}. {escape(result["changes"])}</p><ul>')
  for claim in result['claims']:
    parts.append(f'<li><span class="word">{claim["word"]}</span>: {escape(_sentence(claim))}<ul>')
    for each in claim['findings']:
      said = f'{each["word"]}: {each["test"]}: {each["numbers"]}'
      parts.append(f'<li>{escape(said)}</li>')
    parts.append('</ul></li>')
  parts.append('</ul>')
  for title, table in _tables(result):
    parts += [f'<p>{escape(title)}:</p><div class="wide"><table>', *_html_rows(table)]
    parts.append('</table></div>')
  for picture in result['pictures']:
    data = base64.b64encode((folder / f'{picture["file"]}.svg').read_bytes()).decode()
    caption = escape(picture['caption'])
    image = f'<img alt="{caption}" src="data:image/svg+xml;base64,{data}">'
    parts.append(f'<figure>{image}<figcaption>{caption}</figcaption></figure>')
  parts.append(f'<p>{escape(_provenance(result))}</p>')
  return parts


def _html_rows(table: Mapping[str, Any]) -> list[str]:
  tasks = conclusion.tasks_of(table)
  heads = ''.join(f'<th>{html.escape(text)}</th>' for text in (table['label'], *tasks))
  rows = [f'<tr>{heads}</tr>']
  for name, row in table['rows'].items():
    cells = ''.join(f'<td>{html.escape(conclusion.cell(row.get(task)))}</td>' for task in tasks)
    rows.append(f'<tr><td>{html.escape(name)}</td>{cells}</tr>')
  return rows
