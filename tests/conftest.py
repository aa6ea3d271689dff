"""Shared by all tests: their order, and cleaning up after tests that fail."""

import os
from typing import Iterator

# Before anything imports TensorFlow, which reads them once. The kernels are those of runs.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')

import pytest

from common.machine import janitor

_LONG = ('learning_test', 'run_test', 'faults_test', 'jobs_test', 'replicas_test', 'remote_test')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Starts files that take minutes first.

  With several test processes, a long file started last would run while the others idle.
  """

  def rank(item: pytest.Item) -> int:
    name = item.path.stem
    return _LONG.index(name) if name in _LONG else len(_LONG)

  items.sort(key=rank)


@pytest.fixture(scope='session', autouse=True)
def attended() -> Iterator[None]:
  """Kills processes and removes files that tests leave behind."""
  with janitor.attend():
    yield
