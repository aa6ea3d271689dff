"""Evaluation plays the requested episodes, and gives the mean return with an interval."""

import dataclasses

import gymnasium
import numpy as np
import pytest
from scipy import stats

from common import environments, errors
from common.evaluation import play
from common.reporting import films

SEED = 5
TASK = 'CartPole-v1'


def by_angle(observations):
  """A stateless policy: pushes to where the pole leans; about 40 steps an episode."""
  return (observations[..., 2] > 0).astype(int)


def angle_player(observations, rewards, done):
  del rewards, done
  return by_angle(observations['observation'])


def play_by_hand(environments_, episodes):
  """Plays the same episodes one environment after the other.

  Returns:
    (last step, environment, return, length) of each episode, in the order in which they end.
  """
  played = []
  for i in range(environments_):
    game = gymnasium.make('CartPole-v1')
    step = 0
    observation, _ = game.reset(seed=SEED + i)
    for _ in range(episodes // environments_ + (i < episodes % environments_)):
      total = 0.0
      start = step
      ended = False
      while not ended:
        observation, reward, terminated, truncated, _ = game.step(int(by_angle(observation)))
        total += reward
        step += 1
        ended = terminated or truncated
      played.append((step, i, total, step - start))
      observation, _ = game.reset()
  return sorted(played)


def cartpole(tasks=('CartPole-v1',), wrap=lambda env, i: env):
  """CartPole under any task names; each attempt's environment is `wrap(environment, attempt)`."""
  suite = environments.load('gym:CartPole-v1')
  attempts = []

  def make(names, training):
    attempts.append(names)
    return wrap(suite.make(names, training), len(attempts))

  return dataclasses.replace(suite, name='cartpole', tasks=tuple(tasks), make=make)


def play_all(suite, task, make_player, episodes, seed, max_steps=100_000, film=None):
  """Plays to the end; returns the complete episodes."""
  *_, played = play.play_episodes(suite, task, make_player, episodes, seed, max_steps, film)
  return played


class Crashing(gymnasium.vector.VectorWrapper):
  """Crashes in its 60th step, when some episodes are finished."""

  def __init__(self, env):
    super().__init__(env)
    self._steps = 0

  def step(self, actions):
    self._steps += 1
    if self._steps == 60:
      raise environments.EnvironmentCrashed('the game ended by itself')
    return self.env.step(actions)


@pytest.mark.parametrize('episodes', [1, 2, 10, 13, 25])
def test_each_environment_plays_its_share(episodes):
  played = play_all(cartpole(), TASK, lambda task, count: angle_player, episodes, SEED)
  expected = play_by_hand(min(episodes, 10), episodes)
  assert len(played.returns) == len(played.lengths) == episodes
  assert played.returns == [total for *_, total, _ in expected]
  assert played.lengths == [length for *_, length in expected]


def test_the_player_gets_the_last_rewards_and_dones():
  """As an actor does: `done` at the start and after an episode's end, and the last reward."""
  seen = []

  def player(observations, rewards, done):
    seen.append((np.array(observations['observation']), rewards.copy(), done.copy()))
    return by_angle(observations['observation'])

  play_all(cartpole(), TASK, lambda task, count: player, 4, SEED)
  ends = np.zeros((len(seen), 4), bool)
  ends[0] = True
  for step, i, *_ in play_by_hand(4, 4 * 10):
    if step < len(seen):
      ends[step, i] = True
  np.testing.assert_array_equal([done for _, _, done in seen], ends)
  assert np.sum(ends[1:]) >= 3
  np.testing.assert_array_equal(
    [rewards for _, rewards, _ in seen], [[0] * 4] + [[1] * 4] * (len(seen) - 1)
  )
  assert all(rewards.dtype == np.float32 for _, rewards, _ in seen)


def test_a_player_is_made_for_the_task_and_its_environments():
  made = []

  def make_player(task, count):
    made.append((task, count))
    return angle_player

  play_all(cartpole(['a', 'b', 'c']), 'b', make_player, 12, SEED)
  assert made == [('b', 10)]


def test_an_episode_whose_engine_dies_does_not_count():
  """Environment 1 dies once, in step 5, and continues with another episode."""

  class OneDies(gymnasium.vector.VectorWrapper):
    """Marks the crash as `ParallelVectorEnv` does: the episode so far does not count."""

    steps = 0

    def step(self, actions):
      self.steps += 1
      *answer, info = self.env.step(actions)
      return *answer, info | ({'crashes': {1: 'died'}} if self.steps == 5 else {})

  ends = []

  def make_player(task, count):
    def player(observations, rewards, done):
      ends.append(done.copy())
      return by_angle(observations['observation'])

    return player

  whole = play_all(cartpole(), TASK, lambda task, count: angle_player, 2, SEED)
  played = play_all(cartpole(wrap=lambda env, attempt: OneDies(env)), TASK, make_player, 2, SEED)
  # The engine is not really restarted here, so the episode's other steps are the same.
  lengths = [length - 5 * (i == 1) for _, i, _, length in play_by_hand(2, 2)]
  assert sorted(played.lengths) == sorted(lengths)
  assert sum(played.lengths) == sum(whole.lengths) - 5
  assert sum(played.returns) == sum(whole.returns) - 5
  # The player is told that its state is of another episode.
  assert ends[5].tolist() == [False, True]


class Scripted(gymnasium.Env):
  """Episodes of given lengths, then endless ones; pays 1 in each step.

  Shows the episode's number and the step.
  """

  observation_space = gymnasium.spaces.Dict(
    {'observation': gymnasium.spaces.Box(0, np.inf, (2,), np.float32)}
  )
  action_space = gymnasium.spaces.Discrete(2)

  def __init__(self, lengths):
    self._lengths = lengths
    self._episode = -1

  def reset(self, *, seed=None, options=None):
    self._episode += 1
    self._step = 0
    return self._shown(), {}

  def step(self, action):
    self._step += 1
    ended = self._step in self._lengths[self._episode : self._episode + 1]
    return self._shown(), 1.0, ended, False, {}

  def _shown(self):
    return {'observation': np.array([self._episode, self._step], np.float32)}


def play_scripted(scripts, episodes, max_steps):
  """Plays environments of these episodes' lengths; returns the episodes, and what a player saw."""
  seen = []

  def player(observations, rewards, done):
    seen.append((observations['observation'].copy(), rewards.copy(), done.copy()))
    return np.zeros(len(done), int)

  def make(tasks, training):
    return gymnasium.vector.SyncVectorEnv(
      [lambda script=script: Scripted(script) for script in scripts],
      autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
    )

  suite = dataclasses.replace(cartpole(), make=make)
  return play_all(suite, TASK, lambda task, count: player, episodes, SEED, max_steps), seen


def test_episodes_that_never_end_are_cut_and_others_begin():
  played, seen = play_scripted([[]] * 10, episodes=25, max_steps=7)
  assert played.lengths == [7] * 25 and played.returns == [7.0] * 25 and played.cut == 25
  # Ten environments, five of which play a third episode: all are reset together.
  assert len(seen) == 3 * 7
  for step, (shown, rewards, done) in enumerate(seen):
    np.testing.assert_array_equal(shown, [[step // 7, step % 7]] * 10)
    assert np.all(done == (step % 7 == 0)) and np.all(rewards == (step % 7 > 0))


def test_an_environment_whose_episode_was_cut_waits_until_the_others_have_played():
  scripts = [[None, 2]] + [[3, 4]] * 9
  played, seen = play_scripted(scripts, episodes=20, max_steps=5)
  assert played.lengths == [3] * 9 + [5] + [4] * 9 + [2]
  assert played.returns == played.lengths and played.cut == 1
  # The others have played at step 7; then all are reset, for two steps.
  assert len(seen) == 7 + 2 and seen[7][2].all()
  np.testing.assert_array_equal([shown[0] for shown, *_ in seen[7:]], [[1, 0], [1, 1]])


def test_an_environment_whose_cut_episode_ends_after_all_waits_no_longer():
  scripts = [[6, 2]] + [[3, 4]] * 9
  played, seen = play_scripted(scripts, episodes=20, max_steps=5)
  assert played.lengths == [3] * 9 + [5] + [4] * 9 + [2] and played.cut == 1
  assert len(seen) == 6 + 2 and not seen[7][2][0]


def test_an_episode_as_long_as_the_limit_is_not_cut():
  played, _ = play_scripted([[5]] * 10, episodes=10, max_steps=5)
  assert played.lengths == [5] * 10 and played.cut == 0


@pytest.mark.parametrize(
  'name', ['atari:pong', 'control:cartpole-swingup', 'doom:health_gathering']
)
def test_each_family_begins_other_episodes_after_a_cut(name, monkeypatch):
  monkeypatch.setattr(play, '_MAX_ENVIRONMENTS', 2)
  suite = environments.load(name)
  firsts = []

  def make_player(task, count):
    def player(observations, rewards, done):
      if done.all():
        firsts.append(observations['observation'].copy())
      return play.random_actions(suite.action_space, len(done), np.random.default_rng(1))

    return player

  played = play_all(suite, suite.tasks[0], make_player, 3, SEED, max_steps=4)
  assert played.lengths == [4] * 3 and played.cut == 3
  assert len(firsts) == 2
  if name != 'atari:pong':  # Pong's first frames are all alike.
    assert not np.array_equal(*firsts)


def test_standing_counts_parts_of_episodes():
  played = play.Episodes(10, 100, running=[10, 60])
  assert played.standing() == (0, 70, 0.7)
  # Once some have ended, their mean length of 40 is what is expected.
  played = play.Episodes(10, 100, returns=[1.0, 1.0], lengths=[30, 50], running=[10, 60])
  assert played.standing() == (2, 150, 2 + 0.25 + 1.0)


def test_a_film_shows_the_first_episode_even_after_a_crash():
  suite = environments.load('gym:CartPole-v1', environments.Options(pictures=True))
  attempts = []

  def make(names, training):
    attempts.append(names)
    environment = suite.make(names, training)
    return Crashing(environment) if len(attempts) == 1 else environment

  film = films.Film()
  crashing = dataclasses.replace(suite, make=make)
  play_all(crashing, TASK, lambda task, count: angle_player, 13, SEED, film=film)
  assert len(attempts) == 2
  game = gymnasium.make('CartPole-v1', render_mode='rgb_array')
  observation, _ = game.reset(seed=SEED + 1)
  ended = False
  shown = []
  while not ended:
    shown.append(game.render())
    observation, _, terminated, truncated, _ = game.step(int(by_angle(observation)))
    ended = terminated or truncated
  np.testing.assert_array_equal(list(film.pictures()), shown)


def test_observations_are_filmed_where_nothing_is_rendered():
  suite = environments.load('atari:pong')
  seen = []

  def player(observations, rewards, done):
    seen.append(observations['observation'][0, -1].copy())
    return np.zeros(len(done), int)

  film = films.Film()
  play_all(suite, 'pong', lambda task, count: player, 2, SEED, max_steps=5, film=film)
  np.testing.assert_array_equal(list(film.pictures()), np.stack([seen] * 3, axis=-1))


def test_vectors_that_nothing_renders_cannot_be_filmed():
  with pytest.raises(errors.UserError, match='cartpole observes vectors, and has no render'):
    play_all(cartpole(), TASK, lambda task, count: angle_player, 1, SEED, film=films.Film())


def test_a_lost_life_does_not_end_an_episode():
  """With training's environments, for which a lost life is `done`, episodes are the same."""
  suite = environments.load('atari:breakout')
  as_in_training = dataclasses.replace(suite, make=lambda tasks, training: suite.make(tasks, True))

  def make_player(task, count):
    return play.random_player(suite.action_space, seed=1)

  played, again = (play_all(s, 'breakout', make_player, 3, SEED) for s in (suite, as_in_training))
  assert played == again
  assert len(played.returns) == 3
  assert min(played.lengths) > 100  # Five lives.


@pytest.mark.parametrize('crashes', [1, 2])
def test_a_task_is_played_again_after_a_crash(crashes):
  suite = cartpole(wrap=lambda env, attempt: Crashing(env) if attempt <= crashes else env)
  played = play_all(suite, TASK, lambda task, count: angle_player, 25, SEED)
  after = play_all(cartpole(), TASK, lambda task, count: angle_player, 25, SEED + crashes)
  assert played == after


def test_repeated_crashes_are_an_error():
  suite = cartpole(wrap=lambda env, attempt: Crashing(env))
  with pytest.raises(
    errors.UserError, match='cartpole: 3 attempts at CartPole-v1 .*the game ended by itself'
  ):
    play_all(suite, TASK, lambda task, count: angle_player, 25, SEED)


@pytest.mark.parametrize('failing', [False, True])
def test_environments_are_closed(failing):
  made = []

  def remember(env, attempt):
    made.append(Crashing(env) if failing else env)
    return made[-1]

  if failing:
    with pytest.raises(errors.UserError):
      play_all(cartpole(wrap=remember), TASK, lambda task, count: angle_player, 25, SEED)
  else:
    play_all(cartpole(wrap=remember), TASK, lambda task, count: angle_player, 2, SEED)
  assert len(made) == (3 if failing else 1)
  assert all(env.unwrapped.closed for env in made)


def test_random_player_takes_all_actions_and_depends_on_its_seed():

  def actions(seed):
    player = play.random_player(gymnasium.spaces.Discrete(4), seed)
    return np.array([player({}, None, np.zeros(50)) for _ in range(20)])

  assert set(actions(seed=1).flat) == {0, 1, 2, 3}
  np.testing.assert_array_equal(actions(seed=1), actions(seed=1))
  assert not np.array_equal(actions(seed=1), actions(seed=2))


def test_an_action_is_repeated_where_it_is_legal():
  space = gymnasium.spaces.Discrete(3)
  player = play.repeating_player(space, 2)
  assert player({}, None, np.zeros(4)).tolist() == [2] * 4
  legal = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 0]], np.uint8)
  assert player({'action_mask': legal}, None, np.zeros(3)).tolist() == [2, 0, 1]


def test_continuous_random_actions_are_uniform():
  player = play.random_player(gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32), 1)
  draws = np.stack([player({}, None, np.zeros(50)) for _ in range(40)])
  assert draws.shape == (40, 50, 3) and draws.dtype == np.float32
  assert stats.kstest(draws.ravel(), stats.uniform(-1.0, 2.0).cdf).pvalue > 1e-3


