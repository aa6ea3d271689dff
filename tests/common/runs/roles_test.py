"""An evaluator: its episodes are cut, the learner sees its progress, and it ends when told."""

import dataclasses
import logging
import types

import pytest
import tensorflow as tf

from common import environments
from common.distributed import parameters
from common.evaluation import play
from common.runs import roles
from common.runs import system as systems
from tests.common.runs import third_system

SUITE = environments.load('gym:CartPole-v1')
CONFIG = dataclasses.replace(
  third_system.Third.presets.preset('only'), evaluation_episodes=3, max_evaluation_steps=5
)


class System:
  """An agent of one parameter, which plays at random."""

  def make_playing_agent(self, config, suite, seed):
    def make_player(task, count):
      return play.random_player(suite.action_space, seed)

    return systems.PlayingAgent(tf.Module(), [tf.Variable([0.0])], make_player)


class Learner:
  """What an evaluator sees of its learner, which ends after a number of looks at it."""

  frames = 1000

  def __init__(self, looks):
    self.reports = []
    self.activities = []
    self._looks = looks
    self._describe = None

  def latest(self):
    # Each round has parameters of its own.
    return parameters.Snapshot(len(self.reports), tf.constant([1.0]))

  def wait(self, seconds):
    raise AssertionError('there are always newer parameters')

  def be_described_by(self, describe, crashes):
    self._describe = describe

  def is_ended(self):
    self.activities.append(self._describe())
    self._looks -= 1
    return self._looks < 0

  def report(self, **values):
    self.reports.append(values)


def evaluate(learner, **changes):
  config = dataclasses.replace(CONFIG, **changes)
  welcome = types.SimpleNamespace(seed=7)
  roles._evaluate(System(), config, SUITE, learner, welcome)


def test_an_evaluator_cuts_its_episodes_and_says_so(caplog):
  caplog.set_level(logging.INFO)
  learner = Learner(looks=12)
  evaluate(learner)
  # Two rounds of five steps, and a part of the third.
  assert [(report['mean'], report['episodes']) for report in learner.reports] == [(5.0, 3)] * 2
  note = '  Cut after 5 agent steps (max_evaluation_steps): agent, 3 of 3 episodes of CartPole-v1.'
  assert caplog.messages.count(note) == 2


@pytest.mark.parametrize('looks', [0, 6])
def test_an_evaluator_ends_in_the_middle_of_an_episode(looks, caplog):
  """A random player of this seed balances for more than seven steps."""
  caplog.set_level(logging.INFO)
  learner = Learner(looks)
  evaluate(learner, evaluation_episodes=1, max_evaluation_steps=50, log_every_seconds=1e-9)
  assert len(learner.activities) == looks + 1 and not learner.reports
  lines = [message for message in caplog.messages if 'ETA' in message]
  assert len(lines) == looks
  for steps, line in enumerate(lines, 1):
    assert line.startswith(f'  0 of 1 episodes, {steps} steps, ETA at most ')
    assert learner.activities[steps].startswith(f'0 of 1 episodes, {steps} steps, ETA at most ')
