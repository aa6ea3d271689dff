"""A run that is refused at its start leaves no folder; one in use is not resumed a second time."""

import dataclasses
import socket

import pytest

from apex import system as apex
from common import errors
from common.config import command_line
from common.distributed import cluster
from impala import system as impala

SYSTEMS = {'impala': impala.IMPALA, 'apex': apex.APEX}


def make(name, folder, resume=False, who=cluster.Cluster(), **changes):
  system = SYSTEMS[name]
  config = dataclasses.replace(system.presets.preset('gym'), **changes)
  return system.make_run(config, command_line.Options(folder, resume), who)


@pytest.mark.parametrize(
  'name, changes, words',
  [
    ('impala', {'replay_fraction': 0.5, 'replay_capacity': 10**12}, 'GiB are free'),
    ('impala', {'policy_lag': 10**9, 'batch_size': 0}, 'GiB are free'),
    ('impala', {'torso': 'deep'}, 'torso'),
    ('apex', {'replay_capacity': 10**12}, 'GiB are free'),
    ('apex', {'algorithm': 'dpg'}, 'algorithm'),
  ],
)
def test_a_run_that_cannot_be_leaves_no_folder(name, changes, words, tmp_path):
  with pytest.raises(errors.UserError, match=words):
    make(name, tmp_path / 'run', **changes)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', SYSTEMS)
def test_a_learner_whose_port_is_taken_leaves_no_folder(name, tmp_path):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    who = cluster.Cluster(role='learner', listen=f'127.0.0.1:{taken.getsockname()[1]}')
    with pytest.raises(errors.UserError, match='in use'):
      make(name, tmp_path / 'run', who=who)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', SYSTEMS)
def test_a_run_in_use_is_not_resumed(name, tmp_path):
  folder = tmp_path / 'run'
  first = make(name, folder)
  before = sorted(folder.rglob('*'))
  with pytest.raises(errors.UserError, match='in use by'):
    make(name, folder, resume=True)
  assert sorted(folder.rglob('*')) == before
  first.supervisor._lock.release()
  make(name, folder, resume=True).supervisor._lock.release()
