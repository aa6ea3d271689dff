"""Trains a population of IMPALA agents (population based training, section 5.3 and appendix F).

    python -m impala.population --population=24 [--members_at_once=N] [--env=NAME] [...]

Every member is a run of its own, in a folder member-NN of --run_dir, and begins with a combination
of hyperparameters from Table D.1. After every 5,000 episodes it compares its mean capped
human-normalised score with that of another member, drawn at random; if that one's is more than 5
points better, it takes over its weights and hyperparameters. Then each hyperparameter is
multiplied, with probability 1/3, by 1.2 or 1/1.2. Where no human was measured, the scale reaches
from random play to the best that any member has achieved.

Members run as processes of this machine, --members_at_once of them, in turns if there are more. On
many machines, start the same command on each with its own --members and a --run_dir that all of
them share. Ctrl-C saves all members; the same command with --resume continues, also after a crash.
All flags of impala.train but those of its roles are understood.
"""

import dataclasses
import functools
import logging
import pathlib
import threading
from collections.abc import Sequence

from absl import flags

from common import environments, errors
from common.config import command_line, invocation, run_folder
from common.evaluation import play
from common.machine import janitor, signals
from impala import config as configs
from impala import exploit_explore, hyperparameters, places
from impala import population_folder as folders

_RULE = {
  'burn_in_frames': 'Environment frames of a member before it evolves for the first time.',
  'episodes': 'Training episodes by which a member is measured each time.',
  'margin': 'How much better another member must be to be taken over, in points of percent.',
  'probability': 'That a hyperparameter is changed.',
  'factor': 'By which a hyperparameter is multiplied or divided.',
}
_DEFAULT_SIZE = 24
# Turns of a member over its whole training, if there are more members than places.
_TURNS = 20
# Seeds of a member's actors are next to its own.
_SEEDS_APART = 10_000
_RANDOM_EPISODES = 20
_RANDOM_SEED = 1_900_000_000


def main(argv: Sequence[str]) -> int:
  """Trains the members that run on this machine; returns the exit status, 130 if it was stopped.

  Raises:
    UserError: If the command line is wrong, or something failed that the user can fix.
  """
  config, options = command_line.parse(
    argv,
    f'{__doc__}\nEnvironments (--env):\n{environments.describe()}\n',
    configs.PRESETS,
    define_flags=_define_flags,
  )
  assert options.values is not None  # `parse` always sets it.
  suite = environments.load(config.env, config.environment_options())
  if options.values.draw:
    _draw(options, suite)
    return 0
  _expect_none_drawn(argv)
  # On a copy: numbers that depend on the tasks are resolved by each member.
  dataclasses.replace(config).fit(suite)
  population = _population(options, config)
  # Around all that starts processes: random play may start engines.
  with janitor.attend():
    _found(options, config, population, suite)
    return _train(options, config, population, suite)


