"""Running statistics against NumPy over all data at once, and what is normalised by them."""

import dataclasses
import threading

import gymnasium
import numpy as np
import pytest

from common import environments, errors, normalization
from common.config import settings

# The last column never changes.
OFFSETS = np.array([1e6, 0.0, -5e3, 0.1])
SCALES = np.array([1.0, 1e-3, 1e3, 0.0])


def draw(count, seed=0):
  """Vectors float32 `[count, D]`."""
  rng = np.random.default_rng(seed)
  return np.float32(OFFSETS + SCALES * rng.normal(size=(count, len(OFFSETS))))


def in_chunks(vectors, longest=40):
  rng = np.random.default_rng(1)
  while len(vectors):
    count = rng.integers(1, longest)
    yield vectors[:count]
    vectors = vectors[count:]


def assert_of_all(statistics, vectors):
  """Compares with a loop in float64 over all vectors."""
  total = np.zeros(vectors.shape[1])
  for vector in vectors:
    total += np.float64(vector)
  mean = total / len(vectors)
  squares = np.zeros(vectors.shape[1])
  for vector in vectors:
    squares += (np.float64(vector) - mean) ** 2
  assert int(statistics.count) == len(vectors)
  np.testing.assert_allclose(statistics.mean, mean, rtol=1e-12)
  np.testing.assert_allclose(statistics.variance, squares / len(vectors), rtol=1e-5, atol=1e-15)


def test_statistics_of_chunks_are_those_of_all_vectors():
  vectors = draw(2000)
  statistics = normalization.Statistics(len(OFFSETS))
  for chunk in in_chunks(vectors):
    # As from two learners.
    one, other = statistics.sums(chunk[::2]), statistics.sums(chunk[1::2])
    statistics.merge(normalization.combined(one, other))
  assert_of_all(statistics, vectors)


def test_nothing_and_numbers_of_no_sane_environment_are_left_out():
  statistics = normalization.Statistics(len(OFFSETS))
  vectors = draw(60).reshape(6, 10, -1)
  statistics.merge(statistics.sums(vectors[:0]))
  np.testing.assert_array_equal(statistics.normalised(vectors[0]), np.clip(vectors[0], -10, 10))
  weights = np.random.default_rng(2).random((6, 10)) < 0.5
  odd = vectors.copy()
  odd[~weights] = np.nan
  for t, number in enumerate((np.nan, np.inf, 1e30)):
    odd[t, np.argmax(weights[t]), t] = number
    vectors[t, np.argmax(weights[t])] = np.nan
  statistics.merge(statistics.sums(odd, weights))
  kept = weights & np.isfinite(vectors).all(axis=-1)
  assert kept.sum() == weights.sum() - 3
  assert_of_all(statistics, vectors[kept])


def test_vectors_are_centred_scaled_and_clipped():
  vectors = draw(500)
  statistics = normalization.Statistics(len(OFFSETS))
  statistics.merge(statistics.sums(vectors))
  far = draw(3, seed=3)
  far[0, 1] = 1.0
  found = statistics.normalised(far).numpy()
  wide = np.float64(vectors)
  # As actors get them: float32.
  mean = np.float64(np.float32(wide.mean(axis=0)))
  expected = (far - mean) / np.sqrt(wide.var(axis=0) + 1e-8)
  np.testing.assert_allclose(found, np.clip(expected, -10, 10), rtol=1e-4, atol=1e-4)
  assert found[0, 1] == 10.0 and not found[:, 3].any() and found.dtype == np.float32


def test_rewards_are_divided_and_nothing_is_subtracted():
  normalizer = normalization.Normalizer({}, has_rewards=True)
  returns = np.float32(np.random.default_rng(4).normal(30.0, 5.0, (20, 10)))
  rewards = np.float32([-3.0, 0.0, 7.0])
  np.testing.assert_array_equal(normalizer.rewards(rewards), rewards)
  normalizer.merge(normalizer.sums({normalization.RETURN: returns}))
  np.testing.assert_allclose(normalizer.rewards(rewards), rewards / returns.std(), rtol=1e-5)


def test_one_thread_gathers_while_another_merges():
  vectors = draw(3000)
  normalizer = normalization.Normalizer({'observation': len(OFFSETS)}, has_rewards=False)
  gathering = normalization.Gathering(normalizer)

  def gather():
    for chunk in in_chunks(vectors):
      gathering.add({'observation': chunk}, np.ones(len(chunk), bool))

  thread = threading.Thread(target=gather)
  thread.start()
  merges = 0
  while thread.is_alive():
    gathering.merge()
    merges += 1
  thread.join()
  gathering.merge()
  assert merges > 1
  assert_of_all(normalizer.parts['observation'], vectors)


@dataclasses.dataclass
class Config(settings.Settings):
  """A system's config."""


def suite_of(**spaces):
  cartpole = environments.load('gym:CartPole-v1')
  return dataclasses.replace(cartpole, observation_space=gymnasium.spaces.Dict(spaces))


VECTOR = gymnasium.spaces.Box(-1.0, 1.0, (5,), np.float32)
IMAGE = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)
MASK = gymnasium.spaces.Box(0, 1, (2,), np.uint8)
WORDS = gymnasium.spaces.Box(-1, 999, (32,), np.int32)


def test_what_is_normalised():
  config = Config(normalize_observations=True)
  mixed = suite_of(observation=IMAGE, vector=VECTOR, action_mask=MASK, instruction=WORDS)
  assert {*normalization.make(config, mixed).parts} == {'vector'}
  assert {*normalization.make(config, suite_of(observation=VECTOR)).parts} == {'observation'}
  config.normalize_rewards = True
  assert {*normalization.make(config, mixed).parts} == {'vector', normalization.RETURN}
  assert normalization.make(Config(), mixed) is None


def test_settings_that_make_no_sense_are_refused():
  Config(normalize_observations=True).check_normalization(suite_of(observation=VECTOR))
  Config().check_normalization(suite_of(observation=IMAGE))
  images = suite_of(observation=IMAGE, action_mask=MASK)
  with pytest.raises(errors.UserError, match=r'normalize_observations is True.*no vectors.*\(8, 8'):
    Config(normalize_observations=True).check_normalization(images)
  with pytest.raises(errors.UserError, match='reward_scale is 2.0, expected 1 with normalize_rew'):
    Config(env='x', reward_scale=2.0, normalize_rewards=True).check()
  for scale in (0.0, -1.0, float('nan')):
    with pytest.raises(errors.UserError, match='reward_scale .* more than 0'):
      Config(env='x', reward_scale=scale).check()


def test_the_suite_has_the_settings_of_rewards():
  def load(**values):
    return environments.load('gym:CartPole-v1', Config(**values).environment_options())

  assert load().reward_scales == {} and load().return_discount is None
  assert load(reward_scale=0.25).reward_scales == {'CartPole-v1': 0.25}
  assert load(normalize_rewards=True, discount=0.9).return_discount == 0.9
