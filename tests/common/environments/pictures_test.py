"""What environments show to people: pictures of the right form, of the episode that is played."""

import contextlib
import os
import types

import cv2
import gymnasium
import numpy as np
import pytest

from common import environments, errors
from common.environments import atari, images, opengl
from common.environments import suite as suites

MODULE = __name__
OPTIONS = environments.Options(pictures=True)


class Drawn(gymnasium.Env):
  """A vector, whose picture is drawn into one array that is used again: half red, half step."""

  metadata = {'render_modes': ['rgb_array'], 'render_fps': 30}
  observation_space = gymnasium.spaces.Box(-1, 1, (2,))
  action_space = gymnasium.spaces.Discrete(2)

  def __init__(self, render_mode=None, fault=''):
    self.render_mode = render_mode
    self._fault = fault
    self._screen = np.zeros((10, 12, 3), np.uint8)
    self._screen[:, :6, 0] = 255

  def reset(self, *, seed=None, options=None):
    self._steps = 0
    return np.zeros(2, np.float32), {}

  def step(self, action):
    self._steps += 1
    return np.zeros(2, np.float32), 0.0, self._steps == 5, False, {}

  def render(self):
    if self._fault:
      raise RuntimeError(self._fault)
    self._screen[:, 6:] = self._steps
    return self._screen if self.render_mode == 'rgb_array' else None


class Blind(Drawn):
  """Cannot be asked to render."""

  def __init__(self):
    super().__init__()

  def render(self):
    raise NotImplementedError


def show(name, actions=(), options=OPTIONS, count=1):
  """The pictures of environment 0 at its start and after each action, and the suite."""
  suite = environments.load(name, options)
  with contextlib.closing(suite.make(suite.tasks[:1] * count, False)) as environment:
    environment.reset(seed=3)
    pictures = [suites.picture(environment)]
    for action in actions:
      environment.step(np.stack([action] * count))
      pictures.append(suites.picture(environment))
  return pictures, suite


@pytest.mark.parametrize('processes', ['never', 'always'])
def test_an_environment_shows_what_it_renders(processes):
  options = environments.Options(pictures=True, env_processes=processes)
  pictures, suite = show(f'{MODULE}:Drawn', [0, 1], options, count=2)
  for step, picture in enumerate(pictures):
    expected = np.full((10, 12, 3), step, np.uint8)
    expected[:, :6] = (255, 0, 0)
    np.testing.assert_array_equal(picture, expected)
  assert suite.steps_per_second == 30.0


def test_nothing_is_rendered_unless_asked_for():
  assert show(f'{MODULE}:Drawn', options=environments.Options())[0] == [None]


def test_an_environment_that_cannot_be_asked_shows_nothing():
  assert show(f'{MODULE}:Blind')[0] == [None]


def test_a_renderer_that_fails_is_named():
  options = environments.Options(pictures=True, env_kwargs='fault=no ink')
  with pytest.raises(errors.UserError, match=r'Drawn, reset: RuntimeError: no ink'):
    show(f'{MODULE}:Drawn', options=options)


def test_cartpole_is_drawn():
  (first, *_, second), suite = show('gym:CartPole-v1', [1] * 5)
  assert first.shape == (400, 600, 3) and first.dtype == np.uint8
  # Black cart, brown pole, white around; it moves.
  assert np.mean(np.all(first == 255, axis=-1)) > 0.9 and np.any(np.all(first == 0, axis=-1))
  assert np.any(first != second) and suite.steps_per_second == 50.0


def test_a_game_of_doom_is_shown_in_colour():
  (first, second), _ = show('doom:basic', [4])
  assert first.shape == (120, 160, 3)
  assert np.any(first[..., 0] != first[..., 2]) and np.any(first != second)


@pytest.mark.parametrize('name', ['atari:pong', 'atari57'])
def test_atari_is_shown_in_colour_and_is_the_game_that_is_played(name):
  options = environments.Options(pictures=True, tasks='pong')
  suite = environments.load(name, options)
  rng = np.random.default_rng(0)
  with contextlib.closing(suite.make(suite.tasks * 3, False)) as environment:
    observations, _ = environment.reset(seed=8)
    for _ in range(150):
      newest = observations['observation'][:, -1].astype(float)
      screen = suites.picture(environment)
      observations, *_ = environment.step(rng.integers(suite.num_actions, size=3))
  assert screen.shape == (210, 160, 3) and np.any(screen[..., 0] != screen[..., 2])
  # The same picture, but that the agent's is grey before the brighter of two frames is taken.
  grey = cv2.resize(screen @ (0.299, 0.587, 0.114), (84, 84), interpolation=cv2.INTER_AREA)
  differences = np.abs(grey - newest).max(axis=(1, 2))
  assert differences[0] < 30 < min(differences[1:])


