"""A machine's control groups, as files that tests write."""

import pathlib

from common.machine import cgroups


class Machine:
  """What this process sees of its control groups."""

  def __init__(self, folder: pathlib.Path, monkeypatch):
    """Begins without any; all files are below `folder`."""
    self._folder = folder
    self._mounts = ['22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw']
    monkeypatch.setattr(cgroups, '_PROCESS', folder / 'self')
    (folder / 'self').mkdir()
    self._write_mounts()

  def mount(self, folder, kind, options='rw', root='/'):
    """Mounts a hierarchy: `cgroup` with its controllers among the options, or `cgroup2`."""
    (self._folder / folder).mkdir(parents=True, exist_ok=True)
    path = str(self._folder / folder).replace(' ', r'\040')
    self._mounts.append(f'35 31 0:32 {root} {path} rw,relatime shared:9 - {kind} {kind} {options}')
    self._write_mounts()

  def join(self, *lines):
    """Sets the lines that name this process's groups."""
    (self._folder / 'self' / 'cgroup').write_text(''.join(f'{line}\n' for line in lines))

  def write(self, group, **files):
    """Writes a group's files; names have underscores for dots after the first word."""
    folder = self._folder / group
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
      (folder / name.replace('_', '.', 1)).write_text(text)

  def _write_mounts(self):
    (self._folder / 'self' / 'mountinfo').write_text('\n'.join(self._mounts) + '\n')


def memory_2(maximum, current=0, inactive_file=0, active_file=0, high='max'):
  """The files of a group of version 2."""
  return {
    'memory_max': f'{maximum}\n',
    'memory_high': f'{high}\n',
    'memory_current': f'{current}\n',
    'memory_stat': (
      f'anon {current}\nfile 9\ninactive_anon 7\n'
      f'inactive_file {inactive_file}\nactive_file {active_file}\n'
    ),
  }


def memory_1(maximum, current=0, inactive_file=0):
  """The files of a group of version 1, whose own and whose total use differ."""
  return {
    'memory_limit_in_bytes': f'{maximum}\n',
    'memory_usage_in_bytes': f'{current}\n',
    'memory_stat': (
      f'inactive_file 1\ntotal_inactive_anon 7\ntotal_inactive_file {inactive_file}\n'
      'total_active_file 3\n'
    ),
  }
