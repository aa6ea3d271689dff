"""A3C: its update is IMPALA's on-policy one, in threads and over the wire; staleness; refusals."""

import numpy as np
import pytest
import tensorflow as tf

from common import environments
from common.distributed import parameters, wire
from impala import a3c, batching, networks, trajectory
from impala import config as configs
from impala import learner as learners
from tests import environments as own_environments
from tests.common import programs
from tests.impala import runs

SUITE = environments.load('gym:CartPole-v1')
ACTOR = 3


def fitted(**settings) -> configs.Config:
  config = runs.make_config(lstm=True, core_size=8, num_actors=5, **settings)
  config.fit(SUITE)
  return config


def make_learner(config: configs.Config) -> learners.Learner:
  tf.random.set_seed(2)
  learner = learners.Learner(config, SUITE, networks.make_agent(config, SUITE))
  learner.updates.assign(7)
  return learner


class Fixture:
  """A worker of two environments, and what it has unrolled."""

  def __init__(self):
    self.config = fitted(architecture='a3c', max_gradient_norm=1.0)
    self.learner = make_learner(self.config)
    self.arrivals = a3c.Arrivals(self.config, SUITE, self.learner)
    store = parameters.ParameterStore(self.learner.snapshot())
    tasks = [SUITE.tasks[0]] * runs.ENVS
    self.worker = a3c.make_worker(self.config, SUITE, ACTOR, tasks, store, 5, 6)
    unrolls: list[trajectory.Trajectory] = []
    # The second begins with a core state of its own.
    self.worker._actor.run(unrolls.append, lambda: len(unrolls) > 1)
    self.unroll = unrolls[1]

  def gradients(self, unroll: trajectory.Trajectory) -> a3c.Gradients:
    """Without the leading axis."""
    return tf.nest.map_structure(lambda x: x[0], self.worker._differentiate(unroll))


@pytest.fixture(scope='module')
def a():
  return Fixture()


def of_first(unroll: trajectory.Trajectory, count: int) -> trajectory.Trajectory:
  return tf.nest.map_structure(lambda x: x[:count], unroll)


def on_policy_update(unroll: trajectory.Trajectory) -> tuple[learners.Learner, learners.Update]:
  """IMPALA's, with V-trace."""
  config = fitted(batch_size=len(unroll.actor), max_gradient_norm=1.0)
  learner = make_learner(config)
  batch = batching.of_unroll(tf.nest.map_structure(tf.constant, unroll))
  return learner, learner.update(batch, tf.constant(len(unroll.actor) * runs.T, tf.int64))


# With one environment, as the paper's workers; and with two.
@pytest.mark.parametrize('count', [1, 2])
def test_an_update_is_impalas_on_policy_one(a, count):
  unroll = of_first(a.unroll, count)
  expected, expected_update = on_policy_update(unroll)
  before = [variable.numpy() for variable in a.learner.variables]
  gradients = a.gradients(unroll)
  assert int(gradients.trajectories) == count and int(gradients.actor) == ACTOR
  assert int(gradients.parameter_version) == 7
  update = a.arrivals.update(gradients)
  for variable, other, old in zip(a.learner.variables, expected.variables, before, strict=True):
    np.testing.assert_allclose(variable, other, rtol=1e-5, atol=1e-7)
    variable.assign(old)
  assert update.statistics.keys() == expected_update.statistics.keys()
  for name, value in update.statistics.items():
    np.testing.assert_allclose(
      float(value), float(expected_update.statistics[name]), rtol=1e-4, atol=1e-5
    )
  np.testing.assert_allclose(update.parameters, expected_update.parameters, rtol=1e-5, atol=1e-7)


def make_codec(a) -> wire.Codec:
  return wire.Codec(a.arrivals.spec, a.arrivals.bounds)