def test_both_kinds_of_mujoco_are_drawn_without_a_display(monkeypatch):
  monkeypatch.delenv('DISPLAY', raising=False)
  monkeypatch.setenv('MUJOCO_GL', 'disable')
  try:
    opengl.choose('gym:HalfCheetah-v5')
  except errors.UserError as error:
    pytest.skip(str(error))
  for name, size, speed in (
    ('gym:HalfCheetah-v5', (480, 480, 3), 20.0),
    ('control:cartpole-swingup', (240, 320, 3), 100.0),
  ):
    suite = environments.load(name, OPTIONS)
    action = np.ones(suite.action_space.shape, np.float32)
    (first, *_, last), _ = show(name, [action] * 5)
    assert first.shape == size and len(np.unique(first.reshape(-1, 3), axis=0)) > 50
    assert np.any(first != last) and suite.steps_per_second == pytest.approx(speed)


def test_without_opengl_the_message_says_what_to_install(monkeypatch):
  monkeypatch.setenv('MUJOCO_GL', 'disable')
  failed = types.SimpleNamespace(returncode=1, stderr='Traceback\nImportError: no libEGL\n')
  monkeypatch.setattr(opengl.subprocess, 'run', lambda *rest, **named: failed)
  message = r'gym:Hopper-v5 cannot be filmed: .*egl: ImportError: no libEGL; osmesa: .*libegl1'
  with pytest.raises(errors.UserError, match=message):
    environments.load('gym:Hopper-v5', OPTIONS)
  assert os.environ['MUJOCO_GL'] == 'disable'
  # Those that do not draw with it need none.
  assert show('gym:CartPole-v1')[0][0] is not None


def grid(*channels):
  """An image `[2, 3, C]` with the given brightness in each channel, but for one pixel."""
  image = np.zeros((2, 3, len(channels)), np.uint8)
  image[:] = channels
  image[0, 0] = 9
  return image


def test_channels_become_what_a_person_sees():
  np.testing.assert_array_equal(images.to_rgb(grid(1, 2, 3)), grid(1, 2, 3))
  np.testing.assert_array_equal(images.to_rgb(grid(5)), grid(5, 5, 5))
  opaque = grid(1, 2, 3, 255)
  opaque[0, 0, 3] = 255
  np.testing.assert_array_equal(images.to_rgb(opaque), grid(1, 2, 3))
  # No opacity: four greys. All beside each other.
  beside = [grid(*[grey] * 3) for grey in (1, 2, 3, 4)]
  np.testing.assert_array_equal(images.to_rgb(grid(1, 2, 3, 4)), np.concatenate(beside, axis=1))
  np.testing.assert_array_equal(images.to_rgb(grid(1, 2)), np.concatenate(beside[:2], axis=1))
  stack = [grid(1, 2, 3), grid(4, 5, 6)]
  np.testing.assert_array_equal(
    images.to_rgb(np.concatenate(stack, axis=-1)), np.concatenate(stack, axis=1)
  )


def test_what_render_returns_may_have_many_forms():
  picture = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3)
  for shown in (
    picture,
    picture.transpose(2, 0, 1),
    picture / np.float32(255),
    [picture * 0, picture],
    picture.astype(np.int64),
  ):
    np.testing.assert_array_equal(images.rendered(shown), picture)
  grey = picture[..., 0]
  for shown in (grey, grey[None], grey[..., None], grey / 255.0):
    np.testing.assert_array_equal(images.rendered(shown), np.stack([grey] * 3, axis=-1))
  np.testing.assert_array_equal(images.rendered(np.eye(8) > 0), images.rendered(np.eye(8)))
  for shown in (None, 'a board of text', [], np.zeros(5), np.zeros((0, 3))):
    assert images.rendered(shown) is None


def test_the_screen_of_atari_costs_nothing_where_nobody_looks():
  with contextlib.closing(atari.AtariVectorEnv('pong', 1, False)) as environment:
    environment.reset(seed=1)
    assert environment.picture() is None
