"""The table of faults: verdicts, and an exit status that follows them."""

import os
import socket

import numpy as np

from scripts import faults, intrusions


def test_each_fault_has_a_name_of_its_own_and_what_must_hold():
  found = faults._faults()
  assert len({fault.name for fault in found}) == len(found) > 15
  assert all(fault.must for fault in found)


def test_verdicts_are_told_apart():
  results = [
    faults._Result(1.0, 'all well'),
    faults._Result(None, 'the learner has ended'),
    faults._Result(2.0, f'{faults._TRUSTED}: it died'),
  ]
  assert [result.verdict for result in results] == ['held', 'FAILED', 'trusted']


def test_the_table_has_a_line_for_each_time():
  first, second = faults._faults()[:2]
  seen = {
    second.name: [faults._Result(None, 'one\ntwo')],
    first.name: [faults._Result(1.25, 'all well'), faults._Result(3.0, 'again')],
  }
  head, *lines = faults._table(seen).splitlines()
  assert head.split() == 'fault verdict seconds must hold seen'.split()
  assert [line.startswith(first.name) for line in lines] == [True, True, False]
  assert 'held' in lines[0] and '1.2' in lines[0] and lines[0].endswith(f'{first.must:<46}all well')
  assert 'FAILED' in lines[2] and lines[2].endswith('one two')


def test_a_fault_that_is_not_survived_is_a_failure_with_its_reason():
  def inject(run):
    raise AssertionError(f'no {run}')

  result = faults._inject(faults._Fault('a fault', 'it holds', inject), 'run')
  assert result == faults._Result(None, 'no run')


def test_a_proxy_that_is_asked_is_noticed():
  with intrusions.trap() as (address, count):
    assert count() == 0
    with socket.create_connection(('127.0.0.1', int(address.rpartition(':')[2])), 5.0):
      assert count() == 1
    assert count() == 1


def test_peaks_of_memory_are_forgotten():
  block = np.ones(20_000_000)  # 160 MB
  assert intrusions._peak_mb(os.getpid()) > 160
  del block
  before = intrusions._reset_peak(os.getpid())
  block = np.ones(5_000_000)
  rise = intrusions._peak_mb(os.getpid()) - before
  assert 30 < rise < 80 and block.all()
