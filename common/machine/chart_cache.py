"""A folder for matplotlib's cache where the user's home cannot be written."""

import atexit
import logging
import os
import pathlib
import shutil
import tempfile


def prepare() -> None:
  """Sets MPLCONFIGDIR to a temporary folder if matplotlib's own folders cannot be written.

  Call it before anything imports matplotlib; TensorFlow does, for Keras. Otherwise matplotlib would
  make a folder itself, say so at length, and fail to remove it at exit if the run's temporary
  folder is already gone.
  """
  # It builds its list of fonts once for each cache, which is no news.
  logging.getLogger('matplotlib.font_manager').setLevel(logging.ERROR)
  if os.environ.get('MPLCONFIGDIR') or all(map(_is_writable, own_folders())):
    return
  folder = tempfile.mkdtemp(prefix='matplotlib-')
  os.environ['MPLCONFIGDIR'] = folder
  atexit.register(shutil.rmtree, folder, ignore_errors=True)


def own_folders() -> list[pathlib.Path]:
  """Where matplotlib keeps settings and its cache by default."""
  home = pathlib.Path(os.path.expanduser('~'))
  settings = pathlib.Path(os.environ.get('XDG_CONFIG_HOME') or home / '.config')
  cache = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or home / '.cache')
  return [settings / 'matplotlib', cache / 'matplotlib']


def _is_writable(folder: pathlib.Path) -> bool:
  """Whether a folder can be written, or could be made."""
  nearest = next(path for path in (folder, *folder.parents) if path.exists())
  return os.access(nearest, os.W_OK)