def test_the_interval_covers_the_true_mean_as_often_as_it_claims():
  """200 data sets of 40 values. True coverage is 93% to 95%; 3 standard deviations of slack."""
  rng = np.random.default_rng(0)
  covered = 0
  for _ in range(200):
    low, high = play.bootstrap_interval(rng.normal(10.0, 3.0, size=40).tolist())
    covered += low <= 10.0 <= high
  assert 0.88 <= covered / 200 <= 0.99


def test_the_interval_of_many_values_is_the_normal_one():
  values = np.random.default_rng(0).normal(size=2000)
  low, high = play.bootstrap_interval(values.tolist())
  expected = 1.96 * np.std(values) / np.sqrt(len(values))
  assert [np.mean(values) - low, high - np.mean(values)] == pytest.approx(
    [expected, expected], rel=0.05
  )


@pytest.mark.parametrize('values', [[3.5], [2.0, 2.0, 2.0], [-1.0] * 50])
def test_the_interval_of_equal_values_has_zero_width(values):
  assert play.bootstrap_interval(values) == (values[0], values[0])


def test_the_interval_is_the_same_each_time():
  values = [1.0, 5.0, 2.0, 8.0]
  assert play.bootstrap_interval(values) == play.bootstrap_interval(values)


def test_the_interval_is_narrower_with_less_confidence():
  values = np.random.default_rng(0).normal(size=30).tolist()
  wide = play.bootstrap_interval(values, 0.95)
  narrow = play.bootstrap_interval(values, 0.5)
  assert wide[0] < narrow[0] < np.mean(values) < narrow[1] < wide[1]


