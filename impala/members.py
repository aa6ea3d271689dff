"""A member of a population: counts its episodes and evolves, in the thread of its learner.

With several learners the first one decides. All of them take part at the same update, and go on
with its variables.
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from common import errors
from common.environments import suite as suites
from common.reporting import scores
from common.runs import checkpoints, dropping
from impala import exploit_explore, recorder, replicas, trajectory
from impala import learner as learners
from impala import population_folder as folders

# With several learners, updates between two looks at the episodes of all: an all-reduce each.
_UPDATES = 100


class Member:
  """Measures a run by the episodes of a generation, and lets it evolve at the end of each."""

  def __init__(
    self,
    suite: suites.Suite,
    learner: learners.Learner,
    strategy: tf.distribute.Strategy,
    run_dir: pathlib.Path,
    index: int,
    save: Callable[[], None],
  ):
    """Reads the population's rule; changes nothing.

    Args:
      suite: The tasks.
      learner: The member's learner, whose tally may be restored later.
      strategy: The learner's.
      run_dir: The run's folder, in that of the population.
      index: This learner's position among several.
      save: Saves a checkpoint of the run.

    Raises:
      UserError: If the folder is not that of a member of a population.
    """
    # As an absolute path: of `member-03` alone the parent would be unknown.
    self._folder = run_dir.absolute().parent
    self._number = folders.number_of(run_dir)
    self._population = folders.load(self._folder)
    self._random = folders.random(self._folder)
    self._suite = suite
    self._learner = learner
    self._strategy = strategy
    self._index = index
    self._save = save
    self._fresh = learner.batch_size - learner.replayed
    self._checkpoints = self._published_by(self._number)
    self._every = _UPDATES if replicas.workers(strategy) > 1 else 1
    # Of this learner, since all of them last added theirs up: returns, then episodes, by task.
    self._own = np.zeros([2, len(suite.tasks)], np.float32)
    if not suite.references and set(self._random) != set(suite.tasks):
      raise errors.UserError(
        f'{self._folder}/random.json lacks random play of some of the tasks: start the population '
        f'again with python -m impala.population --run_dir={self._folder} --resume'
      )

  def count(self, batch: trajectory.Trajectory) -> None:
    """Counts the episodes that ended in a batch `[T+1, B]`, unless it belongs to the burn-in."""
    if int(self._learner.frames) < self._population.rule.burn_in_frames:
      return
    for ended in recorder.episodes_in(batch, self._fresh):
      self._own[:, ended.task] += (ended.episode_return, 1)

  def evolve_if_due(self) -> None:
    """Ends the generation if it has its episodes, of each task at least one.

    Called after the same updates by all learners.

    Raises:
      UserError: A learner has gone.
    """
    learner = self._learner
    if int(learner.updates) % self._every:
      return
    self._add_up()
    episodes = self._tally.episodes.numpy()
    if episodes.sum() < self._population.rule.episodes or not episodes.all():
      return
    if self._index == 0:
      self._end_generation()
    learner.synchronise()
    # The decision and its consequences become part of the run at once.
    self._save()

  @property
  def _tally(self):
    tally = self._learner.tally
    assert tally, 'the run is not a member of a population'
    return tally

  def _add_up(self) -> None:
    """Adds the new episodes of all learners to the tally."""
    if self._every == 1 and not self._own[1].any():
      return
    own = tf.constant(self._own.reshape(-1))
    both = replicas.total(self._strategy, own).numpy().reshape(self._own.shape)
    self._own[...] = 0.0
    self._tally.returns.assign_add(both[0])
    self._tally.episodes.assign_add(np.rint(both[1]).astype(np.int64))

  def _end_generation(self) -> None:
    """Publishes, compares, takes over and perturbs; a full disk lets the generation count twice."""
    tally = self._tally
    generation = int(tally.generation)
    try:
      if not dropping.are_finite(self._learner.trainable_variables):
        return
      self._evolve(generation)
      tally.generation.assign(generation + 1)
    except (OSError, checkpoints.NotSaved) as error:
      logging.warning('NOT EVOLVED: %s. The next attempt is after as many episodes.', error)
    finally:
      tally.clear()

  def _evolve(self, generation: int) -> None:
    rule = self._population.rule
    rng = np.random.default_rng([self._population.seed, self._number, generation])
    history = folders.history(self._folder, self._number)[:generation]
    mine = self._publish(generation, history)

    numbers = [n for n in range(self._population.size) if n != self._number]
    found = {n: folders.published(self._folder, n) for n in numbers}
    others = {number: other for number, other in found.items() if other}
    fitness = self._fitness({self._number: mine, **others})
    own = fitness.pop(self._number)

    choice = exploit_explore.exploit(rule, rng, own, fitness)
    partner = choice.partner
    taken = None
    if partner is not None and choice.takes_over and self._take_over(partner, others[partner]):
      taken = others[partner]
    hyperparameters = self._learner.hyperparameters
    after = exploit_explore.explore(rule, rng, hyperparameters.values(), self._population.adapted)
    hyperparameters.assign(after)

    event = folders.Event(
      generation=generation,
      frames=mine.frames,
      returns=mine.returns,
      fitness=own,
      before=mine.hyperparameters,
      after=after,
      partner=partner,
      partner_fitness=None if partner is None else fitness[partner],
      taken_generation=taken.generation if taken else None,
      taken_frames=taken.frames if taken else None,
    )
    folders.write_history(self._folder, self._number, [*history, event])
    logging.info('%s', _describe(event))

  def _publish(self, generation: int, history: list[folders.Event]) -> folders.Published:
    """Makes this member's fitness and checkpoint known to the others."""
    tally = self._tally
    means = tally.returns.numpy() / tally.episodes.numpy()
    returns = dict(zip(self._suite.tasks, means.tolist(), strict=True))
    mine = folders.Published(
      generation=generation,
      frames=int(self._learner.frames),
      updates=int(self._learner.updates),
      returns=returns,
      best=exploit_explore.best_of([returns, *(event.returns for event in history)]),
      hyperparameters=self._learner.hyperparameters.values(),
    )
    self._checkpoints.save(mine.updates)
    folders.publish(self._folder, self._number, mine)
    return mine

  def _fitness(self, published: Mapping[int, folders.Published]) -> dict[int, float]:
    """The fitness of members by number, all on one scale."""
    references = self._suite.references
    if references:
      return {
        number: exploit_explore.fitness(scores.normalised(references, each.returns))
        for number, each in published.items()
      }
    best = exploit_explore.best_of([each.best for each in published.values()])
    return {
      number: exploit_explore.fitness(
        exploit_explore.own_percents(each.returns, self._random, best)
      )
      for number, each in published.items()
    }

  def _take_over(self, number: int, other: folders.Published) -> bool:
    """Restores all of another member but its counters; returns whether that worked."""
    learner = self._learner
    # The position in training stays this member's, and with it the versions that actors know.
    kept = [learner.updates, learner.frames, learner.seconds, *self._tally.variables]
    values = [variable.numpy() for variable in kept]
    path = folders.published_checkpoints(self._folder, number) / 'latest' / f'ckpt-{other.updates}'
    is_taken = True
    try:
      self._published_by(number).restore(str(path))
    except errors.UserError as error:
      logging.warning('Member %d cannot be taken over: %s', number, error)
      # What was read of the other may be half of it.
      self._checkpoints.restore()
      is_taken = False
    for variable, value in zip(kept, values, strict=True):
      variable.assign(value)
    return is_taken

  def _published_by(self, number: int) -> checkpoints.Checkpoints:
    return checkpoints.Checkpoints(
      folders.published_checkpoints(self._folder, number), self._learner
    )


def _describe(event: folders.Event) -> str:
  """A line for the log."""
  text = f'Generation {event.generation} ends with fitness {event.fitness:.1f}'
  if event.partner is not None:
    text += f'; member {event.partner} has {event.partner_fitness:.1f}'
    text += ' and is taken over' if event.taken_generation is not None else ' and is not taken over'
  changed = ', '.join(f'{name} {value:.4g}' for name, value in event.after.items())
  return f'{text}. Next: {changed}.'
