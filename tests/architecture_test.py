"""Rules of the tree: imports, file length, the top level, and what the documentation may name."""

import ast
import dataclasses
import graphlib
import pathlib
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from apex import config as apex_config
from common import errors
from impala import config as impala_config

ROOT = pathlib.Path(__file__).parent.parent
MAX_LINES = 400
MAX_README_WORDS = 1500
SYSTEMS = ('impala', 'apex')
PACKAGES = (*SYSTEMS, 'common', 'docs', 'scripts', 'tests')
PRESETS: dict[str, Any] = {
  'impala': impala_config.PRESETS,
  'apex': apex_config.PRESETS,
}
TOP_LEVEL = {
  *PACKAGES,
  '.ci',
  '.github',
  '.gitignore',
  'LICENSE',
  'README.md',
  'pyproject.toml',
  'requirements.txt',
}

# Code in Markdown: fenced blocks, blocks that are indented by four spaces, and `spans`.
_CODE = re.compile(r'^```.*?^```|^ {4}.+?$|`[^`\n]+`', re.DOTALL | re.MULTILINE)
# A path in one of the tree's folders, up to a wildcard: `docs/*.md` names `docs/`.
_PATH = re.compile(rf'(?<![\w./-])(?:{"|".join(PACKAGES)})/(?:[\w./-]*[\w/])?')
_LINK = re.compile(r'\]\(([^)#\s]+)(?:#[^)]*)?\)')
_PRESET = re.compile(r'--preset=([a-z]\w*(?::\d+)?)')
_SETTING = re.compile(r'--config\.([a-z]\w*)')


