"""What all tests share: processes and files that a failing test leaves behind are cleaned up."""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import pytest

from common import janitor


@pytest.fixture(scope='session', autouse=True)
def attended():
  with janitor.attend():
    yield
