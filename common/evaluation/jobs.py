"""Plays the tasks of an evaluation in several processes; keeps each result as it arrives."""

import concurrent.futures
import dataclasses
import functools
import json
import logging
import math
import pathlib
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

from common import environments, errors
from common.config import command_line, settings
from common.evaluation import play, ticker
from common.machine import files, workers
from common.reporting import films
from common.runs import system as systems

_TURN_SECONDS = 1.0  # How long a player plays until it reports.
# A single task is played by this process for so long before others are started: until they have
# imported TensorFlow, a small one is finished.
_ALONE_SECONDS = 10.0


class Job(NamedTuple):
  """Episodes of one task by one player."""

  who: str  # 'agent', 'random', or 'action N', which repeats an action.
  task: str


class Turn(NamedTuple):
  """What a player reports of a job.

  Attributes:
    standing: How far it is.
    summary: Of the `play.Episodes`, once all are played; None before.
  """

  standing: play.Standing
  summary: dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Request:
  """What to evaluate.

  Attributes:
    run: The run's folder.
    system: The system that was trained.
    config: The run's settings.
    checkpoint: `latest`, `best` or a path.
    seed: Seed of environments and actions.
    film: Whether to film each task's first episode, as `videos/TASK.mp4`, or `.gif`, in the run's
      folder.
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
  """The agent of a checkpoint, or one that has learned nothing; here or as a `workers.Worker`.

  `begin` begins a job, and `play_on` plays it bit by bit, so that progress is seen from outside.

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
    options = dataclasses.replace(config.environment_options(), pictures=request.film)
    self.suite = environments.load(config.env, options)
    tf.random.set_seed(request.seed)
    agent = request.system.make_playing_agent(
      config, self.suite, request.seed, request.deterministic
    )
    saved = checkpoints.Checkpoints(request.run / 'checkpoints', agent.checkpointed)
    self.checkpoint = saved.restore(request.checkpoint)
    self._make_agent_player = agent.make_player
    self._job = Job('', '')
    self._playing: Generator[play.Episodes, None, None] | None = None
    self._film: films.Film | None = None

  def begin(self, who: str, task: str, episodes: int) -> None:
    """Begins a job.

    Args:
      who: `agent`, `random`, or `action N`, which takes action N over and over.
      task: The task's name.
      episodes: The number of episodes.
    """
    self._job = Job(who, task)
    self._film = films.Film() if self._request.film and who == 'agent' else None
    make_player = self._make_agent_player
    if who != 'agent':
      make_player = functools.partial(self._make_baseline, who)
    self._playing = play.play_episodes(
      self.suite,
      task,
      make_player,
      episodes,
      self._request.seed,
      self._request.config.max_evaluation_steps,
      self._film,
    )

  def play_on(self, seconds: float) -> Turn:
    """Plays the job on for some seconds, or to its end.

    Raises:
      UserError: As `play.play_episodes`.
    """
    assert self._playing, 'no job has begun'
    end = time.monotonic() + seconds
    for played in self._playing:
      if time.monotonic() > end and len(played.returns) < played.asked:
        return Turn(played.standing(), None)
    if self._film:
      self._write(self._film)
    return Turn(played.standing(), played.summary())

  def close(self) -> None:
    """Ends the environments of a job that is not finished."""
    if self._playing:
      self._playing.close()

  def _write(self, film: films.Film) -> None:
    folder = self._request.run / 'videos'
    folder.mkdir(exist_ok=True)
    path = film.write(folder, file_name(self._job.task), self.suite.steps_per_second)
    logging.info('  Film: %s', path)

  def _make_baseline(self, who: str, task: str, count: int) -> play.Player:
    """A player that has learned nothing."""
    del task, count
    if who == 'random':
      return play.random_player(self.suite.action_space, self._request.seed)
    return play.repeating_player(self.suite.action_space, int(who.removeprefix('action ')))


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
  log_every_seconds: float,
) -> dict[Job, dict[str, Any]]:
  """Plays the jobs whose results are not in the folder yet; adds each result as it arrives.

  Args:
    jobs: The jobs whose results are wanted.
    episodes: The number of episodes of each job.
    folder: The folder of results, all with the same checkpoint, number of episodes and seed.
    player: Plays in this process if one process is enough, or while a single task is short.
    make_player: Makes a player in another process; it is pickled.
    processes: The maximum number of processes.
    log_every_seconds: Time between two lines of progress.

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

  watch = ticker.Ticker(episodes * len(left), log_every_seconds)

  def keep(job: Job, summary: dict[str, Any]) -> None:
    # Atomically: an interrupted evaluation leaves only complete results.
    with files.replacing(paths[job]) as file:
      json.dump(summary, file)
    results[job] = summary
    place = f'{len(results)} of {len(jobs)}'
    logging.info('  %s, %s: %.2f (%s)', job.task, job.who, summary['mean'], place)

  try:
    if processes > 1 and len({job.task for job in left}) == 1:
      left = _play_here(left, episodes, player, watch, keep, _ALONE_SECONDS)
    count = min(processes, len(left))
    if count > 1:
      _play_in_processes(left, episodes, make_player, count, watch, keep)
    else:
      _play_here(left, episodes, player, watch, keep)
  except KeyboardInterrupt:
    logging.info(
      'Stopped. %d of %d results are kept: the same command continues from there.',
      len(results),
      len(jobs),
    )
    raise
  # In the order of `jobs`, whichever was played first.
  return {job: results[job] for job in jobs}


def _play_here(
  jobs: Sequence[Job],
  episodes: int,
  player: TaskPlayer,
  watch: ticker.Ticker,
  keep: Callable[[Job, dict[str, Any]], None],
  seconds: float = math.inf,
) -> list[Job]:
  """Plays in this process; returns the jobs that are left.

  After some seconds, a job that keeps others waiting is given up: processes play them at once.
  """
  end = time.monotonic() + seconds
  for i, job in enumerate(jobs):
    player.begin(job.who, job.task, episodes)
    deadline = end if job != jobs[-1] else math.inf
    summary = _finish(job, watch, lambda: player.play_on(_TURN_SECONDS), deadline)
    if summary is None:
      player.close()
      return list(jobs[i:])
    keep(job, summary)
  return []


def _finish(
  job: Job, watch: ticker.Ticker, play_on: Callable[[], Turn], deadline: float = math.inf
) -> dict[str, Any] | None:
  """Plays a job that has begun, turn by turn; returns its summary, or None after the deadline."""
  while True:
    turn = play_on()
    is_done = turn.summary is not None
    watch.note(f'{job.task}, {job.who}', turn.standing, is_done)
    if is_done or time.monotonic() > deadline:
      return turn.summary


def _play_in_processes(
  jobs: Sequence[Job],
  episodes: int,
  make_player: Callable[[], TaskPlayer],
  count: int,
  watch: ticker.Ticker,
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
        worker.call('begin', who=job.who, task=job.task, episodes=episodes)
        summary = _finish(job, watch, lambda: worker.call('play_on', seconds=_TURN_SECONDS))
        assert summary is not None  # There is no deadline.
        keep(job, summary)
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
