"""A file is written completely or not at all."""

import pathlib

import pytest

from common.machine import files


def names(folder):
  return sorted(path.name for path in pathlib.Path(folder).iterdir())


def test_a_new_file(tmp_path):
  with files.replacing(tmp_path / 'a.txt') as file:
    file.write('one\ntwo\n')
  assert (tmp_path / 'a.txt').read_bytes() == b'one\ntwo\n'
  assert names(tmp_path) == ['a.txt']


def test_the_old_file_is_there_until_the_block_ends(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('old')
  with files.replacing(path) as file:
    file.write('new')
    file.flush()
    assert path.read_text() == 'old'
  assert path.read_text() == 'new'
  assert names(tmp_path) == ['a.txt']


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_only_the_old_file_unchanged(tmp_path, error):
  path = tmp_path / 'a.txt'
  path.write_text('old')
  with pytest.raises(error):
    with files.replacing(path) as file:
      file.write('half of the n')
      raise error
  assert path.read_text() == 'old'
  assert names(tmp_path) == ['a.txt']


def test_an_exception_makes_no_file(tmp_path):
  with pytest.raises(ValueError):
    with files.replacing(tmp_path / 'a.txt') as file:
      file.write('half')
      raise ValueError
  assert names(tmp_path) == []


def test_bytes(tmp_path):
  with files.replacing(tmp_path / 'a.bin', 'wb') as file:
    file.write(b'\r\n\x00\xff')
  assert (tmp_path / 'a.bin').read_bytes() == b'\r\n\x00\xff'


def test_line_ends_are_written_as_given(tmp_path):
  """The csv module writes its own."""
  with files.replacing(tmp_path / 'a.csv') as file:
    file.write('a\r\nb\n')
  assert (tmp_path / 'a.csv').read_bytes() == b'a\r\nb\n'


def test_a_missing_folder(tmp_path):
  with pytest.raises(FileNotFoundError):
    with files.replacing(tmp_path / 'none' / 'a.txt') as file:
      file.write('x')
  assert names(tmp_path) == []
