"""Learning from pixels, a vector and words together, with several actions at once and masks."""

import dataclasses

import numpy as np
import pytest

from apex import system as apex_system
from common import environments
from common.config import command_line
from common.distributed import cluster
from common.evaluation import play
from impala import system as impala_system
from tests import structured

EPISODES = 30


def train(system, suite, folder, monkeypatch, **settings):
  """Trains in this process; returns the mean returns of random play and of the agent."""
  monkeypatch.setattr(environments, 'load', lambda *_: suite)
  config = dataclasses.replace(system.presets.preset('gym'), env='digits', seed=1, **settings)
  options = command_line.Options(folder / 'run', resume=False)
  run = system.make_run(config, options, cluster.Cluster())
  assert run.train()

  agent = system.make_playing_agent(config, suite, seed=7, deterministic=True)
  trained = run._learner_counters.agent
  trained = getattr(trained, 'networks', trained)
  for variable, value in zip(agent.variables, trained.trainable_variables, strict=True):
    variable.assign(value)
  players = {
    'random': lambda task, count: play.random_player(suite.action_space, seed=7),
    'agent': agent.make_player,
  }
  mean = {}
  for name, make_player in players.items():
    *_, played = play.play_episodes(
      suite, 'digits', make_player, EPISODES, seed=9, max_steps=structured.LENGTH
    )
    mean[name] = float(np.mean(played.returns))
  print(system.title, config.total_frames, mean)
  return mean


# An episode has 12 steps; naming all three digits pays 12. The reward follows at once: nothing else
# needs to be remembered or expected. The environment raises an error at an illegal action.
@pytest.mark.long
@pytest.mark.parametrize('masked', [False, True], ids=['all_legal', 'masked'])
def test_impala_learns_several_actions_at_once(masked, tmp_path, monkeypatch):
  suite = structured.make_suite(several=True, masked=masked)
  settings = dict(discount=0.0, lstm=False, total_frames=80_000)
  mean = train(impala_system.IMPALA, suite, tmp_path, monkeypatch, **settings)
  # At random, 12 x (1/3 + 1/2 + 1/4) / 3 = 4.3; more where half of the actions are illegal.
  assert mean['random'] < (8.5 if masked else 5)
  assert mean['agent'] > 11


@pytest.mark.long
def test_dqn_learns_with_masks(tmp_path, monkeypatch):
  suite = structured.make_suite(several=False, masked=True)
  settings = dict(discount=0.0, total_frames=40_000)
  mean = train(apex_system.APEX, suite, tmp_path, monkeypatch, **settings)
  assert mean['random'] < 3
  assert mean['agent'] > 10