def test_summary():
  played = play.Episodes(3, 30, returns=[1.0, 2.0, 6.0], lengths=[10, 20, 30], cut=1)
  summary = played.summary()
  assert summary['mean'] == 3.0 and summary['episodes'] == 3 and summary['cut'] == 1
  assert summary['returns'] == [1.0, 2.0, 6.0] and summary['lengths'] == [10, 20, 30]
  assert 1.0 <= summary['low'] < 3.0 < summary['high'] <= 6.0


def test_the_report_says_how_many_episodes_were_cut():
  def column(cut):
    return {task: {'episodes': 10, 'cut': number} for task, number in cut.items()}

  whole = {'agent': column({'a': 0, 'b': 0}), 'random': {'a': {'episodes': 10}}}
  assert play.cut_note(whole, 100_000) == ''
  some = {'agent': column({'a': 3, 'b': 0, 'c': 9}), 'random': column({'a': 0, 'b': 10, 'c': 0})}
  assert play.cut_note(some, 100_000) == (
    'Cut after 100,000 agent steps (max_evaluation_steps): agent, 12 of 20 episodes of a, c; '
    'random, 10 of 10 episodes of b.'
  )


def test_table():
  def cell(mean, low, high):
    return {'mean': mean, 'low': low, 'high': high}

  table = play.table(
    {
      'random': {'basic': cell(-123.456, -150.0, -100.0), 'take_cover': cell(1.0, 1.0, 1.0)},
      'agent': {'basic': cell(90.0, 80.5, 95.25), 'take_cover': cell(12345.678, 0.0, 20000.0)},
    }
  )
  header, first, second = table.splitlines()
  assert header.split() == ['task', 'random', 'agent']
  assert first.split() == 'basic -123.46 [ -150.00, -100.00] 90.00 [ 80.50, 95.25]'.split()
  assert second.split() == 'take_cover 1.00 [ 1.00, 1.00] 12345.68 [ 0.00, 20000.00]'.split()
  assert len(header) == len(first) == len(second)