def test_gradients_over_the_wire_equal_those_in_threads(a):
  sent = a.worker._differentiate(a.unroll)
  codec = make_codec(a)
  arrived = codec.pack(codec.decode(wire.Codec(a.worker.spec, {}).encode(sent)))
  tf.nest.map_structure(np.testing.assert_array_equal, arrived, sent)


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('values', np.nan, 'values holds numbers that are not finite'),
    ('values', 1e13, 'values holds'),
    ('parameter_version', 8, 'parameter_version holds 8, expected 0 to 7'),
    ('actor', 5, 'actor holds 5, expected 0 to 4'),
    ('trajectories', 3, 'trajectories holds 3, expected 1 to 2'),
    ('trajectories', 0, 'trajectories holds 0'),
    ('task', 1, 'task'),
  ],
)
def test_what_no_worker_sends_is_refused(a, field, value, message):
  sent = a.worker._differentiate(a.unroll)
  bad = np.full_like(getattr(sent, field).numpy(), value)
  with pytest.raises(wire.Malformed, match=message):
    make_codec(a).decode(wire.Codec(a.worker.spec, {}).encode(sent._replace(**{field: bad})))


def test_gradients_that_are_not_finite_pass_the_wire_as_such_and_change_nothing(a):
  reward = a.unroll.reward.copy()
  reward[0, 2] = 3e38
  sent = a.worker._differentiate(a.unroll._replace(reward=reward))
  codec = make_codec(a)
  arrived = codec.pack(codec.decode(codec.encode(sent)))
  arrived = tf.nest.map_structure(lambda x: tf.constant(x[0]), arrived)
  before = [variable.numpy() for variable in a.learner.variables]
  update = a.arrivals.update(arrived)
  assert not arrived.sound and not update.statistics['finite'] and update.parameters_finite
  for variable, old in zip(a.learner.variables, before, strict=True):
    np.testing.assert_array_equal(variable, old)
  assert a.arrivals.describe(arrived) == 'gradients of actor 3 (CartPole-v1)'


def test_episodes_of_engines_that_died_are_not_counted(a):
  unroll = a.unroll._replace(episode_length=np.full_like(a.unroll.episode_length, 9))
  gradients = a.gradients(of_first(unroll, 1))
  lengths = gradients.episode_length.numpy()
  assert lengths.shape == (runs.T + 1, runs.ENVS)
  assert set(lengths[:, 0]) == {9} and set(lengths[:, 1]) == {0}


@pytest.mark.parametrize('workers', [1, 3])
def test_staleness_is_measured(tmp_path, workers):
  """A worker's next unroll has its own last gradients in it: only others' make it stale."""
  config = runs.make_config(architecture='a3c', num_actors=workers)
  kept, rows = runs.train(tmp_path, config, 30)
  frames_of_one = runs.ENVS * runs.T
  assert len(kept) == rows[-1]['updates'] == config.total_frames / frames_of_one
  stale = [version - int(told.parameter_version) for version, (told, _) in enumerate(kept)]
  assert min(stale) >= 0 and (max(stale) > 0) == (workers > 1)
  assert rows[-1]['frames'] == config.total_frames
  assert max(row['policy_lag_max'] for row in rows) == max(stale)


def test_gradients_that_are_not_finite_are_dropped_and_training_goes_on(tmp_path):
  config = runs.make_config(architecture='a3c', reward_clipping='none')
  kept, rows = runs.train(tmp_path, config, 100, own_environments.Surge)
  dropped = sum(not update.statistics['finite'] for _, update in kept)
  assert dropped == rows[-1]['dropped_batches'] > 0
  assert rows[-1]['updates'] == len(kept) - dropped
  assert list(tmp_path.glob('run/non_finite_batch.npz'))


def test_a_run_resumes(tmp_path):
  config = runs.make_config(architecture='a3c')
  runs.train(tmp_path, config, 10)
  kept, rows = runs.train(tmp_path, config, 15, resume=True)
  # Two gradients have the frames of one update of `runs.train`.
  assert rows[-1]['updates'] == 30 and len(kept) == 10
  assert int(kept[0].told.parameter_version) == 20


@pytest.mark.long
def test_workers_in_processes_train(tmp_path):
  folder = tmp_path / 'run'
  training = programs.start(
    'impala',
    f'--run_dir={folder}',
    '--actor_processes=2',
    '--total_frames=1000',
    '--config.architecture=a3c',
    '--config.lstm=false',
    '--config.unroll_length=5',
    '--config.evaluation_episodes=0',
  )
  programs.finish(training)
  last = programs.rows(folder)[-1]
  assert (last['frames'], last['updates'], last['actors_lost']) == (1000, 50, 0)
  assert last['messages_refused'] == last['puts_dropped'] == 0
