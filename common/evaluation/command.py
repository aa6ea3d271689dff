"""The evaluation program: plays episodes with a checkpoint; writes a table, JSON and films."""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
from absl import flags

from common import environments, errors
from common.config import command_line, run_folder, settings
from common.environments import making
from common.evaluation import jobs, play
from common.machine import cores, files, janitor, memory
from common.reporting import score_report
from common.runs import system as systems

_SEED = 2_000_000_000  # Beyond the seeds of training.
_BYTES_PER_PROCESS = 10**9  # For TensorFlow and the agent.

# Settings that do not affect an agent's episodes: results stay valid if only these differ.
_INDECISIVE = (
  'tasks',
  'total_frames',
  'intra_op_threads',
  'num_actors',
  'envs_per_actor',
  'architecture',
  'policy_lag',
  'env_processes',
  'population',
  'evaluation_episodes',
  'evaluation_films',
  'dmlab_level_cache',
  'dmlab_level_cache_gb',
  'dmlab_episode_seeds',
  'log_every_seconds',
  'checkpoint_every_seconds',
  'stall_seconds',
  'environment_timeout_seconds',
)


def main(argv: Sequence[str], description: str, system: systems.System) -> int:
  """Evaluates the run that the command line names.

  Args:
    argv: `sys.argv`.
    description: Shown by --help, before the flags.
    system: The system that was trained.

  Returns:
    The exit status.

  Raises:
    UserError: As `evaluate`, or if the command line is wrong.
  """
  values = flags.FlagValues()
  _define_flags(values)
  arguments = command_line.parse_flags(values, argv, description)
  if len(arguments) != 1:
    raise errors.UserError(
      f'expected one run folder, got {len(arguments)}: RUN [--episodes=N]. See --help.'
    )
  # Ends worker processes if this one is killed.
  with janitor.attend():
    evaluate(
      pathlib.Path(arguments[0]),
      system,
      values.episodes,
      checkpoint=values.checkpoint,
      seed=values.seed,
      film=values.video,
      deterministic=values.deterministic,
      repeated_actions=values.repeated_actions,
      processes=values.processes,
      max_steps=values.max_steps,
    )
  return 0


