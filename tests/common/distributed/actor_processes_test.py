"""Actor processes that die are started again, and what they died of is said in words."""

import re

import pytest

from common import errors
from common.distributed import actor_processes, cluster
from scripts import processes

DIED = r'killed by SIGBUS \(7\): /dev/shm may be too small.* It wrote last: all is well'


@pytest.fixture
def actors(tmp_path):
  made = actor_processes.ActorProcesses(
    program='tests.common.distributed.dying',
    count=1,
    learner='unix:/nowhere',
    who=cluster.Cluster(name='test'),
    flags=[],
    folder=tmp_path,
  )
  yield made
  made.close()


def test_deaths_are_explained_and_end_the_run_if_they_go_on(actors, caplog):
  refused = []

  def is_given_up():
    try:
      actors.look_after()
    except errors.UserError as error:
      refused.append(str(error))
    return bool(refused)

  assert processes.becomes_true(is_given_up, 60.0)
  assert actors.restarts == 4 and len(caplog.messages) == 4
  assert all(re.match(f'Actor process 0 was {DIED}', message) for message in caplog.messages)
  assert re.match(
    f'actor process 0 has failed 5 times in a row. The last time it was {DIED}', refused[0]
  )
