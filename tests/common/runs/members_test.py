"""What a run's learner takes from its members: no parameters newer than its own."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from apex import system as apex_system
from common.config import command_line
from common.distributed import cluster, wire
from impala import system as impala_system


@pytest.fixture(params=['impala', 'apex'])
def run(request, tmp_path):
  """A run that has not started, and would have one actor process."""
  system = {'impala': impala_system.IMPALA, 'apex': apex_system.APEX}[request.param]
  config = dataclasses.replace(system.presets.preset('gym'), num_actors=1)
  options = command_line.Options(run_dir=tmp_path / 'run', resume=False)
  who = cluster.Cluster(actor_processes=1)
  made = system.make_run(config, options, who)
  yield made
  made.host.close(finished=False)


def test_versions_up_to_the_learners_own_are_taken(run):
  codec = run.host._server._reception._codec
  zeros = tf.nest.map_structure(
    lambda s: np.zeros([1, *s.shape], s.dtype.as_numpy_dtype), codec.spec
  )

  def decode(version):
    return codec.decode(codec.encode(zeros._replace(parameter_version=np.array([version]))))

  decode(0)
  for newest in (0, 5):
    run.supervisor._learner.updates.assign(newest)
    decode(newest)
    with pytest.raises(wire.Malformed, match=f'parameter_version holds .* 0 to {newest} at the'):
      decode(newest + 1)
