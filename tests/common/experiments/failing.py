"""A program in place of a system's: its runs end in every way that a run can end."""

import os
import pathlib
import signal
import time

from common import errors


def train(config, run_dir, resume):
  """Does what the config's `tasks` says; counts its attempts in the run's folder."""
  folder = pathlib.Path(run_dir)
  attempts = folder / 'attempts'
  count = len(attempts.read_text()) if attempts.exists() else 0
  # What a checkpoint is for: without it a folder is not kept.
  (folder / 'checkpoints' / 'latest').mkdir(parents=True, exist_ok=True)
  attempts.write_text('x' * (count + 1))
  assert resume == bool(count)
  what = config.tasks
  if what == 'fails once' and not count:
    raise RuntimeError('a passing trouble')
  if what == 'dies':
    os.kill(os.getpid(), signal.SIGKILL)
  if what == 'is wrong':
    raise errors.UserError('a setting that cannot work')
  if what == 'is stopped':
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    (folder / 'is waiting').touch()
    time.sleep(60)
  (folder / 'metrics.csv').write_text(
    'frames,updates,seconds,frames_per_second,return/a\n5,1,1,5,2\n'
  )
