"""The end of a run waits as long as its environments may take to end."""

import dataclasses

import pytest

from apex import system as apex
from common.config import command_line
from common.distributed import cluster
from impala import system as impala


@pytest.mark.parametrize('system', [impala.IMPALA, apex.APEX], ids=lambda system: system.name)
def test_the_crew_has_the_patience_of_the_suite(system, tmp_path):
  config = system.presets.preset('gym')
  run = system.make_run(config, command_line.Options(tmp_path / 'run', False), cluster.Cluster())
  run._suite = dataclasses.replace(run._suite, closing_seconds=47.0)
  crew = run.start()
  try:
    assert crew.patience == 47.0
  finally:
    assert crew.end() == []
    run.host.close(finished=True)