def _define_flags(values: flags.FlagValues) -> None:
  flags.DEFINE_integer(
    'population',
    None,
    f'The number of members. Default: {_DEFAULT_SIZE}, the paper has no other.',
    lower_bound=2,
    flag_values=values,
  )
  flags.DEFINE_integer(
    'members_at_once', 1, 'Members that run at the same time.', lower_bound=1, flag_values=values
  )
  flags.DEFINE_string(
    'members',
    '',
    'Members that run here, like 0-3,7; none: only prepare their folders. Default: all.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'turn_frames',
    None,
    'If members wait for a place: environment frames of a turn. Default: a twentieth of all.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_integer(
    'actor_processes',
    0,
    "Each member's number of actors that are processes. Default: its actors are threads.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_boolean('draw', False, 'With --resume: only draw the pictures.', flag_values=values)
  for name, help_text in _RULE.items():
    default = getattr(exploit_explore.Rule, name)
    define = flags.DEFINE_integer if isinstance(default, int) else flags.DEFINE_float
    define(name, None, f'{help_text} Default: {default:g}.', flag_values=values)


def _expect_none_drawn(argv: Sequence[str]) -> None:
  """Refuses settings that members draw."""
  for name in hyperparameters.draw(0):
    if any(word.lstrip('-').partition('=')[0] == f'config.{name}' for word in argv[1:]):
      raise errors.UserError(
        f'--config.{name}: every member of a population draws its own (Table D.1). Leave it out.'
      )


def _population(options: command_line.Options, config: configs.Config) -> folders.Population:
  """What the command line and, if it is resumed, the folder say about the population."""
  values = options.values
  assert values is not None
  if options.resume:
    # Refuses another folder, and one that is not complete.
    before = folders.load(options.run_dir)
  else:
    is_atari = environments.family_of(config.env) in ('atari', 'atari57')
    before = folders.Population(
      size=_DEFAULT_SIZE,
      seed=config.seed,
      adapted=exploit_explore.ADAPTED_ON_ATARI if is_atari else exploit_explore.ADAPTED,
      rule=exploit_explore.Rule(),
    )
  given = {name: getattr(values, name) for name in _RULE}
  rule = dataclasses.replace(
    before.rule, **{name: value for name, value in given.items() if value is not None}
  )
  rule.check()
  size = before.size if values.population is None else values.population
  if size < before.size and options.resume:
    raise errors.UserError(
      f'--population is {size}, expected at least the {before.size} members that there are'
    )
  return dataclasses.replace(before, size=size, rule=rule)


def _found(
  options: command_line.Options,
  config: configs.Config,
  population: folders.Population,
  suite: environments.Suite,
) -> None:
  """Makes the population's folder, or joins the others that train it; prepares all members."""
  folder = options.run_dir
  if (folder / 'checkpoints').exists():
    raise errors.UserError(f'{folder} holds a run of its own: give another --run_dir')
  if not options.resume and (folder / 'population.json').exists():
    _expect_the_same(folder, config, population)
  _chosen(options, population.size)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    run_folder.save_config(folder, config)
    if not suite.references and not folders.random(folder):
      folders.write_random(folder, _play_randomly(suite, config))
    for number in range(population.size):
      _prepare(folder, config, number)
    # Last: with this file the folder is complete.
    folders.save(folder, population)
  except OSError as error:
    raise errors.UserError(
      f"the population's folder {folder} cannot be written: {error}. Give another --run_dir."
    ) from error


def _expect_the_same(
  folder: pathlib.Path, config: configs.Config, population: folders.Population
) -> None:
  """Refuses to join a population of other settings."""
  found = configs.PRESETS.from_json(run_folder.load_config(folder, config.SYSTEM))
  if found != config or folders.load(folder) != population:
    raise errors.UserError(
      f'{folder} holds a population of other settings. Leave them out and give --resume to go on '
      'with its own, or give another --run_dir.'
    )


def _prepare(folder: pathlib.Path, config: configs.Config, number: int) -> None:
  """Makes a member's folder with its settings, from which `impala.train --resume` begins."""
  run_dir = folders.member_folder(folder, number)
  if (run_dir / 'config.json').exists():
    return
  run_dir.mkdir(exist_ok=True)
  member = dataclasses.replace(
    config,
    population=True,
    seed=config.seed + _SEEDS_APART * number,
    # The best is evaluated, by its own command.
    evaluation_episodes=0,
  )
  for name, value in hyperparameters.draw(number).items():
    setattr(member, name, value)
  run_folder.save_config(run_dir, member)


def _play_randomly(suite: environments.Suite, config: configs.Config) -> dict[str, float]:
  """Mean returns of random play by task."""
  logging.info('Playing %d episodes of each task at random, for the scale.', _RANDOM_EPISODES)
  returns = {}
  for task in suite.tasks:
    *_, played = play.play_episodes(
      suite,
      task,
      lambda task, count: play.random_player(suite.action_space, _RANDOM_SEED),
      _RANDOM_EPISODES,
      _RANDOM_SEED,
      config.max_evaluation_steps,
    )
    returns[task] = float(played.summary()['mean'])
  return returns


def _chosen(options: command_line.Options, size: int) -> list[int]:
  """The members that run here. Raises UserError if --members cannot be understood."""
  assert options.values is not None
  text = options.values.members
  if text == 'none':
    return []
  chosen = set(range(size)) if not text else set()
  for part in text.split(',') if text else ():
    first, dash, last = part.strip().partition('-')
    last = last if dash else first
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < size):
      raise errors.UserError(
        f'--members is {text!r}, expected numbers and ranges of the members 0 to {size - 1}, '
        'like 0-3,7'
      )
    chosen.update(range(int(first), int(last) + 1))
  return sorted(chosen)


