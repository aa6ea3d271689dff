"""Synthetic actors: `scripts/senders.py ADDRESS COUNT FILE` joins COUNT times and puts FILE.

Each is a thread with a link of its own that fetches parameters and puts the file's bytes, over and
over: an actor that needs no time to play. ADDRESS is what --learner takes; the token of the
environment is used. For `scripts/benchmark.py wire` and `scripts/load.py`, which terminate it.
"""

import functools
import os
import pathlib
import sys
import threading
from typing import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from common.config import command_line
from common.distributed import cluster
from common.machine import janitor

VERSION = 'synthetic'  # In place of the code's, which a learner compares.
_PATIENCE = 60.0


def main(argv: Sequence[str]) -> None:
  """Sends until the learner says that training is finished."""
  name = argv[0]
  address = cluster.parse_learner(argv[1])
  token = os.environ.get(cluster.TOKEN_VARIABLE, '')
  count = int(argv[2])
  payload = pathlib.Path(argv[3]).read_bytes()
  command_line.import_tensorflow()
  from common.distributed import link as links
  from common.distributed import queues
  from common.machine import threads

  def make_link(i: int) -> links.Link:
    applicant = links.Applicant(name=f'{name}-{i}', role='actor', version=VERSION, config={})
    return links.Link(address, applicant, _PATIENCE, token)

  def send(link: links.Link) -> None:
    try:
      link.join()
      while True:
        link.latest()
        link.put(payload)
    except queues.QueueClosed:
      link.close()

  all_links = [make_link(i) for i in range(count)]

  def stop() -> None:
    for link in all_links:
      link.stop()

  crew = threads.Crew(stop)
  working = [
    crew.start(f'sender-{i}', functools.partial(send, link)) for i, link in enumerate(all_links)
  ]
  for thread in working:
    thread.join()
  if crew.error:
    raise crew.error


if __name__ == '__main__':
  sys.argv[0] = f'senders-{threading.get_native_id()}'
  with janitor.attend():
    command_line.run(main)
