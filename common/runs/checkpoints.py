"""A run's checkpoints: the latest few, and the best one."""

import contextlib
import json
import logging
import pathlib
import shutil
from typing import Iterator, Mapping, Sequence

import tensorflow as tf

from common import errors
from common.machine import files

# Checkpoints in `latest/`.
_KEPT = 3


class NotSaved(errors.UserError):
  """A checkpoint could not be written, e.g. to a full disk; earlier ones are unchanged."""


class Checkpoints:
  """Saves and restores everything trackable under one root, in a run's folder `checkpoints/`.

  `latest/` holds the latest few; `best/` holds the one with the best returns, which are in
  `best/returns.json`.

  A checkpoint is written under a temporary name, renamed, and only then listed in TensorFlow's file
  `checkpoint`, so a process killed at any time leaves none that is incomplete. Checkpoints are
  ordered as that file lists them, not by time: after a clock was set back,
  `tf.train.CheckpointManager` takes new checkpoints for old ones and deletes them.
  """

  def __init__(self, folder: pathlib.Path, root: tf.Module, added: Sequence[str] = ()):
    """Saves and restores nothing yet.

    Args:
      folder: The folder `checkpoints/`.
      root: What is saved.
      added: Attributes of the root that checkpoints of earlier versions lack.
    """
    self._folder = folder
    self._root = root
    self._added = added
    self._checkpoint = tf.train.Checkpoint(root=root)

  def save(self, number: int) -> str:
    """Saves to `latest/` and deletes all but the latest few.

    Args:
      number: Part of the checkpoint's name: the updates so far.

    Returns:
      The checkpoint's path.

    Raises:
      NotSaved: If it cannot be written.
    """
    return self._save('latest', number, _KEPT)

  def save_if_best(self, number: int, returns: Mapping[str, float]) -> bool:
    """Saves to `best/` if `returns` are better than those of the best checkpoint so far.

    Args:
      number: Part of the checkpoint's name: the updates so far.
      returns: Mean returns by task, compared by `relative_gain`.

    Returns:
      Whether they are better.

    Raises:
      NotSaved: If it cannot be written.
    """
    path = self._folder / 'best' / 'returns.json'
    best = _read_returns(path)
    if best and relative_gain(best, returns) <= 0:
      return False
    self._save('best', number, 1)
    with self._explaining(path), files.replacing(path) as file:
      json.dump(dict(returns), file, indent=1)
    return True

  def restore(self, which: str = 'latest') -> str:
    """Restores the root's variables from a checkpoint.

    The checkpoint may hold more than the root: evaluation restores a network alone. If the latest
    one cannot be read, restores the one before it, with a warning.

    Args:
      which: `latest`, `best`, or the path of a checkpoint.

    Returns:
      The path of the restored checkpoint.

    Raises:
      UserError: If there is no checkpoint, or it cannot be read or is of another network.
    """
    # Newest first.
    is_folder = which in ('latest', 'best')
    paths = self._paths(which)[::-1] if is_folder else [which]
    paths = [path for path in paths if tf.io.gfile.glob(f'{path}.index')]
    if not paths:
      raise errors.UserError(
        f'there is no checkpoint {which!r} in {self._folder}: expected latest, best or a path '
        f'such as {self._folder}/latest/ckpt-100'
      )
    if is_folder and not _listed(self._folder / which):
      logging.warning(
        '%s is missing or damaged: going by the names beside it.',
        self._folder / which / 'checkpoint',
      )
    for path in paths[:-1]:
      try:
        return self._restore(path)
      except errors.UserError as error:
        logging.warning('%s Trying the one before it.', error)
    return self._restore(paths[-1])

  def _restore(self, path: str) -> str:
    try:
      with self._without_what_lacks(path):
        self._checkpoint.read(path).assert_existing_objects_matched().expect_partial()
    except (ValueError, IndexError, AssertionError, tf.errors.OpError) as error:
      reason = str(error).strip().splitlines()[0]
      raise errors.UserError(
        f'the checkpoint {path} does not fit: it is damaged, or of another network or optimizer '
        f'than the config says. ({reason})'
      ) from error
    return path

  @contextlib.contextmanager
  def _without_what_lacks(self, path: str) -> Iterator[None]:
    """In the block, the root is without those of `added` that a checkpoint lacks."""
    listed = tf.train.list_variables(path) if self._added else ()
    saved = {name.partition('/')[0] for name, _ in listed}
    lacking = {name: getattr(self._root, name) for name in self._added if name not in saved}
    for name in lacking:
      delattr(self._root, name)
    try:
      yield
    finally:
      for name, part in lacking.items():
        setattr(self._root, name, part)
    if lacking:
      names = ', '.join(lacking)
      logging.warning('%s is of an earlier version, without %s: left as they are.', path, names)

  def _save(self, which: str, number: int, kept: int) -> str:
    folder = self._folder / which
    name = f'ckpt-{number}'
    temporary = folder / f'saving-{number}'
    path = str(folder / name)
    with self._explaining(path):
      try:
        self._checkpoint.write(str(temporary))
        # From here on nothing needs room on the disk but the small file `checkpoint`.
        _rename(temporary, name)
        paths = [other for other in self._paths(which) if other != path] + [path]
        _list(folder, paths[-kept:])
      finally:
        # Includes what an earlier process left that was killed while it wrote.
        for left in folder.glob('saving-*'):
          _remove(left)
      _remove_all_but(folder, {pathlib.Path(other).name for other in paths[-kept:]})
    return path

  def _paths(self, which: str) -> list[str]:
    """The checkpoints in a folder, oldest first.

    Their order is that of the file `checkpoint`; if it is missing or damaged, that of their
    numbers.
    """
    folder = self._folder / which
    listed = _listed(folder)
    if listed:
      return listed
    found = [path.with_suffix('') for path in folder.glob('ckpt-*.index')]
    numbers = {str(path): path.name.removeprefix('ckpt-') for path in found}
    numbered = [path for path, number in numbers.items() if number.isdecimal()]
    return sorted(numbered, key=lambda path: int(numbers[path]))

  @contextlib.contextmanager
  def _explaining(self, path: str | pathlib.Path) -> Iterator[None]:
    """Turns errors of the file system in the block into NotSaved."""
    try:
      yield
    except (OSError, tf.errors.OpError) as error:
      before = (self._paths('latest') or ['none'])[-1]
      raise NotSaved(
        f'{path} cannot be written: {reason_of(error)}. The checkpoint before it is kept: {before}'
      ) from error


