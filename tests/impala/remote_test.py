"""Actors outside the learner's process: central inference, and runs of several processes."""

import contextlib
import csv
import dataclasses
import signal
import threading

import numpy as np
import pytest
import tensorflow as tf

from common import environments, errors
from common.distributed import (
  gate,
  inference,
  intake,
  membership,
  parameters,
  queues,
  wire,
)
from common.distributed import link as links
from common.distributed import server as servers
from impala import config as configs
from impala import networks, policy, remote, trajectory
from scripts import processes
from tests.common import programs

T = 5
N = 3
VERSION = 7
CLOSE = {'rtol': 1e-4, 'atol': 1e-5}


class Learner:
  """The server of a run that does not train, whose learner chooses the actors' actions."""

  def __init__(self, env, **settings):
    self.config = dataclasses.replace(
      configs.PRESETS.preset(configs.PRESETS.preset_for(env)),
      env=env,
      num_actors=2,
      envs_per_actor=N,
      unroll_length=T,
      dynamic_batching=True,
      **settings,
    )
    self.suite = environments.load(env)
    self.agent = networks.make_agent(self.config, self.suite)
    state = self.agent.initial_state
    self.version = VERSION
    spec = trajectory.specification(self.suite, T, state(1))
    self.queue = queues.StructureQueue(spec, 2 * N)
    shared = policy.DynamicBatchingPolicy(
      self.agent,
      self.suite,
      lambda: self.version,
      N,
      10.0,
      3,
    )
    inputs, outputs = policy.central_codecs(self.suite, state(1))

    def decide(fields):
      return tf.nest.flatten(shared.decide_flat(fields))

    snapshot = parameters.Snapshot(VERSION, parameters.flatten(self.agent.trainable_variables))
    self.server = servers.Server(
      None,
      membership.Identity('abc', dataclasses.asdict(self.config)),
      range(2),
      intake.Intake(
        queue=self.queue,
        codec=wire.Codec(spec, trajectory.bounds(spec, self.suite, 2, lambda: self.version)),
        store=parameters.ParameterStore(snapshot),
      ),
      servers.Callbacks(frames=lambda: 0, seed_of=lambda number: number, on_report=print),
      inference.Inference(inputs, outputs, decide, lambda: self.version),
    )
    self.server.start()

  @contextlib.contextmanager
  def joined(self, name='one'):
    """The policy of an actor that joins for the block."""
    link = links.Link(self.server.address, links.Applicant(name, 'actor', 'abc', {}), 20.0)
    try:
      yield remote.make_policy(self.config, self.suite, link, link.join().seed)
    finally:
      link.close()

  def some_inputs(self, seed, count=N):
    """Random inputs of one step, and a random core state."""
    rng = np.random.default_rng(seed)

    def draw_observation(space):
      shape = (count, *space.shape)
      if space.dtype == np.float32:
        return rng.normal(size=shape).astype(np.float32)
      return rng.integers(space.low.max(), space.high.min(), shape).astype(space.dtype)

    def draw_state(x):
      return tf.constant(rng.normal(size=x.shape), tf.float32)

    spaces = self.suite.observation_space.spaces
    inputs = networks.AgentInput(
      observation={name: draw_observation(space) for name, space in spaces.items()},
      last_action=rng.integers(self.suite.num_actions, size=count).astype(np.int32),
      reward=rng.normal(size=count).astype(np.float32),
      done=rng.random(count) < 0.3,
    )
    state = tf.nest.map_structure(draw_state, self.agent.initial_state(count))
    return tf.nest.map_structure(tf.constant, inputs), state

  def close(self):
    self.queue.close()
    self.server.close(finished=True)


@pytest.fixture(
  scope='module',
  params=[('gym:CartPole-v1', {'lstm': False}), ('doom:basic', {})],
  ids=['vectors', 'pixels_words_and_lstm'],
)
def learner(request):
  env, settings = request.param
  made = Learner(env, **settings)
  yield made
  made.close()


def test_the_learners_agent_chooses_the_actions(learner):
  inputs, state = learner.some_inputs(0)
  with learner.joined() as central:
    decision = central(inputs, state)
  expected = policy.decide(learner.agent, learner.suite, inputs, state, seed=1)
  np.testing.assert_allclose(decision.logits, expected.logits, **CLOSE)
  found = tf.nest.flatten(decision.core_state)
  wanted = tf.nest.flatten(expected.core_state)
  for state, expected_state in zip(found, wanted, strict=True):
    np.testing.assert_allclose(state, expected_state, **CLOSE)
  assert decision.actions.dtype == tf.int32 and decision.actions.shape == [N]


def test_the_version_is_that_of_the_last_decision(learner):
  with learner.joined() as central:
    for learner.version in (VERSION + 2, VERSION):
      central(*learner.some_inputs(1))
      assert central.refresh() == learner.version


def test_concurrent_actors_get_their_own_answers(learner):
  found = {}

  def ask(i):
    with learner.joined(f'asker {i}') as central:
      for k in range(5):
        found[i, k] = central(*learner.some_inputs(10 * i + k, count=i + 1)).logits.numpy()

  askers = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
  for thread in askers:
    thread.start()
  for thread in askers:
    thread.join()
  assert len(found) == 15
  for (i, k), logits in found.items():
    inputs = learner.some_inputs(10 * i + k, count=i + 1)
    expected = policy.decide(learner.agent, learner.suite, *inputs, seed=1)
    np.testing.assert_allclose(logits, expected.logits, **CLOSE)


def test_the_initial_core_state_is_the_agents(learner):
  with learner.joined() as central:
    initial = central.initial_state(4)
  expected = learner.agent.initial_state(4)
  tf.nest.map_structure(np.testing.assert_array_equal, initial, expected)


