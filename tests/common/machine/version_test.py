"""The version of the code: equal for equal checkouts, different after any change."""

import importlib.util
import pathlib
import re
import shutil

import pytest

from common.machine import version

ROOT = pathlib.Path(__file__).parents[3]


def version_of(root):
  """The version of a copy of the tree."""
  spec = importlib.util.spec_from_file_location(
    'version_of_copy', root / 'common/machine/version.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.of_code()


@pytest.fixture
def tree(tmp_path):
  texts = {
    'impala/a.py': 'a',
    'apex/b.py': 'b',
    'common/deep/er/c.py': 'c',
    'tests/a_test.py': 't',
    'README.md': 'r',
    'common/note.txt': 'n',
  }
  for path, text in texts.items():
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
  (tmp_path / 'common/machine').mkdir()
  shutil.copy(ROOT / 'common/machine/version.py', tmp_path / 'common/machine')
  return tmp_path


def test_a_version_is_twelve_digits_and_stays_the_same():
  assert re.fullmatch('[0-9a-f]{12}', version.of_code())
  assert version.of_code() == version.of_code() == version_of(ROOT)


def test_a_copy_of_a_checkout_has_the_same_version(tree, tmp_path_factory):
  other = tmp_path_factory.mktemp('elsewhere') / 'checkout'
  shutil.copytree(tree, other)
  assert version_of(other) == version_of(tree)


@pytest.mark.parametrize(
  'change',
  [
    lambda root: (root / 'impala/a.py').write_text('A'),
    lambda root: (root / 'apex/b.py').unlink(),
    lambda root: (root / 'common/deep/er/c.py').write_text('c\n'),
    lambda root: (root / 'apex/new.py').touch(),
    lambda root: (root / 'impala/a.py').rename(root / 'impala/z.py'),
    lambda root: (root / 'common/deep/er/c.py').rename(root / 'common/deep/c.py'),
  ],
  ids=['text', 'gone', 'line end', 'new', 'name', 'folder'],
)
def test_any_change_to_a_module_changes_the_version(tree, change):
  before = version_of(tree)
  change(tree)
  assert version_of(tree) != before


def test_text_moved_to_the_next_module_changes_the_version(tree):
  (tree / 'apex/b.py').write_text('one')
  (tree / 'apex/c.py').write_text('two')
  before = version_of(tree)
  (tree / 'apex/b.py').write_text('onetwo')
  (tree / 'apex/c.py').write_text('')
  assert version_of(tree) != before


def test_files_that_are_not_modules_do_not_count(tree):
  before = version_of(tree)
  (tree / 'tests/a_test.py').write_text('T')
  (tree / 'README.md').write_text('R')
  (tree / 'common/note.txt').unlink()
  (tree / 'impala/__pycache__').mkdir()
  (tree / 'impala/__pycache__/a.cpython-311.pyc').write_text('x')
  assert version_of(tree) == before


def test_an_editors_lock_does_not_count(tree):
  before = version_of(tree)
  (tree / 'common/.#note.py').symlink_to('somebody@somewhere.123')
  assert version_of(tree) == before
