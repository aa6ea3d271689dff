"""Checkpoints of a run: the last few, and the best one."""

import json
import logging
import pathlib
from typing import Mapping

import tensorflow as tf

from common import errors, files

_KEPT = 3


class Checkpoints:
  """Saves and restores everything trackable under one root, in the run's folder `checkpoints/`.

  `latest/` holds the last few; `best/` the one whose returns were best, with them in `best/returns.json`. TensorFlow
  writes under temporary names and renames, and names a checkpoint in `checkpoint` only once it is whole.
  """

  def __init__(self, folder: pathlib.Path, root: tf.Module):
    self._folder, self._checkpoint = folder, tf.train.Checkpoint(root=root)
    self._latest = tf.train.CheckpointManager(self._checkpoint, str(folder / 'latest'), max_to_keep=_KEPT)
    self._best = tf.train.CheckpointManager(self._checkpoint, str(folder / 'best'), max_to_keep=1)

  def save(self, number: int) -> str:
    """Saves under a number that grows, the updates so far. Returns the path."""
    return self._latest.save(checkpoint_number=number)

  def save_if_best(self, number: int, returns: Mapping[str, float]) -> bool:
    """Saves in `best/` if these returns, one per task, are better on the whole than those of the best so far."""
    path = self._folder / 'best' / 'returns.json'
    if path.exists() and relative_gain(json.loads(path.read_text()), returns) <= 0:
      return False
    self._best.save(checkpoint_number=number)
    with files.replacing(path) as file:
      json.dump(dict(returns), file, indent=1)
    return True

  def restore(self, which: str = 'latest') -> str:
    """Restores `latest`, `best`, or the checkpoint at a path; of all that is trackable, or of what a model has of it.

    Where the latest cannot be read, the one before it is taken, with a warning.

    Returns:
      The path.

    Raises:
      UserError: if there is none, it cannot be read, or it is of another network.
    """
    paths = {'latest': self._latest.checkpoints[::-1], 'best': self._best.checkpoints[::-1]}.get(which, [which])
    paths = [path for path in paths if tf.io.gfile.glob(f'{path}.index')]
    if not paths:
      raise errors.UserError(f'there is no checkpoint {which!r} in {self._folder}: expected latest, best or a path '
                             f'such as {self._folder}/latest/ckpt-100')
    for path in paths[:-1]:
      try:
        return self._restore(path)
      except errors.UserError as error:
        logging.warning('%s The one before it is tried.', error)
    return self._restore(paths[-1])

  def _restore(self, path: str) -> str:
    try:
      self._checkpoint.restore(path).assert_existing_objects_matched().expect_partial()
    except (ValueError, IndexError, AssertionError, tf.errors.OpError) as error:
      reason = str(error).strip().splitlines()[0]
      raise errors.UserError(
          f'the checkpoint {path} does not fit: it is damaged, or of another network or optimizer than the config '
          f'says. ({reason})') from error
    return path


def relative_gain(before: Mapping[str, float], after: Mapping[str, float]) -> float:
  """How much better returns are, as a mean over tasks of the difference relative to the larger of the two.

  Returns of different tasks differ by orders of magnitude: each counts the same here, whatever its scale.
  """
  tasks = [task for task in after if task in before]
  if len(tasks) < len(after):
    return float('inf')  # More tasks have ended an episode than before.
  gains = [(after[task] - before[task]) / max(abs(after[task]), abs(before[task]), 1e-9) for task in tasks]
  return sum(gains) / max(len(gains), 1)
