"""Who may import whom, how long a file may be, and what stands at the top of the tree."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MAX_LINES = 400
SYSTEMS = ('impala', 'apex')
TOP_LEVEL = {
  'impala',
  'apex',
  'common',
  'tests',
  'scripts',
  'docs',
  'requirements.txt',
  'README.md',
  'LICENSE',
  'pyproject.toml',
  '.ci',
  '.git',
  '.gitignore',
  '.venv',
  'runs',
  '__pycache__',
  '.mypy_cache',
  '.pytest_cache',
  '.ruff_cache',
}


def imports(source):
  """The top-level packages that a module imports: with `import`, `from`, or `importlib.import_module('...')`."""
  found = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found.update(alias.name.split('.')[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
      found.add(node.module.split('.')[0])
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith('import_module'):
      found.update(
        str(argument.value).split('.')[0]
        for argument in node.args
        if isinstance(argument, ast.Constant)
      )
  return found


def modules(*packages):
  return [path for package in packages for path in sorted((ROOT / package).rglob('*.py'))]


def importers(package, imported):
  return [
    str(path.relative_to(ROOT))
    for path in modules(package)
    if imported in imports(path.read_text())
  ]


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
  assert not importers(package, forbidden)


@pytest.mark.parametrize(
  'path', modules(*SYSTEMS, 'common'), ids=lambda path: str(path.relative_to(ROOT))
)
def test_files_are_short(path):
  assert len(path.read_text().splitlines()) <= MAX_LINES


def test_the_top_of_the_tree_holds_what_belongs_there():
  assert {path.name for path in ROOT.iterdir()} <= TOP_LEVEL
