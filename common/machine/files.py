"""Files that are written completely or not at all."""

import contextlib
import os
import pathlib
import socket
import tempfile
from typing import IO, Any, Iterator

from common import errors


def expect_temporary_folder() -> None:
  """Makes sure that temporary files can be written.

  Raises:
    UserError: Names the folders that were tried.
  """
  try:
    tempfile.gettempdir()
  except OSError as error:
    raise errors.UserError(
      f'there is no folder where temporary files can be written: {error.strerror}. Make some room '
      'there, or set TMPDIR to a folder that this user can write'
    ) from error


@contextlib.contextmanager
def replacing(path: pathlib.Path, mode: str = 'w') -> Iterator[IO[Any]]:
  """Opens a temporary file, and renames it to `path` if the block ends without an exception.

  Readers see the old file or the complete new one, even if this process or the machine dies.

  Args:
    path: The file to write. The temporary one is in the same folder, as renaming is atomic only
      within a file system.
    mode: `w` or `wb`. Line ends are written as given.
  """
  # Machines that share the folder may have processes of the same number.
  temporary = path.with_name(f'.{path.name}.{socket.gethostname()}.{os.getpid()}')
  try:
    with open(temporary, mode, newline='' if 'b' not in mode else None) as file:
      yield file
      # On disk before the rename is: otherwise a power failure could leave an empty file.
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except OSError as error:
    # Users do not know the temporary file.
    if error.filename == str(temporary):
      error.filename = str(path)
    raise
  finally:
    temporary.unlink(missing_ok=True)
