"""Plays the tasks of an evaluation in several processes; keeps each result as it arrives."""

import concurrent.futures
import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from common import environments, errors
from common.config import command_line, settings
from common.evaluation import play
from common.machine import files, workers
from common.runs import system as systems


class Job(NamedTuple):
  """Episodes of one task by one player."""

  who: str  # 'agent' or 'random'.
  task: str


@dataclasses.dataclass(frozen=True)
class Request:
  """What to evaluate.

  Attributes:
    run: The run's folder.
    system: The system that was trained.
    config: The run's settings.
    checkpoint: `latest`, `best` or a path.
    seed: Seed of environments and actions.
    film: Whether to film each task's first episode, as `videos/TASK.gif` in the run's folder.
    deterministic: Whether the agent takes the actions it prefers, none at random.
  """

  run: pathlib.Path
  system: systems.System
  config: settings.Settings
  checkpoint: str
  seed: int
  film: bool = False
  deterministic: bool = False


class TaskPlayer:
  """The agent of a checkpoint, and a random policy; in this process or as a `workers.Worker`.

  Attributes:
    suite: The suite that has the tasks.
    checkpoint: The path of the restored checkpoint.
  """

  def __init__(self, request: Request):
    """Restores the agent.

    Raises:
      UserError: If the environment cannot be loaded, or the checkpoint cannot be read or does not
        fit the config.
    """
    # This may be the first code that runs in a worker process.
    command_line.import_tensorflow()
    import tensorflow as tf

    from common.runs import checkpoints

    self._request = request
    config = request.config
    self.suite = environments.load(config.env, config.environment_options())
    tf.random.set_seed(request.seed)
    agent = request.system.make_playing_agent(
      config, self.suite, request.seed, request.deterministic
    )
    saved = checkpoints.Checkpoints(request.run / 'checkpoints', agent.checkpointed)
    self.checkpoint = saved.restore(request.checkpoint)
    self._make_agent_player = agent.make_player

  def play_task(self, who: str, task: str, episodes: int) -> dict[str, Any]:
    """Plays a job.

    Args:
      who: `agent` or `random`.
      task: The task's name.
      episodes: The number of episodes.

    Returns:
      The summary of the `play.Episodes`.
    """
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
  """A task's name with characters that file names allow."""
  return task.replace('/', '_').replace(':', '_')


def play_all(
  jobs: Sequence[Job],
  episodes: int,
  folder: pathlib.Path,
  player: TaskPlayer,
  make_player: Callable[[], TaskPlayer],
  processes: int,
) -> dict[Job, dict[str, Any]]:
  """Plays the jobs whose results are not in the folder yet; adds each result as it arrives.

  Args:
    jobs: The jobs whose results are wanted.
    episodes: The number of episodes of each job.
    folder: The folder of results, all with the same checkpoint, number of episodes and seed.
    player: Plays in this process if one process is enough.
    make_player: Makes a player in another process; it is pickled.
    processes: The maximum number of processes.

  Returns:
    The summaries of `play.Episodes` by job.

  Raises:
    UserError: If environments crash repeatedly, or a process dies.
  """
  folder.mkdir(parents=True, exist_ok=True)
  paths = {job: folder / f'{job.who}-{file_name(job.task)}.json' for job in jobs}
  results = {job: json.loads(path.read_text()) for job, path in paths.items() if path.exists()}
  left = [job for job in jobs if job not in results]
  if results:
    logging.info('%d of %d results are there already, in %s', len(results), len(jobs), folder)

  def keep(job: Job, summary: dict[str, Any]) -> None:
    # Atomically: an interrupted evaluation leaves only complete results.
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
      'Stopped. %d of %d results are kept: the same command continues from there.',
      len(results),
      len(jobs),
    )
    raise
  # In the order of `jobs`, whichever was played first.
  return {job: results[job] for job in jobs}


def _play_in_processes(
  jobs: Sequence[Job],
  episodes: int,
  make_player: Callable[[], TaskPlayer],
  count: int,
  keep: Callable[[Job, dict[str, Any]], None],
) -> None:
  """Plays in `count` processes, each of which takes the next job whenever it finishes one."""
  # Threads may share a list's iterator: each job goes to exactly one of them.
  todo = iter(jobs)

  def work(worker: workers.Worker) -> None:
    job = None
    try:
      # The player was made, or could not be.
      worker.receive()
      for job in todo:
        keep(job, worker.call('play_task', who=job.who, task=job.task, episodes=episodes))
    except workers.WorkerDied as death:
      task = job.task if job else 'the first task'
      raise errors.UserError(
        f'while {task} was played, {death}. Results so far are kept: the same command continues.'
      ) from death

  staff = [workers.Worker(make_player) for _ in range(count)]
  try:
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
      futures = [pool.submit(work, worker) for worker in staff]
      try:
        for future in concurrent.futures.as_completed(futures):
          future.result()
      except BaseException:
        # Leaving the pool waits for its threads, whose calls return only if the workers end. Also
        # after Ctrl-C.
        for worker in staff:
          worker.kill()
        raise
  finally:
    for worker in staff:
      worker.close()
