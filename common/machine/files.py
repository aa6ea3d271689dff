"""Files that are written whole or not at all."""

import contextlib
import os
import pathlib
from typing import IO, Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path, mode: str = 'w') -> Iterator[IO]:
  """Opens a temporary file beside `path`, and renames it to `path` when the block ends without an exception."""
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    with open(temporary, mode, newline='' if 'b' not in mode else None) as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
