"""The replay of a run: whether it can ever hold the minimum at which learning starts."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from apex import config as configs
from apex import replay as replays
from apex import transitions
from common import environments, errors

# 300 transitions in blocks of 10: 32 slots with 320 places.
CONFIG = dataclasses.replace(
  configs.PRESETS.preset('gym'), replay_capacity=300, min_replay=300, block_length=10
)


def suite_cut_after(steps):
  return dataclasses.replace(environments.load('gym:CartPole-v1'), max_episode_steps=steps)


@pytest.mark.parametrize('steps, held', [(7, 280), (1, 160), (14, 298)])
def test_a_minimum_that_short_episodes_never_fill_is_refused_at_the_start(steps, held):
  config = dataclasses.replace(CONFIG, min_replay=held + 1)
  message = (
    f'a replay of 300 transitions is full when it holds {held}, as the episodes of gym:CartPole-v1 '
    f'are cut after few steps, but learning starts at {held + 1}. Lower --config.min_replay to '
    f'{int(0.9 * held)} or less, or set --config.replay_capacity higher'
  )
  with pytest.raises(errors.UserError) as refused:
    replays.make(config, suite_cut_after(steps))
  assert str(refused.value) == message
  replays.make(dataclasses.replace(config, min_replay=held), suite_cut_after(steps))


@pytest.mark.parametrize('steps', [15, 500, None])
def test_long_or_unknown_episodes_are_not_refused(steps):
  replays.make(CONFIG, suite_cut_after(steps))


@pytest.mark.parametrize(
  'name, expected', [('gym:CartPole-v1', 500), ('gym:Pendulum-v1', 200), ('atari:pong', 10)]
)
def test_suites_state_their_time_limits(name, expected):
  # 40 frames are 10 steps of four frames each.
  options = environments.Options(max_training_frames=40)
  assert environments.load(name, options).max_episode_steps == expected


class Filled:
  """A replay that gets blocks with some valid transitions, as the writer adds them."""

  def __init__(self, config):
    suite = suite_cut_after(None)
    self._config = config
    self._spec = transitions.specification(suite, 10, config.n_step)
    self.replay = replays.make(config, suite)
    self._filling = replays.Filling(config, self.replay)

  def add(self, count, valid):
    shipment = tf.nest.map_structure(
      lambda s: np.ones((1, *s.shape), s.dtype.as_numpy_dtype), self._spec
    )
    some = np.arange(10)[np.newaxis] < valid
    shipment = shipment._replace(block=shipment.block._replace(valid=some))
    for _ in range(count):
      replays.insert(self._config, self.replay, shipment)
      self._filling.record(1)


def test_a_replay_that_is_full_below_its_minimum_is_noticed_after_a_turn():
  filled = Filled(CONFIG)
  filled.add(64, valid=9)
  with pytest.raises(errors.UserError, match='is full when it holds 288,.*starts at 300'):
    filled.add(1, valid=9)


def test_a_replay_that_once_held_its_minimum_is_given_two_turns_again():
  filled = Filled(CONFIG)
  filled.add(50, valid=9)
  filled.add(32, valid=10)
  assert filled.replay.size() == 320
  # Still more than the minimum after 20 of these.
  filled.add(20 + 64, valid=9)
  with pytest.raises(errors.UserError, match='is full when it holds 299'):
    filled.add(1, valid=9)


def test_a_replay_that_fills_slowly_is_left_alone():
  filled = Filled(CONFIG)
  for _ in range(4):
    filled.add(45, valid=9)
    filled.add(32, valid=10)


def test_eviction_by_priority_holds_any_minimum_up_to_its_capacity():
  config = dataclasses.replace(CONFIG, eviction='by_priority')
  replays.make(config, suite_cut_after(1))
  filled = Filled(config)
  filled.add(70, valid=9)
  assert filled.replay.size() == 300
