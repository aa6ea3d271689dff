"""The shared programs work for any system that implements the interface; see `third_system.py`."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest

from apex import system as apex
from common.reporting import metrics_file
from impala import system as impala
from tests.common import programs

# Not with `-m`: worker processes must import the system from its module, as they do IMPALA's.
_PROGRAM = (
  'from common.config import command_line\n'
  'from tests.common.runs import third_system\n'
  'command_line.run(third_system.main)'
)


def start(folder, *flags):
  """Starts the third system's training program."""
  command = [sys.executable, '-c', _PROGRAM, f'--run_dir={folder}']
  return subprocess.Popen(
    [*command, '--config.evaluation_episodes=3', '--config.log_every_seconds=0.2', *flags],
    cwd=programs.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env={**os.environ, 'PYTHONPATH': str(programs.ROOT)},
  )


def test_a_third_system_trains_reports_saves_resumes_and_is_evaluated(tmp_path):
  folder = tmp_path / 'run'
  endless = start(folder, '--total_frames=100000000')
  programs.wait_for_rows(folder, 2, endless)
  endless.send_signal(signal.SIGINT)
  output = programs.finish(endless, 130)
  # The command that was really used.
  resume = re.search(r'Resume with: (.*)', output.replace(_PROGRAM, 'PROGRAM')).group(1)
  assert shlex.split(resume) == [
    *(sys.executable, '-c', 'PROGRAM'),
    *('--config.evaluation_episodes=3', '--config.log_every_seconds=0.2'),
    *('--total_frames=100000000', f'--run_dir={folder}', '--resume'),
  ]

  counted = metrics_file.read(folder / 'metrics.csv')[-1]
  total = int(counted['frames']) + 2000
  output = programs.finish(start(folder, '--resume', f'--total_frames={total}'))
  rows = metrics_file.read(folder / 'metrics.csv')
  # Its counters have not started over.
  assert rows[-1]['frames'] == total and rows[-1]['updates'] == total
  assert rows[-1]['steps_per_second'] > 0
  evaluation = json.loads((folder / 'evaluation.json').read_text())
  assert [len(evaluation[who]['CartPole-v1']['returns']) for who in ('random', 'agent')] == [3, 3]
  assert (folder / 'curves.png').exists()
  assert json.loads((folder / 'config.json').read_text())['total_frames'] == total


@pytest.mark.parametrize('system', [impala.IMPALA, apex.APEX], ids=lambda system: system.name)
def test_a_system_has_programs_of_its_name_and_boolean_switches(system):
  for program in ('train', 'evaluate'):
    assert (programs.ROOT / system.name / f'{program}.py').exists()
  fields = system.presets.config.__dataclass_fields__
  for switch in system.switches:
    assert fields[switch].type is bool


def test_a_system_with_one_learner_refuses_several(monkeypatch):
  cluster = {'cluster': {'learner': ['127.0.0.1:1', '127.0.0.1:2']}}
  task = {'task': {'type': 'learner', 'index': 0}}
  monkeypatch.setenv('TF_CONFIG', json.dumps({**cluster, **task}))
  message = programs.refusal('apex', '--cluster=tf_config')
  assert message == 'Ape-X has one learner, and the cluster names 2'
