"""Table 1: frames/s of each architecture on two tasks, beside the paper's numbers.

One task has episodes of constant length, the other ends and restarts them at any moment. They are
the paper's if DeepMind Lab is installed, else two of Doom. All architectures have the same network,
environments and batches, and all of this machine.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any, NamedTuple

from common import environments
from common.machine import cores
from impala import config as configs
from scripts import benchmark_impala, measuring

PRESETS = configs.PRESETS
_DMLAB = ('dmlab:seekavoid_arena_01', 'dmlab:rooms_keys_doors_puzzle')
_DOOM = ('doom:my_way_home', 'doom:basic')
_WARM_UP_SECONDS = 1.0


class _Row(NamedTuple):
  """A row of the paper's table, and how it is run here."""

  title: str
  settings: dict[str, Any]
  machine: str  # The paper's CPUs and GPUs.
  paper: tuple[str, str]  # Frames/s on the two tasks.


_ROWS = {
  'a3c': _Row('A3C', dict(architecture='a3c'), '64 CPUs (32 workers)', ('6.5K', '9K')),
  'a2c_sync_step': _Row(
    'Batched A2C (sync step)', dict(architecture='a2c_sync_step'), '48 CPUs', ('9K', '5K')
  ),
  'a2c_sync_trajectory': _Row(
    'Batched A2C (sync traj.)',
    dict(architecture='a2c_sync_trajectory'),
    '48 CPUs',
    ('16K', '17.5K'),
  ),
  'a2c_dynamic_batching': _Row(
    'Batched A2C (dyn. batch)',
    dict(architecture='a2c_dynamic_batching', dynamic_batch_size=16),
    '48 CPUs, 1 GPU',
    ('16K', '13K'),
  ),
  'impala': _Row('IMPALA', {}, '48 CPUs', ('17K', '20.5K')),
  'impala_dynamic_batching': _Row(
    'IMPALA (dyn. batch)',
    dict(dynamic_batching=True, dynamic_batch_size=16),
    '48 CPUs, 1 GPU',
    ('21K', '24K'),
  ),
}
# Rows that take more than one machine, or a GPU: not measured here.
_ELSEWHERE = (
  ('Batched A2C (sync step)', '48 CPUs, 1 GPU', ('13K', '5.5K')),
  ('A3C distributed', '200 CPUs', ('46K', '50K')),
  ('IMPALA distributed', '150 CPUs, 1 GPU', ('80K', '80K')),
  ('IMPALA (optimised)', '375 CPUs, 1 GPU', ('200K', '200K')),
  ('IMPALA (optimised), batch 128', '500 CPUs, 1 GPU', ('250K', '250K')),
)


def tasks() -> tuple[str, str]:
  """The task of constant episodes, and the one of varying ones."""
  return _DMLAB if importlib.util.find_spec('deepmind_lab') else _DOOM


def measure(config: configs.Config, seconds: float) -> dict[str, float]:
  """Measures one round: frames/s by `ARCHITECTURE/TASK`."""
  found = {}
  for task in tasks():
    for name, row in _ROWS.items():
      settings: dict[str, Any] = {
        'env': task,
        'batch_size': config.num_actors * config.envs_per_actor,
      }
      changed = dataclasses.replace(config, **(settings | row.settings))
      speed, _ = benchmark_impala.together(changed, seconds, warm_up=_WARM_UP_SECONDS)
      repeat = environments.load(task, config.environment_options()).action_repeat
      found[f'{name}/{task}'] = speed * repeat
      measuring.say(f'{task}, {row.title}: {speed * repeat:,.0f} frames/s')
  return found


def table(config: configs.Config, result: dict[str, Any]) -> str:
  """Formats the medians."""
  constant, varying = tasks()
  lines = [
    f'Table 1 in frames/s on {measuring.processor()}, {cores.count()} cores; '
    f'{config.torso} network, T={config.unroll_length}, '
    f'B={config.num_actors * config.envs_per_actor}, '
    f'{config.num_actors} actors of {config.envs_per_actor} environments; medians of '
    f'{len(result["rounds"])}',
    f'{"":<31}{"constant:":>20}{"varying:":>20}   paper:',
    f'{"architecture":<31}{constant:>20}{varying:>20}   {_DMLAB[0]}, {_DMLAB[1]}',
  ]
  for name, row in _ROWS.items():
    speeds = ''.join(f'{result[f"{name}/{task}"]:>20,.0f}' for task in (constant, varying))
    lines.append(f'{row.title:<31}{speeds}   {row.paper[0]}, {row.paper[1]} ({row.machine})')
  for title, machine, paper in _ELSEWHERE:
    lines.append(f'{title:<31}{"-":>20}{"-":>20}   {paper[0]}, {paper[1]} ({machine})')
  return '\n'.join(lines)
