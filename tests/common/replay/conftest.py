"""Fixtures for tests of replays."""

import sys

import pytest
import tensorflow as tf


@pytest.fixture(autouse=True)
def seed():
  """Makes draws reproducible."""
  tf.random.set_seed(1)


@pytest.fixture
def restless():
  """Switches Python's threads as often as possible: without a lock, some calls then interleave."""
  interval = sys.getswitchinterval()
  sys.setswitchinterval(1e-6)
  yield
  sys.setswitchinterval(interval)
