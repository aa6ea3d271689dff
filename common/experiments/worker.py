"""A process that imports TensorFlow once and trains run after run."""

import contextlib
import gc
import importlib
import logging
import os
import pathlib
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

from common import errors
from common.config import command_line, settings
from common.machine import exits, signals

STOPPED = 'stopped'
FINISHED = 'finished'
_STOPPED_STATUS = 130
_POLL_SECONDS = 0.2


class Trainer:
  """Trains runs in turn, on cores of its own. Hosted by `common.machine.workers.Worker`."""

  def __init__(self, cores: Sequence[int], devices: int = 1):
    """Takes its cores and imports TensorFlow.

    Args:
      cores: The numbers of the cores to keep to.
      devices: How many devices a learner of the runs may want; without GPUs, the CPU is shown to
        TensorFlow as that many.
    """
    # Before the import: TensorFlow makes as many threads as there are cores to run on.
    os.sched_setaffinity(0, cores)
    # The host of this object has a handler already, so that no program adds its own.
    logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))
    logging.getLogger().setLevel(logging.INFO)
    command_line.import_tensorflow(len(cores))
    if devices > 1:
      _share_cpu(devices)

  def train(
    self,
    module: str,
    arguments: Sequence[str],
    config: settings.Settings,
    folder: pathlib.Path,
    resume: bool,
  ) -> tuple[str, int]:
    """Trains one run; what it prints goes to `log` in its folder.

    Args:
      module: The program, such as `impala.train`.
      arguments: Its flags, for a program without a function `train`.
      config: The run's settings.
      folder: The run's folder.
      resume: Whether to go on from the run's checkpoint.

    Returns:
      `FINISHED`, or `STOPPED` if a signal ended it; and the bytes of memory this process has used
      at most.

    Raises:
      UserError: If the run cannot be trained as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _printing_to(folder / 'log'):
      try:
        program = importlib.import_module(module)
        if hasattr(program, 'train'):
          program.train(config, run_dir=folder, resume=resume)
          how = FINISHED
        else:
          how = _call([module, *arguments, *(['--resume'] if resume else [])], folder / 'log')
      except KeyboardInterrupt:
        how = STOPPED
      except errors.UserError as error:
        print(f'error: {error}', flush=True)
        raise
    # The graphs and variables of a run refer to each other in circles.
    gc.collect()
    return how, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _share_cpu(devices: int) -> None:
  import tensorflow as tf

  if not tf.config.list_physical_devices('GPU'):
    cpu = tf.config.list_physical_devices('CPU')[0]
    parts = [tf.config.LogicalDeviceConfiguration() for _ in range(devices)]
    tf.config.set_logical_device_configuration(cpu, parts)


def _call(command: Sequence[str], log: pathlib.Path) -> str:
  """Runs a program in a process of its own, which a signal to this one asks to save and end."""
  interrupted = threading.Event()
  with signals.setting(interrupted):
    process = subprocess.Popen([sys.executable, '-m', *command])
    try:
      while process.poll() is None:
        if interrupted.wait(_POLL_SECONDS):
          process.terminate()
          process.wait()
    finally:
      process.kill()
      process.wait()
  if process.returncode == _STOPPED_STATUS:
    return STOPPED
  if process.returncode:
    last = log.read_text(errors='replace').strip().splitlines()[-1:]
    raise RuntimeError(f'the program {exits.describe(process.returncode)}: {"".join(last)}')
  return FINISHED


@contextlib.contextmanager
def _printing_to(path: pathlib.Path) -> Iterator[None]:
  """Within the block, this process's standard output and errors are appended to a file."""
  before = [os.dup(1), os.dup(2)]
  file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
  try:
    os.dup2(file, 1)
    os.dup2(file, 2)
    yield
  finally:
    for number, saved in enumerate(before, start=1):
      os.dup2(saved, number)
      os.close(saved)
    os.close(file)
