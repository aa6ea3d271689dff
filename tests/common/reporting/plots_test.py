"""Learning curves, checked by the coloured lines in the picture."""

import csv

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from common.reporting import plots

# Matplotlib's colours of the first and the second run.
BLUE = (31, 119, 180)
ORANGE = (255, 127, 14)


def write_metrics(folder, returns):
  """Writes rows with the returns of each task, None where no episode ended."""
  rows = max(len(values) for values in returns.values()) if returns else 3
  with open(folder / 'metrics.csv', 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['frames', 'entropy', *(f'return/{task}' for task in returns)])
    for i in range(rows):
      cells = ['' if values[i] is None else values[i] for values in returns.values()]
      writer.writerow([1000 * i, 1.5, *cells])


def drawn(path, colour, tolerance):
  """The pixels that have a colour, bool `[H, W]`."""
  pixels = np.array(Image.open(path).convert('RGB')).astype(int)
  return np.all(np.abs(pixels - colour) < tolerance, axis=-1)


def pieces(path, colour=BLUE):
  """The number of bold lines: one for each panel, and one in the legend."""
  # Thickened, since where a line is steep antialiasing may break it.
  thickened = scipy.ndimage.binary_dilation(drawn(path, colour, 40), iterations=2)
  return scipy.ndimage.label(thickened)[1]


@pytest.mark.parametrize('tasks', [1, 2, 4, 5, 10])
def test_a_panel_for_each_task(tmp_path, tasks):
  rng = np.random.default_rng(0)
  write_metrics(tmp_path, {f'task_{i}': rng.normal(size=12).tolist() for i in range(tasks)})
  path = plots.learning_curves(tmp_path)
  assert path == tmp_path / 'curves.png'
  assert pieces(path) == tasks


def test_tasks_without_an_episode_have_no_panel(tmp_path):
  write_metrics(tmp_path, {'a': [None, 1.0, 2.0], 'b': [None, None, None], 'c': [3.0, None, 5.0]})
  assert pieces(plots.learning_curves(tmp_path)) == 2


@pytest.mark.parametrize('returns', [{}, {'a': [None, None]}, {'a': []}], ids=str)
def test_nothing_to_draw(tmp_path, returns):
  write_metrics(tmp_path, returns)
  assert plots.learning_curves(tmp_path) is None
  assert not (tmp_path / 'curves.png').exists()


def test_curves_are_replaced(tmp_path):
  write_metrics(tmp_path, {'a': [1.0, 2.0, 3.0]})
  first = plots.learning_curves(tmp_path).read_bytes()
  write_metrics(tmp_path, {'a': [3.0, 2.0, 1.0]})
  assert plots.learning_curves(tmp_path).read_bytes() != first
  assert sorted(path.name for path in tmp_path.iterdir()) == ['curves.png', 'metrics.csv']


def test_the_line_ends_at_the_last_return(tmp_path):
  """From 0 straight to 10: smoothed, the end would be lower than the peak before it."""
  write_metrics(tmp_path, {'a': [0.0, 0.0, 0.0, 9.0, 10.0]})
  line = drawn(plots.learning_curves(tmp_path), BLUE, 40)
  columns = np.flatnonzero(line.any(axis=0))
  assert np.flatnonzero(line[:, columns[-1]])[0] <= np.flatnonzero(line.any(axis=1))[0] + 2


def test_runs_are_compared_task_by_task(tmp_path):
  runs = {name: tmp_path / name for name in ('first', 'second')}
  for i, folder in enumerate(runs.values()):
    folder.mkdir()
    # Far apart, so that the two runs' lines do not cross.
    returns = [100.0 * i, 100.0 * i + 1] * 5
    write_metrics(folder, {'a': returns, 'b': returns})
  path = plots.compare(runs, tmp_path / 'both.png')
  assert path == tmp_path / 'both.png'
  # Two panels and the legend.
  assert pieces(path, BLUE) == pieces(path, ORANGE) == 2 + 1


def test_a_run_without_the_first_task_is_in_the_legend_too(tmp_path):
  runs = {name: tmp_path / name for name in ('first', 'second')}
  for folder in runs.values():
    folder.mkdir()
  write_metrics(runs['first'], {'a': [0.0, 1.0], 'b': [0.0, 1.0]})
  write_metrics(runs['second'], {'a': [None, None], 'b': [100.0, 101.0]})
  path = plots.compare(runs, tmp_path / 'both.png')
  assert pieces(path, BLUE) == 2 + 1
  assert pieces(path, ORANGE) == 1 + 1


def test_a_single_run_has_no_legend(tmp_path):
  write_metrics(tmp_path, {'a': [1.0, 2.0, 3.0]})
  assert pieces(plots.learning_curves(tmp_path)) == 1
