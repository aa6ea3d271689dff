"""The soak finds what was lost in the rows of a run."""

import os
import pathlib

import numpy as np
import pytest

from scripts import soak

PER_UPDATE = 160


def rows(count=5, **columns):
  """Rows of a run that loses nothing: ten elements of 20 frames and 300 bytes wait in each."""
  found = []
  for i in range(count):
    row = {'frames': PER_UPDATE * i, 'updates': i, 'received_mb': (8 * i + 10) * 300 / 1e6}
    found.append({**row, **{name: values[i] for name, values in columns.items()}})
  return found


def test_frames_of_whole_updates_hold():
  assert soak.counted(rows(), PER_UPDATE).holds
  assert soak.counted(rows(updates=[0] * 5), 0).holds  # Ape-X counts otherwise.


@pytest.mark.parametrize(
  'columns',
  [{'updates': [0, 1, 2, 2, 4]}, {'frames': [0, 160, 300, 480, 640]}],
  ids=['an update', 'frames'],
)
def test_a_difference_between_frames_and_updates_fails(columns):
  check = soak.counted(rows(**columns), PER_UPDATE)
  assert not check.holds and check.seen == '640 after 4 updates, 1 rows wrong'


def test_frames_that_go_back_fail():
  assert not soak.counted(rows(frames=[0, 160, 320, 310, 640]), 0).holds


def test_an_update_between_two_readings_is_no_loss():
  assert soak.counted(rows(frames=[0, 160, 160, 480, 480]), PER_UPDATE).holds
  assert not soak.counted(rows(frames=[0, 0, 0, 0, 0]), PER_UPDATE).holds


def shipping(room, void=0.0):
  return soak.Shipping(element_bytes=300, frames=20, room=room, void=void)


def test_what_waits_has_room_and_what_is_lost_has_not():
  check = soak.in_flight(rows(), shipping(10))
  assert check.holds and check.seen == '10.0 to 10.0 elements, room for 10'
  assert not soak.in_flight(rows(), shipping(9)).holds
  assert soak.in_flight(rows(), shipping(9, void=0.03)).holds  # 1.3 of 42.


def test_frames_that_nobody_sent_fail():
  received = [0.0, 0.0024, 0.0048, 0.0069, 0.0096]
  assert not soak.in_flight(rows(received_mb=received), shipping(9)).holds


def test_the_longest_stall_is_found():
  frames = [0, 10, 10, 10, 20, 20]
  samples = [{'seconds': 5.0 * i, 'frames': frame} for i, frame in enumerate(frames)]
  assert soak.longest_stall(samples) == 10.0


def test_trends_begin_after_the_warm_up():
  samples = [
    {'seconds': 5.0 * i, 'frames': i, 'learner MB': min(i, 100), 'processes': 3} for i in range(200)
  ]
  memory, processes = soak.trends_of(samples, 500.0)
  assert (memory.name, memory.per_minute) == ('learner MB', 0.0) and not memory.has_grown
  assert (processes.name, processes.has_grown) == ('processes', False)
  assert soak.trends_of(samples, 0.0)[0].has_grown
  with pytest.raises(AssertionError, match='9 measurements'):
    soak.trends_of(samples, 955.0)


def test_memory_is_counted_without_files():
  text = """
Rss:              500000 kB
Pss:              300000 kB
Pss_Dirty:        290000 kB
Pss_Anon:          12000 kB
Pss_File:         287000 kB
Pss_Shmem:          1500 kB
"""
  assert soak.pss_mb(text) == 13.5


def test_the_memory_of_this_process_is_read():
  text = pathlib.Path(f'/proc/{os.getpid()}/smaps_rollup').read_text()
  block = np.ones(6_000_000)
  more = pathlib.Path(f'/proc/{os.getpid()}/smaps_rollup').read_text()
  assert soak.pss_mb(more) - soak.pss_mb(text) == pytest.approx(block.nbytes / 1e6, abs=10)
