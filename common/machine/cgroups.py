"""The control groups that limit this process: its own and all around it, of version 1 and 2.

Containers, Slurm and systemd limit memory and cores by them. Where their files lie depends on the
system: in a container the process's own group is often the root of what is mounted, on a host it is
a folder below that; version 1 has a hierarchy for each controller, version 2 one for all.
"""

import pathlib
import re
from typing import NamedTuple

_PROCESS = pathlib.Path('/proc/self')


class Group(NamedTuple):
  """A control group.

  Attributes:
    folder: Holds the files of its limits.
    version: 1 or 2.
  """

  folder: pathlib.Path
  version: int

  def number(self, name: str) -> int | None:
    """The number in a file; None if there is no such file, or it says `max`."""
    text = self.text(name).strip()
    return int(text) if re.fullmatch(r'-?\d+', text) else None

  def text(self, name: str) -> str:
    """The text of a file; '' if it cannot be read."""
    try:
      return (self.folder / name).read_text()
    except OSError:
      return ''


def of_process(controller: str) -> list[Group]:
  """The groups of this process, each before those around it, as far as they can be seen.

  Args:
    controller: Whose limits are wanted, `memory` or `cpu`.
  """
  groups = []
  paths = _own_paths()
  for mount in _mounts():
    own = paths.get(controller if mount.version == 1 else '')
    if own is None or (mount.version == 1 and controller not in mount.controllers):
      continue
    folder = _below(mount, own)
    # A limit of any group around this one counts too.
    levels = [folder, *folder.parents]
    visible = levels[: levels.index(mount.folder) + 1]
    groups += [Group(level, mount.version) for level in visible]
  return groups


class _Mount(NamedTuple):
  """A mounted hierarchy of control groups."""

  folder: pathlib.Path
  root: pathlib.PurePosixPath  # The group that `folder` shows.
  version: int
  controllers: frozenset[str]  # Of version 1.


def _own_paths() -> dict[str, pathlib.PurePosixPath]:
  """This process's group in each hierarchy, by controller; '' for version 2's."""
  paths = {}
  # Lines such as `4:memory:/docker/ab12` and, of version 2, `0::/user.slice`.
  for line in _read('cgroup').splitlines():
    _, _, rest = line.partition(':')
    controllers, _, path = rest.partition(':')
    for controller in controllers.split(','):
      paths[controller] = pathlib.PurePosixPath(path)
  return paths


def _mounts() -> list[_Mount]:
  found = []
  for line in _read('mountinfo').splitlines():
    # See `man 5 proc`: optional columns end with a dash.
    mount, _, system = line.partition(' - ')
    kind, _, options = system.split(' ', 2)
    if kind not in ('cgroup', 'cgroup2'):
      continue
    root, folder = (_unescaped(column) for column in mount.split(' ')[3:5])
    version = 2 if kind == 'cgroup2' else 1
    controllers = frozenset(options.split(','))
    found.append(_Mount(pathlib.Path(folder), pathlib.PurePosixPath(root), version, controllers))
  return found


def _below(mount: _Mount, own: pathlib.PurePosixPath) -> pathlib.Path:
  """The folder of the group `own`; what is mounted itself, if the group cannot be seen there."""
  if not own.is_relative_to(mount.root) or '..' in own.parts:
    return mount.folder
  folder = mount.folder / own.relative_to(mount.root)
  return folder if folder.is_dir() else mount.folder


def _read(name: str) -> str:
  """A file about this process; '' on systems that have none."""
  try:
    return (_PROCESS / name).read_text()
  except OSError:
    return ''


def _unescaped(column: str) -> str:
  r"""A path of `mountinfo`, where a space is written `\040`."""
  return re.sub(r'\\([0-7]{3})', lambda match: chr(int(match.group(1), 8)), column)
