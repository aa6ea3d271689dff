"""Rows of metrics.csv are complete and stay so when a run is killed and resumed."""

import math

import numpy as np
import pytest
import tensorflow as tf

from common.reporting import metrics, metrics_file

COLUMNS = ('frames', 'loss', 'return/a')


def write(folder, rows, resumed_frames=0, columns=COLUMNS):
  writer = metrics.MetricsWriter(folder, columns, resumed_frames)
  for row in rows:
    writer.write(row, {})
  writer.close()


def events(folder):
  """The steps and values in TensorBoard's files, by tag."""
  found = {}
  for path in sorted((folder / 'tensorboard').glob('events.*')):
    for event in tf.compat.v1.train.summary_iterator(str(path)):
      for value in event.summary.value:
        found.setdefault(value.tag, []).append((event.step, tf.make_ndarray(value.tensor)))
  return found


def test_columns_and_empty_cells(tmp_path):
  write(tmp_path, [{'frames': 100, 'loss': 0.25}, {'frames': 200, 'loss': -1.5, 'return/a': 7.0}])
  assert (tmp_path / 'metrics.csv').read_text().split() == [
    'frames,loss,return/a',
    '100,0.25,',
    '200,-1.5,7',
  ]
  first, second = metrics_file.read(tmp_path / 'metrics.csv')
  assert (first['frames'], first['loss']) == (100.0, 0.25) and math.isnan(first['return/a'])
  assert second == {'frames': 200.0, 'loss': -1.5, 'return/a': 7.0}


def test_a_row_is_on_disk_when_write_returns(tmp_path):
  writer = metrics.MetricsWriter(tmp_path, COLUMNS)
  writer.write({'frames': 100}, {})
  assert [row['frames'] for row in metrics_file.read(tmp_path / 'metrics.csv')] == [100.0]
  writer.close()


def test_an_unknown_column_is_refused(tmp_path):
  writer = metrics.MetricsWriter(tmp_path, COLUMNS)
  with pytest.raises(ValueError, match='typo'):
    writer.write({'frames': 100, 'typo': 1.0}, {})
  writer.close()


@pytest.mark.parametrize(
  'value',
  [
    0.1,
    1e-8,
    -3.25,
    123456.7,
    # Frames need all of their digits, beyond those of a float32.
    4e9,
    0,
    12_345_678_901,
    np.float64(0.5),
    np.float32(0.7),
    np.int64(3),
    float('inf'),
  ],
)
def test_numbers_come_back(tmp_path, value):
  write(tmp_path, [{'frames': 1, 'loss': value}])
  assert metrics_file.read(tmp_path / 'metrics.csv')[0]['loss'] == pytest.approx(
    float(value), rel=1e-6
  )


def test_not_a_number_comes_back(tmp_path):
  """A run whose loss became NaN shows it, and can still be resumed."""
  write(tmp_path, [{'frames': 1, 'loss': float('nan')}])
  write(tmp_path, [{'frames': 2, 'loss': 1.0}], resumed_frames=1)
  first, second = metrics_file.read(tmp_path / 'metrics.csv')
  assert math.isnan(first['loss']) and second['loss'] == 1.0


def test_resume_drops_rows_of_later_frames(tmp_path):
  write(tmp_path, [{'frames': f, 'loss': f / 8} for f in (100, 200, 300, 400)])
  write(tmp_path, [{'frames': 250, 'loss': 9.0}], resumed_frames=200)
  assert [(row['frames'], row['loss']) for row in metrics_file.read(tmp_path / 'metrics.csv')] == [
    (100.0, 12.5),
    (200.0, 25.0),
    (250.0, 9.0),
  ]


def test_resume_keeps_cells_as_they_were(tmp_path):
  write(tmp_path, [{'frames': 100, 'loss': 0.1234567, 'return/a': 1e-7}, {'frames': 200}])
  before = (tmp_path / 'metrics.csv').read_bytes()
  write(tmp_path, [], resumed_frames=200)
  assert (tmp_path / 'metrics.csv').read_bytes() == before


def test_resume_with_other_columns(tmp_path):
  write(tmp_path, [{'frames': 100, 'loss': 0.5}])
  columns = ('frames', 'entropy', 'return/a')
  write(tmp_path, [{'frames': 200, 'entropy': 2.0}], resumed_frames=100, columns=columns)
  first, second = metrics_file.read(tmp_path / 'metrics.csv')
  assert list(first) == list(second) == ['frames', 'entropy', 'return/a', 'loss']
  assert math.isnan(first['entropy']) and second['entropy'] == 2.0
  assert first['loss'] == 0.5 and math.isnan(second['loss'])


