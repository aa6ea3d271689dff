"""Synthetic actors: `scripts/senders.py HOST:PORT COUNT FILE` joins COUNT times and puts the file's bytes for ever.

Each is a thread with a link of its own, as an actor is that needs no time to play. For `scripts/benchmark.py wire` and
`scripts/soak.py`, which end it.
"""

import pathlib
import sys
import threading
from typing import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from common.config import command_line
from common.distributed import cluster
from common.machine import janitor

VERSION = 'synthetic'


def main(argv: Sequence[str]) -> None:
  """Sends until the learner has finished."""
  (host, port), count = cluster.parse_address(argv[1], 'the address'), int(argv[2])
  payload = pathlib.Path(argv[3]).read_bytes()
  command_line.import_tensorflow()
  from common.distributed import link as links
  from common.distributed import queues
  from common.machine import threads

  def send(link: links.Link) -> None:
    try:
      link.join()
      while True:
        link.latest()
        link.put(payload)
    except queues.QueueClosed:
      link.close()

  joined = [
    links.Link(host, port, links.Applicant(f'{argv[0]}-{i}', 'actor', VERSION, '', {}), 60.0)
    for i in range(count)
  ]
  crew = threads.Crew(lambda: [link.stop() for link in joined])
  working = [
    crew.start(f'sender-{i}', lambda link=link: send(link)) for i, link in enumerate(joined)
  ]
  for thread in working:
    thread.join()
  if crew.error:
    raise crew.error


if __name__ == '__main__':
  sys.argv[0] = f'senders-{threading.get_native_id()}'
  with janitor.attend():
    command_line.run(main)