def test_invalid_inputs_are_refused_and_the_next_are_answered(learner):
  inputs, state = learner.some_inputs(2)
  unknown_action = inputs._replace(last_action=inputs.last_action + learner.suite.num_actions)
  nan_reward = inputs._replace(reward=inputs.reward + np.nan)
  with learner.joined() as central:
    for bad, reason in ((unknown_action, 'last_action'), (nan_reward, 'finite')):
      with pytest.raises(errors.UserError, match=reason):
        central(bad, state)
    assert central(inputs, state).actions.shape == [N]


@pytest.mark.parametrize('odd', ['too_few', 'no_such_action', 'not_finite', 'nothing'])
def test_an_odd_decision_of_the_learner_is_a_user_error(learner, odd, monkeypatch):
  inputs, state = learner.some_inputs(3)
  _, outputs = policy.central_codecs(learner.suite, learner.agent.initial_state(1))
  good = policy.decide(learner.agent, learner.suite, inputs, state, seed=1)
  decided = {
    'too_few': outputs.encode(tf.nest.map_structure(lambda x: x[1:], good)),
    'no_such_action': outputs.encode(good._replace(actions=good.actions + 10**6)),
    'not_finite': outputs.encode(good._replace(logits=good.logits + np.nan)),
    'nothing': b'',
  }
  with learner.joined() as central:
    monkeypatch.setattr(central._link, 'infer', lambda request: (VERSION, decided[odd]))
    with pytest.raises(errors.UserError, match='the learner decides oddly: '):
      central(inputs, state)


@pytest.mark.long
def test_a_run_whose_actors_hold_no_parameters(tmp_path):
  """Two actor processes, of which nothing is left afterwards.

  They may import the module of an environment, since their learner's command line names it.
  """
  folder = tmp_path / 'run'
  training = programs.start(
    'impala',
    f'--run_dir={folder}',
    '--env=gym:environments:CartPole-v1',
    '--actor_processes=2',
    '--total_frames=2000',
    '--config.dynamic_batching=true',
    '--config.dynamic_batch_size=8',
    '--config.lstm=true',
  )
  programs.wait_for_rows(folder, 1, training)
  below = processes.descendants(training.pid)
  assert len(below) >= 2
  assert not any(map(processes.listening_ports, {training.pid, *below}))
  output = programs.finish(training)
  assert 'actor 0 joins' in output and 'actor 1 joins' in output
  last = programs.rows(folder)[-1]
  assert last['frames'] >= 2000 and last['actors'] == 2
  assert last['actors_lost'] == last['messages_refused'] == 0
  assert processes.becomes_true(lambda: not any(map(processes.is_alive, below)))
  for i in range(2):
    log = (folder / 'actors' / f'actor-{i}.log').read_text()
    assert log.splitlines()[-1] == 'Training is finished.'


def test_actors_train_through_the_gate_and_those_without_the_token_do_not(tmp_path):
  """The learner was given no token, and has made one."""
  folder, address = tmp_path / 'run', f'127.0.0.1:{gate.free_port("127.0.0.1", 0)}'
  shared = '--total_frames=2000', '--config.num_actors=1'
  training = programs.start(
    'impala', '--role=learner', f'--listen={address}', f'--run_dir={folder}', *shared
  )
  programs.wait_for(folder, 'token', training)
  other = tmp_path / 'other'
  other.write_text('fedcba9876543210' * 2)

  def start_actor(token):
    return programs.start(
      'impala', '--role=actor', f'--learner={address}', f'--token_file={token}', *shared
    )

  output = programs.finish(start_actor(other), 2)
  # Nothing but the gate listens.
  port = int(address.rpartition(':')[2])
  tree = {training.pid, *processes.descendants(training.pid)}
  assert set().union(*map(processes.listening_ports, tree)) == {port}
  assert f'--token_file={other} may be read by other users' in output
  assert f'error: the learner at {address} has another token: ' in output

  actor = start_actor(folder / 'token')
  assert programs.finish(actor).endswith('Training is finished.\n')
  output = programs.finish(training)
  assert f'--learner={address} --token_file={folder}/token\n' in output
  assert f'Connections without the token at {address}: ' in output
  last = programs.rows(folder)[-1]
  assert last['frames'] >= 2000 and last['actors_lost'] == last['messages_refused'] == 0


@pytest.mark.long
def test_an_evaluator_plays_with_ever_newer_parameters(tmp_path):
  folder, address = tmp_path / 'run', f'127.0.0.1:{gate.free_port("127.0.0.1", 0)}'
  frames = '--total_frames=100000000'
  training = programs.start('impala', f'--run_dir={folder}', f'--listen={address}', frames)
  programs.wait_for(folder, 'token', training)
  token = f'--token_file={folder / "token"}'
  evaluator = programs.start('impala', '--role=evaluator', f'--learner={address}', token, frames)
  programs.wait_for(folder, 'evaluator.csv', evaluator)
  assert processes.becomes_true(lambda: len(rows_of_evaluator(folder)) >= 3, 120.0)
  for process in (evaluator, training):
    process.send_signal(signal.SIGINT)
    programs.finish(process, 130)
  rows = rows_of_evaluator(folder)
  versions = [int(row['version']) for row in rows]
  assert versions == sorted(set(versions)) and {row['task'] for row in rows} == {'CartPole-v1'}
  for row in rows:
    assert float(row['low']) <= float(row['mean']) <= float(row['high']) and row['episodes'] == '2'
    assert row['cut'] == '0'


def rows_of_evaluator(folder):
  with open(folder / 'evaluator.csv', newline='') as file:
    return list(csv.DictReader(file))