@pytest.mark.parametrize(
  'damage',
  [
    b'200,0.2',  # Cut in a row, and written on.
    b'200,0.25,1,7,8',
    b'x,y,z',
    b',1,1',
    b'\xff\xfe200,0.25,1',
    b'2\x00\x0000,\x00,1,1',
  ],
)
def test_resume_keeps_what_can_be_read_and_the_damaged_file(tmp_path, damage, caplog):
  write(tmp_path, [{'frames': f, 'loss': f / 8} for f in (100, 300)])
  path = tmp_path / 'metrics.csv'
  header, first, last = path.read_bytes().splitlines(keepends=True)
  damaged = header + first + damage + b'\r\n' + last
  path.write_bytes(damaged)
  write(tmp_path, [{'frames': 400, 'loss': 1.0}], resumed_frames=300)
  assert [row['frames'] for row in metrics_file.read(path)] == [100.0, 300.0, 400.0]
  assert (tmp_path / 'metrics.csv.damaged').read_bytes() == damaged
  assert 'metrics.csv is damaged: 1 of its rows cannot be read' in caplog.text


def test_resume_with_a_file_that_is_no_csv_at_all(tmp_path):
  (tmp_path / 'metrics.csv').write_bytes(bytes(range(256)) * 4)
  write(tmp_path, [{'frames': 400, 'loss': 1.0}], resumed_frames=300)
  assert [row['frames'] for row in metrics_file.read(tmp_path / 'metrics.csv')] == [400.0]


def test_a_file_in_place_of_tensorboard_s_folder_is_kept_aside(tmp_path, caplog):
  (tmp_path / 'tensorboard').write_text('not a folder')
  write(tmp_path, [{'frames': 100, 'loss': 0.5}])
  assert (tmp_path / 'tensorboard.damaged').read_text() == 'not a folder'
  assert [float(value) for _, value in events(tmp_path)['loss']] == [0.5]
  assert 'expected a folder' in caplog.text


def test_tensorboard_shows_no_overlap_after_a_resume(tmp_path):
  from tensorboard.backend.event_processing import plugin_event_accumulator

  write(tmp_path, [{'frames': f, 'loss': f / 8} for f in (100, 200, 300, 400)])
  write(tmp_path, [{'frames': f, 'loss': -1.0} for f in (250, 350)], resumed_frames=200)
  folder = str(tmp_path / 'tensorboard')
  shown = plugin_event_accumulator.EventAccumulator(folder).Reload()
  assert [event.step for event in shown.Tensors('loss')] == [100, 200, 250, 350]


def test_a_new_run_overwrites_the_file(tmp_path):
  write(tmp_path, [{'frames': 100}])
  write(tmp_path, [{'frames': 50}])
  assert [row['frames'] for row in metrics_file.read(tmp_path / 'metrics.csv')] == [50.0]


@pytest.mark.parametrize('last', ['300,-12.5,1e-05', '300,0.125,', '300,,-7.25'])
def test_an_incomplete_last_line_is_skipped_wherever_it_ends(tmp_path, last):
  path = tmp_path / 'metrics.csv'
  # The csv module ends lines with \r\n: a line that ends with \r is incomplete too.
  whole = b'frames,loss,return/a\r\n100,1,2\r\n200,3,4\r\n'
  for length in range(len(last) + 1):
    cut = last[:length]
    path.write_bytes(whole + cut.encode())
    assert [row['frames'] for row in metrics_file.read(path)] == [100.0, 200.0], f'cut to {cut!r}'


def test_resume_after_an_incomplete_line(tmp_path):
  write(tmp_path, [{'frames': f, 'loss': -f / 8} for f in (100, 200)])
  path = tmp_path / 'metrics.csv'
  path.write_bytes(path.read_bytes()[:-4])
  write(tmp_path, [{'frames': 300, 'loss': 1.0}], resumed_frames=250)
  assert [row['frames'] for row in metrics_file.read(path)] == [100.0, 300.0]


def test_tensorboard_has_the_same_values(tmp_path):
  writer = metrics.MetricsWriter(tmp_path, COLUMNS)
  writer.write({'frames': 100, 'loss': 0.5}, {'lag': [1.0, 2.0, 2.0]})
  writer.write({'frames': 200, 'loss': 0.25, 'return/a': 3.0}, {})
  writer.close()
  found = events(tmp_path)
  assert [(step, float(value)) for step, value in found['loss']] == [(100, 0.5), (200, 0.25)]
  assert [(step, float(value)) for step, value in found['return/a']] == [(200, 3.0)]
  ((step, histogram),) = found['lag']
  # Rows of a histogram: left edge, right edge, count.
  assert step == 100 and histogram[:, 2].sum() == 3
