"""Learners that several test files share."""

import pytest


@pytest.fixture
def learner():
  # Imported here: TensorFlow takes seconds, and other tests in this folder do not need it.
  from tests.common.distributed import learners

  with learners.closing(learners.Learner()) as made:
    yield made


@pytest.fixture
def small():
  """A learner whose queue holds two elements."""
  from tests.common.distributed import learners

  with learners.closing(learners.Learner(capacity=2)) as made:
    yield made
