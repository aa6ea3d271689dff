"""An Ape-X actor in a process of its own refuses settings that do not fit what it plays."""

import dataclasses

import pytest

from apex import config as configs
from apex import remote
from common import environments, errors


@pytest.mark.parametrize(
  'env, changes, words',
  [
    ('gym:CartPole-v1', {'algorithm': 'dpg'}, 'algorithm'),
    ('atari:pong', {'torso': 'vector'}, 'torso'),
    ('gym:Pendulum-v1', {}, 'algorithm'),
    ('doom', {'torso': 'shallow'}, '10 tasks'),
  ],
)
def test_settings_that_do_not_fit_the_environment_are_refused(env, changes, words):
  config = dataclasses.replace(configs.PRESETS.preset('gym'), env=env, **changes)
  # Before the link to the learner is used.
  with pytest.raises(errors.UserError, match=words):
    remote.make_actor(config, environments.load(env), None, None)
