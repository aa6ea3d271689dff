"""Whole episodes of every task, played in several processes; each result is kept at once."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from common import environments, errors
from common.config import command_line, settings
from common.evaluation import play
from common.machine import files, workers

if TYPE_CHECKING:
  from common.runs import system as systems


class Job(NamedTuple):
  """Episodes of one task by one player."""

  who: str  # 'agent' or 'random'.
  task: str


@dataclasses.dataclass(frozen=True)
class Request:
  """What is to be evaluated.

  Attributes:
    run: The run's folder.
    system: What was trained.
    config: The run's settings.
    checkpoint: `latest`, `best` or a path.
    seed: Seeds environments and actions.
    film: Whether to film the first episode of each task, as `videos/TASK.gif` in the run's folder.
  """

  run: pathlib.Path
  system: systems.System
  config: settings.Settings
  checkpoint: str
  seed: int
  film: bool = False


class TaskPlayer:
  """The agent of a checkpoint, and a random policy; in this process or as a `workers.Worker`.

  Attributes:
    suite: Has the tasks.
    checkpoint: The path of the checkpoint that was restored.
  """

  def __init__(self, request: Request):
    """Restores the agent.

    Raises:
      UserError: If the environment is not there, or the checkpoint cannot be read or does not fit.
    """
    command_line.import_tensorflow()
    import tensorflow as tf

    from common.runs import checkpoints

    self._request = request
    config = request.config
    self.suite = environments.load(config.env, config.environment_options())
    tf.random.set_seed(request.seed)
    agent = request.system.make_playing_agent(config, self.suite, request.seed)
    saved = checkpoints.Checkpoints(request.run / 'checkpoints', agent.checkpointed)
    self.checkpoint = saved.restore(request.checkpoint)
    self._make_agent_player = agent.make_player

  def play_task(self, who: str, task: str, episodes: int) -> dict[str, Any]:
    """Plays a job; returns the summary of its `play.Episodes`."""
    is_agent = who == 'agent'
    is_filmed = self._request.film and is_agent
    make_player = self._make_agent_player if is_agent else self._make_random_player
    played = play.play_episodes(
      self.suite, task, make_player, episodes, self._request.seed, pictures=is_filmed
    )
    if is_filmed:
      self._write_film(task, played)
    return played.summary()

  def _write_film(self, task: str, played: play.Episodes) -> None:
    from common.reporting import films

    folder = self._request.run / 'videos'
    folder.mkdir(exist_ok=True)
    path = folder / f'{file_name(task)}.gif'
    films.write_gif(path, played.pictures, self.suite.steps_per_second)

  def _make_random_player(self, task: str, count: int) -> play.Player:
    del task, count
    return play.random_player(self.suite.action_space, self._request.seed)


def file_name(task: str) -> str:
  """A task's name as part of a file's name."""
  return task.replace('/', '_').replace(':', '_')


def play_all(
  jobs: Sequence[Job],
  episodes: int,
  folder: pathlib.Path,
  player: TaskPlayer,
  make_player: Callable[[], TaskPlayer],
  processes: int,
) -> dict[Job, dict[str, Any]]:
  """Plays the jobs whose results are not in the folder yet, and keeps each result at once.

  Args:
    jobs: What to play.
    episodes: To play for each job.
    folder: Of the results, all of the same checkpoint, number of episodes and seed.
    player: Plays in this process, if one process is enough.
    make_player: Makes a player in another process; is pickled.
    processes: The most processes at once.

  Returns:
    The summaries of `play.Episodes`, by job.

  Raises:
    UserError: If environments crash again and again, or if a process dies.
  """
  folder.mkdir(parents=True, exist_ok=True)
  paths = {job: folder / f'{job.who}-{file_name(job.task)}.json' for job in jobs}
  results = {job: json.loads(path.read_text()) for job, path in paths.items() if path.exists()}
  left = [job for job in jobs if job not in results]
  if results:
    logging.info('%d of %d are there already, in %s', len(results), len(jobs), folder)

  def keep(job: Job, summary: dict[str, Any]) -> None:
    with files.replacing(paths[job]) as file:
      json.dump(summary, file)
    results[job] = summary
    place = f'{len(results)} of {len(jobs)}'
    logging.info('  %s, %s: %.2f (%s)', job.task, job.who, summary['mean'], place)

  count = min(processes, len(left))
  try:
    if count > 1:
      _play_in_processes(left, episodes, make_player, count, keep)
    else:
      for job in left:
        keep(job, player.play_task(job.who, job.task, episodes))
  except KeyboardInterrupt:
    logging.info(
      'Stopped. The results of %d of %d are kept: the same evaluation goes on from there.',
      len(results),
      len(jobs),
    )
    raise
  return {job: results[job] for job in jobs}


def _play_in_processes(
  jobs: Sequence[Job],
  episodes: int,
  make_player: Callable[[], TaskPlayer],
  count: int,
  keep: Callable[[Job, dict[str, Any]], None],
) -> None:
  """Plays in `count` processes, each of which takes the next job when it has finished one."""
  todo = iter(jobs)  # Threads may share an iterator of a list.

  def work(worker: workers.Worker) -> None:
    job = None
    try:
      worker.receive()
      for job in todo:
        keep(job, worker.call('play_task', who=job.who, task=job.task, episodes=episodes))
    except workers.WorkerDied as death:
      task = job.task if job else 'the first task'
      raise errors.UserError(
        f'while {task} was played, {death}. What is done is kept: the same command goes on.'
      ) from death

  staff = [workers.Worker(make_player) for _ in range(count)]
  try:
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
      futures = [pool.submit(work, worker) for worker in staff]
      try:
        for future in concurrent.futures.as_completed(futures):
          future.result()
      except BaseException:  # Ctrl-C too: the others must not play on.
        for worker in staff:
          worker.kill()
        raise
  finally:
    for worker in staff:
      worker.close()