def _define_flags(values: flags.FlagValues) -> None:
  flags.DEFINE_integer(
    'episodes', 100, 'Episodes to play of each task.', lower_bound=1, flag_values=values
  )
  flags.DEFINE_string(
    'checkpoint', 'latest', 'latest, best, or the path of a checkpoint.', flag_values=values
  )
  flags.DEFINE_integer('seed', _SEED, 'Seed of environments and actions.', flag_values=values)
  flags.DEFINE_integer(
    'max_steps',
    None,
    "Agent steps after which an episode is cut. Default: the run's max_evaluation_steps.",
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_boolean('video', False, "Film each task's first episode.", flag_values=values)
  flags.DEFINE_boolean(
    'deterministic',
    False,
    'Take the most likely action (IMPALA) or the one of highest value (DQN), none at random.',
    flag_values=values,
  )
  flags.DEFINE_boolean(
    'repeated_actions',
    False,
    'Also play each action over and over, and show the best: what an agent must beat.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'processes',
    cores.count(),
    'How many tasks to play at once, each in its own process.',
    lower_bound=1,
    flag_values=values,
  )


def evaluate(
  run: pathlib.Path,
  system: systems.System,
  episodes: int,
  checkpoint: str = 'latest',
  seed: int = _SEED,
  film: bool = False,
  deterministic: bool = False,
  repeated_actions: bool = False,
  processes: int | None = None,
  max_steps: int | None = None,
) -> None:
  """Evaluates the run in a folder; prints a table and writes `evaluation.json`.

  A random policy is evaluated too, unless its scores are published. Results with the same
  checkpoint, number of episodes and seed are reused.

  Args:
    run: The run's folder.
    system: The system that was trained.
    episodes: The number of episodes of each task.
    checkpoint: `latest`, `best` or a path.
    seed: Seed of environments and actions.
    film: Whether to write `videos/TASK.mp4`, or `.gif` without ffmpeg.
    deterministic: Whether the agent takes the actions it prefers, none at random.
    repeated_actions: Whether each action is played over and over too, as a baseline.
    processes: How many tasks to play at once; None for the number of cores.
    max_steps: Agent steps after which an episode is cut; None for the run's `max_evaluation_steps`.

  Raises:
    UserError: If the run or its checkpoint cannot be read, its folder cannot be written,
      environments crash repeatedly, there is nothing to film, or no action to repeat.
  """
  config = system.presets.from_json(run_folder.load_config(run, system.name))
  _expect_writable(run)
  if max_steps:
    config = dataclasses.replace(config, max_evaluation_steps=max_steps)
  request = jobs.Request(run, system, config, checkpoint, seed, film, deterministic)
  player = jobs.TaskPlayer(request)
  # Workers play the checkpoint that this process found, even if training saves a newer one.
  request = dataclasses.replace(request, checkpoint=player.checkpoint)
  suite = player.suite
  logging.info('Evaluating %s: %d episodes of each task.', player.checkpoint, episodes)
  # References include published scores of random play.
  players = ['agent'] if suite.references else ['random', 'agent']
  repeating = _repeating_players(suite) if repeated_actions else []
  # The agent first, if it is filmed: that may be impossible.
  order = [*reversed(players), *repeating] if film else [*repeating, *players]
  played = jobs.play_all(
    [jobs.Job(who, task) for who in order for task in suite.tasks],
    episodes,
    run / 'evaluation' / _results_name(request, episodes),
    player,
    functools.partial(jobs.TaskPlayer, request),
    _processes(processes or cores.count(), suite, episodes),
    config.log_every_seconds,
  )
  results = {who: {task: played[jobs.Job(who, task)] for task in suite.tasks} for who in players}
  if repeating:
    best = {task: _best(played, repeating, task) for task in suite.tasks}
    results = {'best action repeated': best} | results

  _write(request, suite, results)
  logging.info('\nMean return of %d episodes, 95%% bootstrap interval. %s', episodes, suite.note)
  if suite.references:
    score_report.write(run, suite.references, results['agent'], suite.note)
  if repeating or not suite.references:
    logging.info('%s', play.table(results))
  if repeating:
    logging.info(
      'The best of %d actions is the best by these episodes, and so a little better than it is.',
      len(repeating),
    )
  if note := play.cut_note(results, config.max_evaluation_steps):
    logging.info('%s', note)
  logging.info('\nWritten: %s', run / 'evaluation.json')
  if film:
    logging.info('Videos: %s', run / 'videos')


def _repeating_players(suite: environments.Suite) -> list[str]:
  """The players that repeat one action each.

  Raises:
    UserError: If actions are not single numbers.
  """
  space = suite.action_space
  if not isinstance(space, gymnasium.spaces.Discrete):
    raise errors.UserError(
      f'{suite.name} has the actions {space}: --repeated_actions needs Discrete ones. Leave it out'
    )
  return [f'action {i}' for i in range(int(space.n))]


def _best(
  played: Mapping[jobs.Job, dict[str, Any]], players: Sequence[str], task: str
) -> dict[str, Any]:
  """The summary of the best player of a task, and who that is."""
  summaries = [played[jobs.Job(who, task)] | {'player': who} for who in players]
  return max(summaries, key=lambda summary: summary['mean'])


def _expect_writable(run: pathlib.Path) -> None:
  """Refuses a run's folder that cannot get results, before the episodes are played for nothing."""
  for folder in (run, run / 'evaluation'):
    if folder.exists() and not os.access(folder, os.W_OK):
      raise errors.UserError(
        f'{folder} cannot be written by this user, and results belong there: evaluate a copy of '
        'the run'
      )


def _write(
  request: jobs.Request,
  suite: environments.Suite,
  results: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> None:
  """Writes `evaluation.json`; `results` are summaries by player and task."""
  text = {
    'checkpoint': request.checkpoint,
    'env': request.config.env,
    'seed': request.seed,
    'deterministic': request.deterministic,
    'references': suite.references,
    'note': suite.note,
    **results,
  }
  with files.replacing(request.run / 'evaluation.json') as file:
    json.dump(text, file, indent=1)


def _processes(wanted: int, suite: environments.Suite, episodes: int) -> int:
  """The number of processes: as many as wanted, if memory has room for their engines."""
  # Other processes cannot make its environments.
  if making.given(suite.name):
    return 1
  each = suite.environment_bytes()
  # Only suites with large engines state their size, or those whose environments are processes.
  if not each:
    return wanted
  # A process plays one task at a time.
  engines = play.environments_at_once(episodes) * each
  return max(1, min(wanted, memory.available() // (engines + _BYTES_PER_PROCESS)))


def _results_name(request: jobs.Request, episodes: int) -> str:
  """The name of the folder of results, which depends on exactly what affects them."""
  # Relative, because the run's folder may be moved.
  checkpoint = os.path.relpath(request.checkpoint, request.run)
  decisive = _decisive_settings(request.config)
  played = [checkpoint, decisive, request.film, request.deterministic]
  text = json.dumps(played, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()[:8]
  name = pathlib.Path(checkpoint).name
  return f'{name}-{episodes}-episodes-seed-{request.seed}-{digest}'


def _decisive_settings(config: settings.Settings) -> dict[str, Any]:
  """The settings that affect an agent's episodes."""
  values = dataclasses.asdict(config)
  return {name: value for name, value in values.items() if name not in _INDECISIVE}
