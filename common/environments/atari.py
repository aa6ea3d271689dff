"""Atari 2600 games, one or many, through ale-py's vector environment, which does all of the preprocessing in C++.

IMPALA, Table G.1 and appendix G: 84x84 grey frames, the maximum over the last two raw frames, 4 of them stacked,
action repeat 4, no sticky actions, up to 30 no-ops at the start. In training a lost life ends the episode for the
learner, yet the game goes on from there: `info['game_over']` says where it did not.
"""

import itertools
from typing import Sequence

import ale_py
import gymnasium
import numpy as np
from ale_py import roms

from common.environments import concatenated, suite

ACTION_REPEAT, STACK = 4, 4
_ALL_ACTIONS = len(ale_py.Action.__members__)
MAX_FRAMES = 108_000  # 30 minutes, the convention of the papers that IMPALA and Ape-X compare with.

ATARI_57 = (
  'alien',
  'amidar',
  'assault',
  'asterix',
  'asteroids',
  'atlantis',
  'bank_heist',
  'battle_zone',
  'beam_rider',
  'berzerk',
  'bowling',
  'boxing',
  'breakout',
  'centipede',
  'chopper_command',
  'crazy_climber',
  'defender',
  'demon_attack',
  'double_dunk',
  'enduro',
  'fishing_derby',
  'freeway',
  'frostbite',
  'gopher',
  'gravitar',
  'hero',
  'ice_hockey',
  'jamesbond',
  'kangaroo',
  'krull',
  'kung_fu_master',
  'montezuma_revenge',
  'ms_pacman',
  'name_this_game',
  'phoenix',
  'pitfall',
  'pong',
  'private_eye',
  'qbert',
  'riverraid',
  'road_runner',
  'robotank',
  'seaquest',
  'skiing',
  'solaris',
  'space_invaders',
  'star_gunner',
  'surround',
  'tennis',
  'time_pilot',
  'tutankham',
  'up_n_down',
  'venture',
  'video_pinball',
  'wizard_of_wor',
  'yars_revenge',
  'zaxxon',
)


def games() -> list[str]:
  """The games whose ROMs come with ale-py, in snake case."""
  return sorted(roms.get_all_rom_ids())


class AtariVectorEnv(gymnasium.vector.VectorWrapper):
  """Names the observation, and tells the end of a game from the loss of a life.

  Observations: `observation`, uint8 `[N, 4, 84, 84]`, the newest frame last; frames before a game's start are zero.
  """

  def __init__(
    self,
    game: str,
    num_envs: int,
    training: bool,
    max_frames: int = MAX_FRAMES,
    full_action_space: bool = False,
    num_threads: int = 0,
  ):
    """`full_action_space`: all 18 actions, not the game's own. `num_threads`: of the engine; 0 for one a core.

    An action that a game does not know (Skiing has no fire button) is no-op, which the engine leaves to us.
    """
    ale_py.ALEInterface.setLoggerMode(
      ale_py.LoggerMode.Error
    )  # No banner per game on the terminal.
    env = ale_py.AtariVectorEnv(
      game,
      num_envs,
      autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
      noop_max=30,
      stack_num=STACK,
      frameskip=ACTION_REPEAT,
      max_num_frames_per_episode=max_frames,
      life_loss_info=training,
      reward_clipping=False,
      use_fire_reset=False,
      full_action_space=full_action_space,
      num_threads=num_threads,
    )
    super().__init__(env)
    self.single_observation_space = _named(env.single_observation_space)
    self.observation_space = gymnasium.vector.utils.batch_space(
      self.single_observation_space, num_envs
    )
    self._engine_actions = None
    if full_action_space:
      known = {action.value: index for index, action in enumerate(env.ale.get_action_set())}
      self._engine_actions = np.array(
        [known.get(action, known[0]) for action in range(_ALL_ACTIONS)]
      )
      self.single_action_space = gymnasium.spaces.Discrete(_ALL_ACTIONS)
      self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
    self._game_frame = None

  def reset(self, *, seed=None, options=None):
    frames, info = self.env.reset(seed=seed, options=options)
    self._game_frame = info['episode_frame_number'].copy()
    return {'observation': frames}, info

  def step(self, actions):
    self.send(actions)
    return self.receive()

  def send(self, actions) -> None:
    """Begins a step in the engine's threads, which `receive` ends."""
    actions = np.asarray(actions, np.int64)
    self.env.send(actions if self._engine_actions is None else self._engine_actions[actions])

  def receive(self):
    frames, rewards, terminated, truncated, info = self.env.recv()
    # Within a game the frame number only grows; at the start of another it falls back.
    info['game_over'] = (terminated | truncated) & (
      info['episode_frame_number'] <= self._game_frame
    )
    self._game_frame = info['episode_frame_number'].copy()
    final = info.pop('final_obs', None)
    if truncated.any():  # In gymnasium's own form.
      info['final_obs'] = np.array([{'observation': stack} for stack in final], object)
    return {'observation': frames}, rewards, terminated, truncated, info


def _named(space: gymnasium.Space) -> gymnasium.spaces.Dict:
  return gymnasium.spaces.Dict({'observation': space})


def load(name: str, game: str, max_training_frames: int | None) -> suite.Suite:
  """One game, with its own set of actions (the experts of IMPALA's Table 4)."""

  def make(tasks: Sequence[str], training: bool) -> gymnasium.vector.VectorEnv:
    return AtariVectorEnv(
      game, len(tasks), training, training and max_training_frames or MAX_FRAMES
    )

  return _suite(name, (game,), make, 'atari57' if game in ATARI_57 else '')


def load_57(name: str, max_training_frames: int | None) -> suite.Suite:
  """All 57 games, each with all 18 actions (IMPALA's multi-task agent of Table 4)."""

  def make(tasks: Sequence[str], training: bool) -> gymnasium.vector.VectorEnv:
    return concatenated.ConcatenatedVectorEnv(
      [
        AtariVectorEnv(
          game,
          len(list(same)),
          training,
          training and max_training_frames or MAX_FRAMES,
          full_action_space=True,
          num_threads=1,
        )
        for game, same in itertools.groupby(tasks)
      ]
    )

  return _suite(name, ATARI_57, make, 'atari57')


def _suite(name: str, games_: Sequence[str], make, references: str) -> suite.Suite:
  probe = make(games_[:1], True)
  space, action_space = probe.single_observation_space, probe.single_action_space
  probe.close()
  return suite.Suite(
    name,
    tuple(games_),
    space,
    action_space,
    ACTION_REPEAT,
    make,
    frame_stack=STACK,
    references=references,
  )
