"""What all tests share: processes and files that a failing test leaves behind are cleaned up."""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import pytest

from common.machine import janitor

_LONG = ('learning_test', 'run_test', 'faults_test', 'jobs_test', 'replicas_test', 'remote_test')


def pytest_collection_modifyitems(items):
  """Files that take minutes begin first: of the processes that share the files, none is to be left alone with one."""
  items.sort(
    key=lambda item: _LONG.index(item.path.stem) if item.path.stem in _LONG else len(_LONG)
  )


@pytest.fixture(scope='session', autouse=True)
def attended():
  with janitor.attend():
    yield