def _train(
  options: command_line.Options,
  config: configs.Config,
  population: folders.Population,
  suite: environments.Suite,
) -> int:
  """Runs members until all of them are done, or until a signal asks to end."""
  values = options.values
  assert values is not None
  folder = options.run_dir
  chosen = _chosen(options, population.size)
  crew = places.Places(
    folder,
    chosen,
    at_once=values.members_at_once,
    turn_frames=values.turn_frames or max(1, config.total_frames // _TURNS),
    total_frames=config.total_frames,
    flags=_member_flags(options, config),
  )
  logging.info(
    'Training a population of %d on %s, %d of them here, %d at once: %s frames each. Folder: %s',
    population.size,
    config.env,
    len(chosen),
    values.members_at_once,
    f'{config.total_frames:,}',
    folder,
  )
  interrupted = threading.Event()
  with signals.setting(interrupted):
    report = functools.partial(_report, folder, population, crew)
    is_done = places.watch(crew, interrupted.wait, report, config.log_every_seconds)
  if chosen and len(crew.given_up) == len(chosen):
    raise errors.UserError(
      f'all members have failed. Their logs: {folder}/member-*/member.log. Go on with: '
      f'{invocation.resuming(folder)}'
    )
  _draw(options, suite)
  if not is_done:
    logging.info('Stopped; saved. Resume with: %s', invocation.resuming(folder))
  return 0 if is_done else 130


def _member_flags(options: command_line.Options, config: configs.Config) -> list[str]:
  """Flags of members: those of their settings that the command line changes, and their actors."""
  assert options.values is not None
  # Without --resume, members have been prepared with them. Seeds are the members' own.
  asked = sorted(options.asked - {'seed', 'evaluation_episodes'}) if options.resume else []
  changed = [f'--config.{name}={getattr(config, name)}' for name in asked]
  return [*changed, f'--actor_processes={options.values.actor_processes}']


def _report(folder: pathlib.Path, population: folders.Population, crew: places.Places) -> None:
  """Logs a line about the population."""
  frames = [places.frames_of(folders.member_folder(folder, n)) for n in range(population.size)]
  histories = [folders.history(folder, n) for n in range(population.size)]
  taken = sum(event.taken_generation is not None for events in histories for event in events)
  logging.info(
    'Members: %s; %s to %s frames, %d generations, %d taken over, %d restarts',
    crew.describe(),
    f'{min(frames):,}',
    f'{max(frames):,}',
    sum(len(events) for events in histories),
    taken,
    crew.restarts,
  )


def _draw(options: command_line.Options, suite: environments.Suite) -> None:
  """Draws the population's pictures, and says who is the best."""
  folder = options.run_dir
  # Imports TensorFlow and matplotlib, which take seconds.
  command_line.import_tensorflow()
  from impala import population_plots

  best = population_plots.best_member(folder, suite.references)
  if best is None:
    logging.info('No member has ended a generation yet: there is nothing to draw.')
    return
  number, fitness = best
  pictures = population_plots.draw(folder, suite.references)
  logging.info(
    'Best: member %d, fitness %.1f. Evaluate it with: python -m impala.evaluate %s\nWritten: %s',
    number,
    fitness,
    folders.member_folder(folder, number),
    ', '.join(str(picture) for picture in pictures),
  )


if __name__ == '__main__':
  command_line.run(main)
