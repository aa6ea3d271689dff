"""Measures the time of a run of IMPALA from starting Python to its first update, by part.

For `scripts/benchmark.py start`, which runs this file with CONFIG TIME:
the settings as JSON, and when it did so.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from common import environments, errors
from common.config import command_line
from common.distributed import cluster
from impala import config as configs

PRESETS = configs.PRESETS


def measure(config: configs.Config, seconds: float) -> dict[str, float]:
  """Starts one run in a process of its own; returns seconds by part."""
  del seconds  # It takes as long as it takes.
  arguments = json.dumps(dataclasses.asdict(config))
  command = [sys.executable, __file__, arguments, str(time.time())]
  started = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
  return json.loads(started.stdout)


def table(config: configs.Config, result: dict[str, Any]) -> str:
  """Formats the medians."""
  parts = result['rounds'][0]
  lines = [f'{config.env}: seconds to the first update; medians of {len(result["rounds"])}']
  lines += [f'{name:<40}{result[name]:>8.2f}' for name in parts]
  lines.append(f'{"together":<40}{sum(result[name] for name in parts):>8.2f}')
  return '\n'.join(lines)


def _start(config: configs.Config, began: float) -> dict[str, float]:
  """Starts a run in this process; returns the seconds of each part, the first since `began`."""
  seconds = {}

  def mark(name: str) -> None:
    nonlocal began
    now = time.time()
    seconds[name] = now - began
    began = now

  mark('Python, command line')
  command_line.import_tensorflow(config.intra_op_threads)
  mark('TensorFlow')
  from impala import run, system

  del run
  mark('other packages')
  environments.load(config.env, config.environment_options())
  mark('a first environment')
  with tempfile.TemporaryDirectory() as folder:
    options = command_line.Options(pathlib.Path(folder, 'run'), resume=False)
    training = system.IMPALA.make_run(config, options, cluster.Cluster())
    mark('networks, policies')
    crew = training.start()
    mark('graphs of learner and queue')
    try:
      while not training.frames():
        if crew.error:
          raise crew.error
        time.sleep(0.001)
      mark('first unrolls and update')
    finally:
      crew.end()
      training.host.close(finished=True)
  return seconds


def main(argv: Sequence[str]) -> None:
  """Prints the seconds of each part as JSON.

  Raises:
    UserError: If it was not started by the benchmark.
  """
  if len(argv) != 3:
    raise errors.UserError(f'{argv[0]} is started by scripts/benchmark.py start')
  print(json.dumps(_start(PRESETS.from_json(json.loads(argv[1])), float(argv[2]))))


if __name__ == '__main__':
  command_line.run(main)
