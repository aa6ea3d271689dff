"""Members of a population in one process: what they count, publish, take over and keep."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from common import errors
from impala import exploit_explore, members, tally
from impala import population_folder as folders
from tests.impala import learner_test

RULE = exploit_explore.Rule(burn_in_frames=1000, episodes=4, probability=0.0)
TASK = 'CartPole-v1'


class One:
  """A member whose learner never updates: its variables are set by hand."""

  def __init__(self, folder, number, suite=learner_test.SUITE, **settings):
    config = learner_test.make_config(population=True, **settings)
    self.learner = learner_test.make_learner(config)
    if len(suite.tasks) > 1:
      self.learner.tally = tally.Tally(len(suite.tasks))
    for variable in self.learner.trainable_variables:
      variable.assign(tf.fill(variable.shape, float(number)))
    self.learner.frames.assign(5000 + number)
    self.learner.updates.assign(50 + number)
    self.saves = 0
    run_dir = folders.member_folder(folder, number)
    run_dir.mkdir(exist_ok=True)
    strategy = tf.distribute.get_strategy()
    self.member = members.Member(suite, self.learner, strategy, run_dir, 0, self._save)

  def _save(self):
    self.saves += 1

  def play(self, *returns, task=0):
    """Counts an episode for each return, and evolves if that is due."""
    batch = learner_test.random_batch(0, self.learner.agent)
    lengths = np.zeros_like(batch.episode_length)
    values = np.zeros_like(batch.episode_return)
    for i, value in enumerate(returns):
      lengths[1 + i, i % 2] = 10
      values[1 + i, i % 2] = value
    batch = batch._replace(
      episode_length=tf.constant(lengths),
      episode_return=tf.constant(values),
      task=tf.fill(batch.task.shape, task),
    )
    self.member.count(batch)
    self.member.evolve_if_due()

  def weights(self):
    return {float(variable.numpy().flat[0]) for variable in self.learner.trainable_variables}


@pytest.fixture
def folder(tmp_path):
  population = folders.Population(3, 1, exploit_explore.ADAPTED, RULE)
  folders.save(tmp_path, population)
  folders.write_random(tmp_path, {TASK: 20.0})
  return tmp_path


def change_rule(folder, **numbers):
  population = folders.load(folder)
  rule = dataclasses.replace(population.rule, **numbers)
  folders.save(folder, dataclasses.replace(population, rule=rule))


def test_a_better_member_is_taken_over_but_not_its_counters(folder):
  good = One(folder, 2, entropy_cost=0.5, learning_rate=0.25)
  good.learner._optimizer._mean_squares[0].assign_add(
    tf.ones_like(good.learner._optimizer._mean_squares[0])
  )
  good.play(120.0, 120.0, 120.0, 120.0)
  bad = One(folder, 0)
  bad.play(30.0, 30.0, 30.0, 30.0)

  assert bad.weights() == {2.0}
  for slot, other in zip(
    bad.learner._optimizer.variables, good.learner._optimizer.variables, strict=True
  ):
    np.testing.assert_array_equal(slot, other)
  assert bad.learner.hyperparameters.values() == good.learner.hyperparameters.values()
  assert bad.learner.hyperparameters.values()['learning_rate'] == 0.25
  assert (int(bad.learner.frames), int(bad.learner.updates)) == (5000, 50)
  # Saved at once, with an empty tally.
  assert bad.saves == 1 and int(bad.learner.tally.generation) == 1
  assert not bad.learner.tally.episodes.numpy().any()

  (event,) = folders.history(folder, 0)
  # From 20, random play, to 120, the population's best.
  assert (event.fitness, event.partner, event.partner_fitness) == (pytest.approx(10.0), 2, 100.0)
  assert (event.taken_generation, event.taken_frames) == (0, 5002)
  # The better one had nobody to compare itself with.
  (alone,) = folders.history(folder, 2)
  assert alone.partner is None and good.weights() == {2.0}


def test_a_member_that_is_not_clearly_worse_stays_and_is_perturbed_all_the_same(folder):
  change_rule(folder, probability=1.0)
  One(folder, 2).play(100.0, 100.0, 100.0, 100.0)
  other = One(folder, 1)
  before = other.learner.hyperparameters.values()
  other.play(97.0, 97.0, 97.0, 97.0)
  after = other.learner.hyperparameters.values()
  assert other.weights() == {1.0}
  ratios = {name: after[name] / before[name] for name in exploit_explore.ADAPTED}
  assert all(min(abs(r - 1.2), abs(r - 1 / 1.2)) < 1e-6 for r in ratios.values())
  assert after['max_gradient_norm'] == before['max_gradient_norm']
  assert folders.published(folder, 1).hyperparameters == before


def test_a_generation_has_its_episodes_and_none_of_the_burn_in(folder):
  one = One(folder, 0)
  one.learner.frames.assign(999)
  one.play(1.0, 1.0, 1.0, 1.0, 1.0)
  assert not folders.history(folder, 0)
  one.learner.frames.assign(1000)
  one.play(10.0, 20.0, 30.0)
  assert not folders.history(folder, 0)
  one.play(50.0, 90.0)
  one.play(7.0, 7.0, 7.0)
  (event,) = folders.history(folder, 0)
  assert event.returns == {TASK: 40.0} and event.generation == 0


def test_the_mean_is_over_tasks_with_an_episode_of_each_and_human_scores(folder):
  suite = dataclasses.replace(learner_test.SUITE, tasks=('pong', 'breakout'), references='atari57')
  One(folder, 0, suite).play(14.6, 14.6, 14.6, 14.6, 14.6)
  assert folders.published(folder, 0) is None
  one = One(folder, 0, suite)
  # Pong's random score is -20.7, its human's 14.6; breakout's are 1.7 and 30.5.
  one.play(-3.05, -3.05)
  one.play(400.0, 401.0, task=1)
  (event,) = folders.history(folder, 0)
  assert event.fitness == pytest.approx((50.0 + 100.0) / 2)


def test_a_checkpoint_that_cannot_be_read_leaves_the_member_as_it_was(folder, caplog):
  One(folder, 2).play(120.0, 120.0, 120.0, 120.0)
  (data,) = folders.published_checkpoints(folder, 2).glob('latest/ckpt-52.data*')
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 0xFF
  data.write_bytes(content)
  one = One(folder, 0, learning_rate=0.125)
  one.play(30.0, 30.0, 30.0, 30.0)
  assert one.weights() == {0.0} and 'Member 2 cannot be taken over' in caplog.text
  assert one.learner.hyperparameters.values()['learning_rate'] == 0.125
  (event,) = folders.history(folder, 0)
  assert event.taken_generation is None and event.partner == 2
  assert (int(one.learner.frames), int(one.learner.tally.generation)) == (5000, 1)


@pytest.mark.parametrize('text', ['', '{"returns"', '[]', '{"generation": 1}'])
def test_damaged_files_of_others_are_passed_over(folder, text, caplog):
  other = folders.member_folder(folder, 1)
  other.mkdir()
  (other / 'published.json').write_text(text)
  assert folders.published(folder, 1) is None
  assert 'published.json cannot be read' in caplog.text


def test_a_generation_that_is_played_again_replaces_what_came_of_it(folder):
  """A member that died between its decision and its checkpoint decides again."""
  one = One(folder, 0)
  one.play(10.0, 10.0, 10.0, 10.0)
  again = One(folder, 0)
  again.play(60.0, 60.0, 60.0, 60.0)
  (event,) = folders.history(folder, 0)
  assert event.returns == {TASK: 60.0}


def test_runs_outside_of_a_population_are_refused(folder, tmp_path):
  with pytest.raises(errors.UserError, match='is not that of a member of a population'):
    folders.number_of(tmp_path / 'run')
  with pytest.raises(errors.UserError, match='not the folder of a population.*population.json'):
    folders.load(tmp_path / 'elsewhere')
  (folder / 'population.json').write_text('{"size": 3}')
  with pytest.raises(errors.UserError, match='population.json is damaged'):
    folders.load(folder)
  folders.save(folder, folders.Population(3, 1, exploit_explore.ADAPTED, RULE))
  (folder / 'random.json').unlink()
  with pytest.raises(errors.UserError, match='random.json lacks random play'):
    One(folder, 0)
