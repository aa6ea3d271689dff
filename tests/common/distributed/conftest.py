"""Learners that several files of tests talk to."""

import pytest


@pytest.fixture
def learner():
  from tests.common.distributed import (
    learners,  # Only here: TensorFlow takes seconds, and others do not need it.
  )

  with learners.closing(learners.Learner()) as made:
    yield made


@pytest.fixture
def small():
  """Has room for two elements."""
  from tests.common.distributed import learners

  with learners.closing(learners.Learner(capacity=2)) as made:
    yield made
