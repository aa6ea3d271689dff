"""The benchmark's results are kept and compared; what it cannot read is refused."""

import json

import pytest

from common import errors
from scripts import benchmark


def test_results_are_compared_by_name(capsys):
  before = {'end_to_end': 1000.0, 'ratio': 0.5, 'cores': 2}
  benchmark._compare({'end_to_end': 1500.0, 'ratio': 0.75, 'cores': 2, 'limit': 9.0}, before)
  assert capsys.readouterr().out.splitlines() == [
    'end_to_end: 1,500, before 1,000: 1.500',
    'ratio: 0.75, before 0.5: 1.500',
  ]
  benchmark._compare({'end_to_end': 1500.0}, {})
  assert not capsys.readouterr().out


@pytest.mark.parametrize('text', [None, 'no results'])
def test_results_that_cannot_be_read_are_refused(text, tmp_path):
  path = tmp_path / 'old.json'
  if text:
    path.write_text(text)
  with pytest.raises(errors.UserError, match='Write it with --json='):
    benchmark.main(['benchmark.py', 'start', f'--compare={path}'])


def test_what_cannot_be_measured_is_refused():
  with pytest.raises(errors.UserError, match='expected what to measure'):
    benchmark.main(['benchmark.py', 'everything'])


def test_the_case_and_all_flags_are_the_name_of_a_result(tmp_path):
  """Two environments of one system are never compared with each other."""
  path = tmp_path / 'new.json'
  flags = ('--env=gym:CartPole-v1', '--config.num_actors=1')
  benchmark.main(['benchmark.py', 'start', *flags, '--rounds=1', f'--json={path}'])
  assert list(json.loads(path.read_text())) == [' '.join(['start', *flags])]