def _listed(folder: pathlib.Path) -> list[str]:
  """The checkpoints in TensorFlow's file `checkpoint`, oldest first; none if it is damaged."""
  # TensorFlow takes what it cannot parse for nothing, but raises if there is no text or no list.
  with contextlib.suppress(UnicodeDecodeError, ValueError):
    state = tf.train.get_checkpoint_state(str(folder))
    return list(state.all_model_checkpoint_paths) if state else []
  return []


def reason_of(error: OSError | tf.errors.OpError) -> str:
  """The file system's message, without what TensorFlow adds: a temporary file and an operation."""
  if isinstance(error, OSError):
    return error.strerror or str(error)
  return error.message.rpartition('; ')[2].partition(' [Op:')[0].splitlines()[0]


def _read_returns(path: pathlib.Path) -> dict[str, float]:
  """The returns of the best checkpoint; none, with a warning, if the file is damaged."""
  if not path.exists():
    return {}
  try:
    returns = json.loads(path.read_text())
    return {str(task): float(value) for task, value in returns.items()}
  except (OSError, ValueError, TypeError, AttributeError) as error:
    logging.warning('%s is damaged (%s): the next checkpoint counts as the best.', path, error)
    return {}


def relative_gain(before: Mapping[str, float], after: Mapping[str, float]) -> float:
  """How much better returns are: the mean over tasks of (after - before) / max(|after|, |before|).

  Relative, because returns of different tasks differ by orders of magnitude and each task counts
  the same.

  Args:
    before: Mean returns by task.
    after: Mean returns by task.

  Returns:
    At most 2 and at least -2; infinity if `after` has all tasks of `before` and more, minus
    infinity if it lacks any: the agent may be worse at what was not played.
  """
  if not before.keys() <= after.keys():
    return -float('inf')
  # A task counts from its first finished episode on, and finishing one is progress.
  if len(after) > len(before):
    return float('inf')
  gains = [
    (after[task] - before[task]) / max(abs(after[task]), abs(before[task]), 1e-9) for task in after
  ]
  return sum(gains) / max(len(gains), 1)


def _rename(temporary: pathlib.Path, name: str) -> None:
  """Renames a checkpoint's files."""
  folder = temporary.parent
  # An earlier checkpoint of that name becomes invalid first: its index must not meet our data.
  (folder / f'{name}.index').unlink(missing_ok=True)
  # Sorted, `.data-*` comes before `.index`: a checkpoint without its index does not exist.
  for file in sorted(folder.glob(f'{temporary.name}.*')):
    file.replace(folder / file.name.replace(temporary.name, name))


def _list(folder: pathlib.Path, paths: Sequence[str]) -> None:
  """Writes the file `checkpoint`, TensorFlow's list of a folder's checkpoints, latest last."""
  names = [pathlib.Path(path).name for path in paths]
  with files.replacing(folder / 'checkpoint') as file:
    file.write(f'model_checkpoint_path: "{names[-1]}"\n')
    file.writelines(f'all_model_checkpoint_paths: "{name}"\n' for name in names)


def _remove_all_but(folder: pathlib.Path, names: set[str]) -> None:
  # Asks the folder, not the list: a process killed right here left checkpoints that nothing lists.
  for index in folder.glob('ckpt-*.index'):
    if index.stem not in names:
      _remove(index.with_suffix(''))


def _remove(path: pathlib.Path) -> None:
  """Removes a file, a checkpoint's files, or the folder that a failed TensorFlow write leaves."""
  for part in [path, *path.parent.glob(f'{path.name}.*')]:
    if part.is_dir():
      shutil.rmtree(part, ignore_errors=True)
    else:
      part.unlink(missing_ok=True)
