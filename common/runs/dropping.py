"""Batches whose loss or gradient is not finite: dropped, counted, described.

One such batch may be an actor's fault; many in a row, or parameters that are not finite, end a run.
"""

import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from common import errors
from common.machine import files
from common.runs import counters

MOST_IN_A_ROW = 10
_LOGGED = 10  # Drops that are all logged; after those, each tenfold number is.
_LISTED = 8  # Sources that a message lists.
_HINT = (
  'A smaller --config.learning_rate, a larger --config.rmsprop_epsilon or a '
  '--config.max_gradient_norm may help; so may clipping rewards if they are large'
)


class NonFiniteLoss(errors.UserError):
  """The loss or a gradient was not finite for many batches in a row. None of them was applied."""


class NonFiniteParameters(errors.UserError):
  """The parameters are not finite: no batch can mend them."""


class UselessParameters(errors.UserError):
  """Actors compute numbers that are not finite with parameters that are."""


class Drops:
  """Drops batches, and decides when there were too many. Used by one thread.

  Attributes:
    count: Batches dropped since the start of this process.
  """

  def __init__(self, folder: pathlib.Path, learner: counters.Counters):
    """Starts with none.

    Args:
      folder: The run's, where the first batch is saved.
      learner: Holds the number of updates.
    """
    self.count = 0
    self._path = folder / 'non_finite_batch.npz'
    self._learner = learner
    self._in_a_row = 0
    self._is_saved = False

  def end_row(self) -> None:
    """Notes that a batch was learned from."""
    self._in_a_row = 0

  def add(self, batch: Any, origin: str) -> None:
    """Counts a batch, logs it, and saves it if it is the first.

    Args:
      batch: A named tuple of tensors, or of structures of tensors.
      origin: Where it comes from, for messages.

    Raises:
      NonFiniteLoss: If it is one too many in a row.
    """
    self.count += 1
    self._in_a_row += 1
    saved = self._save_first(batch)
    updates = int(self._learner.updates)
    contents = f'It holds {origin}. {magnitudes(batch)}'
    if self._in_a_row == MOST_IN_A_ROW:
      raise NonFiniteLoss(
        f'the loss is not finite at update {updates}, for {MOST_IN_A_ROW} batches in a row. The '
        f'parameters are those before them, the first batch dropped is {saved}. The last one: '
        f'{contents}. {_HINT}.'
      )
    is_power_of_ten = str(self.count).strip('0') == '1'
    if self.count <= _LOGGED or is_power_of_ten:
      logging.warning(
        'A batch is dropped at update %d, as its loss or gradient is not finite (%d dropped so '
        'far, %d in a row; %d in a row end the run). %s. The first one is %s.',
        updates,
        self.count,
        self._in_a_row,
        MOST_IN_A_ROW,
        contents,
        saved,
      )

  def end_run(self, batch: Any, origin: str) -> NonFiniteParameters:
    """Saves the batch after which the parameters are not finite, unless one is saved already.

    Returns:
      The error to raise.
    """
    saved = self._save_first(batch)
    return NonFiniteParameters(
      f'the parameters are not finite at update {int(self._learner.updates)}. They are not saved: '
      '--resume continues from the last checkpoint before. The batch of this update or of an '
      f'earlier one is {saved}. It holds {origin}. {magnitudes(batch)}. {_HINT}.'
    )

  def end_useless(self, parts: Any, wrong: Sequence[str], origin: str) -> UselessParameters:
    """Describes actors whose data are spoilt by the parameters that they act with.

    Args:
      parts: What one of them sent, a named tuple of tensors or of structures of tensors.
      wrong: The names of what it computed and is not finite.
      origin: Where it comes from, for messages.

    Returns:
      The error to raise.
    """
    variables = self._learner.trainable_variables
    largest = max(float(tf.reduce_max(tf.abs(variable))) for variable in variables)
    return UselessParameters(
      f'the parameters are useless at update {int(self._learner.updates)}: what actors compute '
      f'with them ({", ".join(wrong)}) is not finite in {origin}, though what they saw is. The '
      f'largest magnitude of a parameter is {largest:.3g}. {magnitudes(parts)}. {_HINT}.'
    )

  def _save_first(self, batch: Any) -> str:
    """Saves the batch if none is saved yet; returns where it is, for messages."""
    if not self._is_saved:
      named = {}
      for name, part in batch._asdict().items():
        for i, values in enumerate(tf.nest.flatten(part)):
          named[f'{name}/{i}' if i else name] = values.numpy()
      try:
        with files.replacing(self._path, 'wb') as file:
          np.savez_compressed(file, **named)
      except OSError as error:
        # A full disk must not end a run that can go on.
        return f'not saved ({error.strerror or error})'
      self._is_saved = True
    return f'in {self._path}'


def magnitudes(batch: Any) -> str:
  """Tells for each part of a batch how many numbers are not finite, and the largest of the others.

  Args:
    batch: A named tuple of tensors, or of structures of tensors.
  """
  told = []
  for name, part in batch._asdict().items():
    found = [x.numpy().ravel() for x in tf.nest.flatten(part) if x.dtype.is_floating]
    values = np.concatenate(found) if found else np.zeros(0)
    if not len(values):
      continue
    finite = values[np.isfinite(values)]
    bad = len(values) - len(finite)
    words = f'{bad} of {len(values)} numbers not finite, ' if bad else ''
    largest = np.abs(finite).max(initial=0.0)
    told.append(f'{name}: {words}largest magnitude {largest:.3g}')
  return '; '.join(told)


def listed(names: Sequence[str]) -> str:
  """The names, each once, in their order; if there are many, only the first ones."""
  distinct = list(dict.fromkeys(names))
  more = len(distinct) - _LISTED
  return ', '.join(distinct[:_LISTED]) + (f' and {more} more' if more > 0 else '')


def are_finite(variables: Sequence[tf.Variable]) -> bool:
  """Whether all numbers of all variables are finite."""
  return all(bool(tf.reduce_all(tf.math.is_finite(variable))) for variable in variables)