def imports(source: str) -> set[str]:
  """The top-level packages a module imports: by `import`, `from`, or `import_module('...')`."""
  found: set[str] = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found.update(alias.name.split('.')[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
      found.add(node.module.split('.')[0])
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith('import_module'):
      names = (argument.value for argument in node.args if isinstance(argument, ast.Constant))
      found.update(str(name).split('.')[0] for name in names)
  return found


def modules(*packages: str) -> list[pathlib.Path]:
  """All Python files of some packages, in order."""
  return [path for package in packages for path in sorted((ROOT / package).rglob('*.py'))]


def importers(package: str, imported: str) -> list[str]:
  """The files of one package that import another."""
  return [relative(path) for path in modules(package) if imported in imports(path.read_text())]


def modules_imported(path: pathlib.Path) -> set[pathlib.Path]:
  """The files of this tree that a module imports when it is imported itself, for types included."""
  found = set()
  nodes = list(ast.parse(path.read_text()).body)
  for node in nodes:
    if isinstance(node, ast.If):  # `if TYPE_CHECKING:`.
      nodes.extend(node.body)
    elif isinstance(node, ast.ImportFrom) and node.module:
      folder = ROOT / node.module.replace('.', '/')
      found.update(folder / f'{alias.name}.py' for alias in node.names)
  return {imported for imported in found if imported.exists()}


def relative(path: pathlib.Path) -> str:
  return str(path.relative_to(ROOT))


def tracked_names() -> set[str] | None:
  """Names at the top of the tree that git tracks; None outside a git checkout."""
  command = ['git', '-C', str(ROOT), 'ls-files', '-z']
  try:
    listed = subprocess.run(command, capture_output=True, check=True, text=True)
  except (OSError, subprocess.CalledProcessError):
    return None
  return {path.split('/')[0] for path in listed.stdout.split('\0') if path}


def documents() -> list[pathlib.Path]:
  """The documentation that users read."""
  return [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]


def code_in(text: str) -> str:
  """The code of a Markdown text, without its prose."""
  return '\n'.join(_CODE.findall(text))


def paths_in(text: str) -> set[str]:
  """Paths of this tree that the code of a Markdown text names."""
  return set(_PATH.findall(code_in(text)))


def presets_in(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
  """Each `--preset=NAME` of a text, with the systems it may belong to: one, if its line says."""
  for line in text.splitlines():
    named = [system for system in SYSTEMS if f'{system}.train' in line or f' {system}' in line]
    systems = ('impala',) if 'scripts/train' in line else tuple(named) or SYSTEMS
    for name in _PRESET.findall(line):
      yield name, systems


def setting_names() -> set[str]:
  """Fields of either system's config."""
  configs = (presets.config for presets in PRESETS.values())
  return {field.name for config in configs for field in dataclasses.fields(config)}


def in_documents(find: Callable[[str], Iterable]) -> list:
  """Parameters `(document, item)` for what `find` finds in the text of each document."""

  texts = {path: path.read_text() for path in documents()}
  return [(path, item) for path, text in texts.items() for item in sorted(set(find(text)))]


def name_of(value: object) -> str:
  """A readable test id: of a path, a name, or a tuple that begins with one."""
  if isinstance(value, pathlib.Path):
    return relative(value)
  return value[0] if isinstance(value, tuple) else str(value)


def test_no_modules_import_each_other_in_a_circle():
  graph = {path: modules_imported(path) for path in modules(*SYSTEMS, 'common', 'scripts')}
  assert ROOT / 'impala/vtrace.py' in graph[ROOT / 'impala/learner.py']
  try:
    graphlib.TopologicalSorter(graph).prepare()
  except graphlib.CycleError as error:
    pytest.fail(' -> '.join(relative(path) for path in error.args[1]))


def test_imports_are_found_in_all_their_forms():
  source = """
import a.b, c as d
from e import f
from . import sibling
def later():
  from g.h import i
  importlib.import_module('j.k')
"""
  assert imports(source) == {'a', 'c', 'e', 'g', 'j'}


def test_there_is_something_to_check():
  assert importers('impala', 'common') and importers('tests', 'common')
  assert modules('common')
  assert len(documents()) > 1
  assert any(paths_in(path.read_text()) for path in documents())


def test_paths_are_found_in_all_forms_of_code():
  text = """
Prose about impala/prose.py, a link to [it](impala/link.md) and a `span of impala/span.py`.

    scripts/train --run_dir=/tmp/docs/run --config.torso=shallow

```
docs/*.md, /elsewhere/tests/a.py
```
"""
  assert paths_in(text) == {'impala/span.py', 'scripts/train', 'docs/'}


def test_presets_are_found_with_their_system():
  text = """
scripts/train --preset=dmlab --env=doom
python -m apex.train --preset=paper
python scripts/benchmark.py impala --preset dmlab --preset=table_2_none:7
`--preset=gym` or --preset=NAME
"""
  assert list(presets_in(text)) == [
    ('dmlab', ('impala',)),
    ('paper', ('apex',)),
    ('table_2_none:7', ('impala',)),
    ('gym', SYSTEMS),
  ]


@pytest.mark.parametrize(
  'package, forbidden',
  [
    ('impala', 'apex'),
    ('apex', 'impala'),
    ('common', 'impala'),
    ('common', 'apex'),
    ('common', 'tests'),
    ('scripts', 'tests'),
    ('impala', 'tests'),
    ('apex', 'tests'),
    ('impala', 'scripts'),
    ('apex', 'scripts'),
    ('common', 'scripts'),
  ],
)
def test_packages_keep_apart(package, forbidden):
  found = importers(package, forbidden)
  assert not found, f'{package} must not import {forbidden}: {", ".join(found)}'


@pytest.mark.parametrize('path', modules(*SYSTEMS, 'common'), ids=name_of)
def test_files_are_short(path):
  lines = len(path.read_text().splitlines())
  assert lines <= MAX_LINES, f'{relative(path)} has {lines} lines, expected at most {MAX_LINES}'


def test_the_top_of_the_tree_holds_what_belongs_there():
  # Only tracked files: an editor's folders and caches are nobody's business.
  tracked = tracked_names()
  if tracked is None:
    pytest.skip('not a git checkout: nobody can say what belongs to the tree')
  strangers = tracked - TOP_LEVEL
  assert not strangers, (
    f'{", ".join(sorted(strangers))} at the top of the tree: move it into a folder, or add it to '
    'TOP_LEVEL'
  )


def test_the_readme_is_short():
  words = len((ROOT / 'README.md').read_text().split())
  assert words <= MAX_README_WORDS, (
    f'README.md has {words} words, expected at most {MAX_README_WORDS}: move details to docs/'
  )


@pytest.mark.parametrize('document, path', in_documents(paths_in), ids=name_of)
def test_documents_name_files_that_exist(document, path):
  assert (ROOT / path).exists(), f'{relative(document)} names {path}, which does not exist'


@pytest.mark.parametrize('document, link', in_documents(_LINK.findall), ids=name_of)
def test_documents_link_to_files_that_exist(document, link):
  if re.match(r'\w+:', link):
    return  # An address of the web.
  assert (document.parent / link).exists(), f'{relative(document)} links to {link}: no such file'


@pytest.mark.parametrize('document, preset', in_documents(presets_in), ids=name_of)
def test_documents_name_presets_that_exist(document, preset):
  name, systems = preset
  reasons = []
  for system in systems:
    try:
      PRESETS[system].preset(name)
      return
    except errors.UserError as error:
      reasons.append(f'{system}: {error}')
  pytest.fail(f'{relative(document)} names --preset={name}. {" ".join(reasons)}')


@pytest.mark.parametrize(
  'system, preset', [(system, name) for system in SYSTEMS for name in PRESETS[system].rows]
)
def test_every_preset_is_documented(system, preset):
  document = ROOT / 'docs' / f'{system}.md'
  assert f'`{preset}`' in document.read_text(), f'{relative(document)} has no word on {preset}'


@pytest.mark.parametrize('document, setting', in_documents(_SETTING.findall), ids=name_of)
def test_documents_name_settings_that_exist(document, setting):
  assert setting in setting_names(), (
    f'{relative(document)} names --config.{setting}, which neither system has'
  )
