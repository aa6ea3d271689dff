"""Whole episodes of every task, played in several processes. What is done is kept, and not done again."""

import concurrent.futures
import importlib
import json
import logging
import pathlib
from typing import Any, Callable, NamedTuple, Sequence

from common import environments, errors
from common.config import command_line, settings
from common.evaluation import play as evaluation
from common.machine import files, workers


class Job(NamedTuple):
  """`who` plays: `agent` or `random`."""

  who: str
  task: str


class TaskPlayer:
  """The agent of a checkpoint, and a random policy; in this process or as a `workers.Worker`."""

  def __init__(
    self,
    run: pathlib.Path,
    config: settings.Settings,
    players: str,
    checkpoint: str,
    seed: int,
    video: bool,
  ):
    """Restores the agent.

    Args:
      run: the folder.
      config: of the run.
      players: the system's module whose `from_checkpoint` makes players.
      checkpoint: `latest`, `best` or a path.
      seed: of environments and actions.
      video: whether to film the first episode of each task, in `videos/TASK.gif` of the run.

    Raises:
      UserError: if the environment or the checkpoint cannot be had.
    """
    command_line.import_tensorflow()
    self.suite = environments.load(config.env, config.environment_options())
    self.checkpoint, self._make_player = importlib.import_module(players).from_checkpoint(
      run, config, self.suite, checkpoint, seed
    )
    self._seed, self._videos = seed, run / 'videos' if video else None

  def play(self, who: str, task: str, episodes: int) -> dict[str, Any]:
    """Plays a job; returns the summary of `evaluation.Episodes`."""
    film = self._videos is not None and who == 'agent'
    played = evaluation.play(
      self.suite,
      task,
      self._make_player if who == 'agent' else self._random,
      episodes,
      self._seed,
      pictures=film,
    )
    if film:
      from common.reporting import films as video

      self._videos.mkdir(exist_ok=True)
      video.write_gif(
        self._videos / f'{file_name(task)}.gif', played.pictures, self.suite.steps_per_second
      )
    return played.summary()

  def _random(self, task: str, count: int) -> evaluation.Player:
    del task, count
    return evaluation.random_player(self.suite.action_space, self._seed)


def file_name(task: str) -> str:
  """A task's name without what a file's name cannot have."""
  return task.replace('/', '_').replace(':', '_')


def play_all(
  jobs: Sequence[Job],
  episodes: int,
  folder: pathlib.Path,
  player: TaskPlayer,
  make_player: Callable[[], TaskPlayer],
  processes: int,
) -> dict[Job, dict[str, Any]]:
  """Plays what is not there yet, and keeps each result in the folder as soon as it is there.

  Args:
    jobs: what to play.
    episodes: of each.
    folder: of the results: of this checkpoint, number of episodes and seed only.
    player: plays in this process, if there is to be no other.
    make_player: makes one in another process; is pickled.
    processes: at most so many at once.

  Raises:
    UserError: if environments crash again and again, or a process dies.
  """
  folder.mkdir(parents=True, exist_ok=True)
  path = lambda job: folder / f'{job.who}-{file_name(job.task)}.json'
  results = {job: json.loads(path(job).read_text()) for job in jobs if path(job).exists()}
  left = [job for job in jobs if job not in results]
  if results:
    logging.info('%d of %d are there already, in %s', len(results), len(jobs), folder)

  def done(job: Job, summary: dict[str, Any]) -> None:
    with files.replacing(path(job)) as file:
      json.dump(summary, file)
    results[job] = summary
    logging.info(
      '  %s, %s: %.2f (%d of %d)', job.task, job.who, summary['mean'], len(results), len(jobs)
    )

  count = min(processes, len(left))
  try:
    if count <= 1:
      for job in left:
        done(job, player.play(*job, episodes))
    else:
      _play_in_processes(left, episodes, make_player, count, done)
  except KeyboardInterrupt:
    logging.info(
      'Stopped. The results of %d of %d are kept: the same evaluation goes on from there.',
      len(results),
      len(jobs),
    )
    raise
  return {job: results[job] for job in jobs}


def _play_in_processes(jobs, episodes, make_player, count, done) -> None:
  todo = iter(jobs)  # Threads may share an iterator of a list.

  def work(worker: workers.Worker) -> None:
    job = None
    try:
      worker.receive()
      for job in todo:
        done(job, worker.call('play', who=job.who, task=job.task, episodes=episodes))
    except workers.WorkerDied as death:
      raise errors.UserError(
        f'while {job.task if job else "the first task"} was played, {death}. What is done is '
        'kept: the same command goes on.'
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
