"""Measures what the optimisations of IMPALA's learner gain (section 3.1).

    scripts/benchmark_optimisations.py [--env=gym:CartPole-v1 ...]

Updates on one batch, again and again, in a process for each case, since kernels and compilers are
chosen when TensorFlow is imported. Takes the trainer's flags. Exits with 1 unless time folded into
the batch is faster than time step by step, which is the claim that holds on every device.
"""

import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from common.config import command_line, presets
from common.machine import janitor
from impala import config as configs

# TensorFlow is imported inside functions, after `command_line.import_tensorflow` has configured it.
if TYPE_CHECKING:
  from impala import networks

_SECONDS = 8.0
_CASE = 'BENCHMARK_CASE'
_AS_TRAINED = 'as trained'
_UNFOLDED = 'time step by step'
# Variables of the environment that make each case.
_CASES: dict[str, dict[str, str]] = {
  _AS_TRAINED: {},
  _UNFOLDED: {},
  'without oneDNN': {'TF_ENABLE_ONEDNN_OPTS': '0'},
  'compiled by XLA': {'TF_XLA_FLAGS': '--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit'},
}
# One Doom scenario, seen and played like DeepMind Lab; trajectories of 20 steps, as each case
# without folding has a graph of as many networks.
_PRESET = dict(
  env='doom:basic',
  unroll_length=20,
  batch_size=32,
  num_actors=1,
  envs_per_actor=16,
  torso='shallow',
)


def main(argv: Sequence[str]) -> int:
  """Measures all cases; returns the exit status."""
  known = presets.Presets(configs.Config, {'learner': _PRESET}, {}, 'learner')
  config, _ = command_line.parse(argv, __doc__, known)
  case = os.environ.get(_CASE)
  if case:
    with janitor.attend():
      print(_measure(config, case))
    return 0
  speeds = {}
  for name, variables in _CASES.items():
    done = subprocess.run(
      [sys.executable, *argv],
      env={**os.environ, _CASE: name, **variables},
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    )
    speeds[name] = float(done.stdout.strip().splitlines()[-1])
    print(f'{name:<20} {speeds[name]:>10,.0f} frames/s', flush=True)
  print('learner alone, frames/s:', ', '.join(f'{k} {v:,.0f}' for k, v in speeds.items()))
  return 0 if speeds[_AS_TRAINED] > speeds[_UNFOLDED] else 1


def _measure(config: configs.Config, case: str) -> float:
  """Frames a second of the learner alone."""
  command_line.import_tensorflow(config.intra_op_threads)
  import tensorflow as tf

  from common import environments
  from impala import batching, learner, networks
  from scripts import benchmark_impala, measuring

  suite = environments.load(config.env, config.environment_options())
  config.fit(suite)
  agent = networks.make_agent(config, suite)
  collected = benchmark_impala.collect(config, suite, agent, config.batch_size)
  batch = batching.stack(batching.unstack(collected, config.batch_size))
  if case == _UNFOLDED:
    _unfold(agent)
  trained = learner.Learner(config, suite, agent)
  frames = tf.constant(0, tf.int64)

  def update(i: int) -> None:
    del i  # There is one thread.
    # Fetching a value waits for the update.
    trained.update(batch, frames).statistics['finite'].numpy()

  steps = config.batch_size * config.unroll_length
  speed = measuring.measure(update, 1, steps, _SECONDS)
  return speed.steps_per_second * suite.action_repeat


def _unfold(agent: 'networks.Agent') -> None:
  """Makes an agent run its whole network step by step, as if it were acting."""
  import tensorflow as tf

  folded = agent.unroll

  def unroll(inputs: Any, core_state: Any) -> Any:
    outputs = []
    for t in range(inputs.reward.shape[0]):
      one = tf.nest.map_structure(lambda x, t=t: x[t : t + 1], inputs)
      output, core_state = folded(one, core_state)
      outputs.append(output)
    return tf.nest.map_structure(lambda *x: tf.concat(x, axis=0), *outputs), core_state

  setattr(agent, 'unroll', unroll)  # noqa: B010


if __name__ == '__main__':
  command_line.run(main)
