"""Checkpoints of a run: the last few, and the best one."""

import contextlib
import json
import logging
import pathlib
import shutil
from typing import Iterator, Mapping, Sequence

import tensorflow as tf

from common import errors
from common.machine import files

_KEPT = 3


class NotSaved(errors.UserError):
  """A checkpoint cannot be written, as on a full disk. Those before it are as they were."""


class Checkpoints:
  """Saves and restores everything trackable under one root, in the run's folder `checkpoints/`.

  `latest/` holds the last few; `best/` the one whose returns were best, with them in `best/returns.json`. Each is
  written under a temporary name and renamed, and named in TensorFlow's file `checkpoint` only once it is whole. That
  file's order counts, not the time (as for `tf.train.CheckpointManager`, which after a clock was set back takes new
  checkpoints for old and forgets them).
  """

  def __init__(self, folder: pathlib.Path, root: tf.Module):
    self._folder, self._checkpoint = folder, tf.train.Checkpoint(root=root)

  def save(self, number: int) -> str:
    """Saves under a number that grows, the updates so far. Returns the path. Raises NotSaved."""
    return self._save('latest', number, _KEPT)

  def save_if_best(self, number: int, returns: Mapping[str, float]) -> bool:
    """Saves in `best/` if these returns, one per task, are better on the whole than those of the best so far.

    Raises NotSaved.
    """
    path = self._folder / 'best' / 'returns.json'
    if path.exists() and relative_gain(json.loads(path.read_text()), returns) <= 0:
      return False
    self._save('best', number, 1)
    with self._explaining(path), files.replacing(path) as file:
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
    paths = self._paths(which)[::-1] if which in ('latest', 'best') else [which]
    paths = [path for path in paths if tf.io.gfile.glob(f'{path}.index')]
    if not paths:
      raise errors.UserError(
        f'there is no checkpoint {which!r} in {self._folder}: expected latest, best or a path '
        f'such as {self._folder}/latest/ckpt-100'
      )
    for path in paths[:-1]:
      try:
        return self._restore(path)
      except errors.UserError as error:
        logging.warning('%s The one before it is tried.', error)
    return self._restore(paths[-1])

  def _restore(self, path: str) -> str:
    try:
      self._checkpoint.read(path).assert_existing_objects_matched().expect_partial()
    except (ValueError, IndexError, AssertionError, tf.errors.OpError) as error:
      reason = str(error).strip().splitlines()[0]
      raise errors.UserError(
        f'the checkpoint {path} does not fit: it is damaged, or of another network or optimizer than the config '
        f'says. ({reason})'
      ) from error
    return path

  def _save(self, which: str, number: int, kept: int) -> str:
    folder = self._folder / which
    path, temporary = str(folder / f'ckpt-{number}'), folder / f'saving-{number}'
    with self._explaining(path):
      try:
        self._checkpoint.write(str(temporary))
        # What takes room has been done.
        pathlib.Path(f'{path}.index').unlink(
          missing_ok=True
        )  # Another one's: its data are replaced first.
        for file in sorted(
          folder.glob(f'{temporary.name}.*')
        ):  # The index, without which there is none, comes last.
          file.replace(folder / file.name.replace(temporary.name, f'ckpt-{number}'))
        paths = [other for other in self._paths(which) if other != path] + [path]
        _name(folder, paths[-kept:])
      finally:
        for left in folder.glob('saving-*'):  # Also by a process that was killed while it wrote.
          _remove(left)
      kept_names = {pathlib.Path(other).name for other in paths[-kept:]}
      for index in folder.glob(
        'ckpt-*.index'
      ):  # Also those that a process left which was killed right here.
        if index.stem not in kept_names:
          _remove(index.with_suffix(''))
    return path

  def _paths(self, which: str) -> list[str]:
    """Of all that are named, oldest first."""
    state = tf.train.get_checkpoint_state(str(self._folder / which))
    return list(state.all_model_checkpoint_paths) if state else []

  @contextlib.contextmanager
  def _explaining(self, path: str | pathlib.Path) -> Iterator[None]:
    """Raises NotSaved for what the disk says."""
    try:
      yield
    except (OSError, tf.errors.OpError) as error:
      before = (self._paths('latest') or ['none'])[-1]
      raise NotSaved(
        f'{path} cannot be written: {reason_of(error)}. The checkpoint before it is kept: {before}'
      ) from error


def reason_of(error: OSError | tf.errors.OpError) -> str:
  """What the disk says, without TensorFlow's name of a temporary file before it, and of an operation after it."""
  if isinstance(error, OSError):
    return error.strerror or str(error)
  return error.message.rpartition('; ')[2].partition(' [Op:')[0].splitlines()[0]


def _name(folder: pathlib.Path, paths: Sequence[str]) -> None:
  """Writes TensorFlow's file `checkpoint`."""
  names = [pathlib.Path(path).name for path in paths]
  with files.replacing(folder / 'checkpoint') as file:
    file.write(f'model_checkpoint_path: "{names[-1]}"\n')
    file.writelines(f'all_model_checkpoint_paths: "{name}"\n' for name in names)


def _remove(path: pathlib.Path) -> None:
  """A file; a folder, which TensorFlow leaves of a checkpoint that it could not write; or all files of a checkpoint."""
  for part in [path, *path.parent.glob(f'{path.name}.*')]:
    if part.is_dir():
      shutil.rmtree(part, ignore_errors=True)
    else:
      part.unlink(missing_ok=True)


def relative_gain(before: Mapping[str, float], after: Mapping[str, float]) -> float:
  """How much better returns are, as a mean over tasks of the difference relative to the larger of the two.

  Returns of different tasks differ by orders of magnitude: each counts the same here, whatever its scale.
  """
  tasks = [task for task in after if task in before]
  if len(tasks) < len(after):
    return float('inf')  # More tasks have ended an episode than before.
  gains = [
    (after[task] - before[task]) / max(abs(after[task]), abs(before[task]), 1e-9) for task in tasks
  ]
  return sum(gains) / max(len(gains), 1)
