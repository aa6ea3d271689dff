"""Methods in one picture: their means, and what is drawn of them."""

import csv

import numpy as np
from PIL import Image

from common.reporting import comparison


def write_run(folder, returns, seconds_per_row):
  folder.mkdir()
  with open(folder / 'metrics.csv', 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['frames', 'seconds', 'return/task'])
    for i, value in enumerate(returns):
      writer.writerow([1000 * i, seconds_per_row * i, value])
  return folder


def test_a_mean_covers_what_all_runs_have():
  one = np.array([0.0, 10.0]), np.array([0.0, 10.0])
  other = np.array([2.0, 6.0, 8.0]), np.array([4.0, 4.0, 4.0])
  x, y = comparison.mean([one, other])
  assert (x[0], x[-1]) == (2.0, 8.0)
  np.testing.assert_allclose(y, (x + 4.0) / 2)


def test_methods_are_drawn_over_frames_and_over_time(tmp_path):
  runs = [write_run(tmp_path / str(i), [i, 2.0, 3.0 + i], 10 * (i + 1)) for i in range(3)]
  path = comparison.draw({'one': runs[:2], 'other': runs[2:]}, tmp_path / 'curves.png')
  pixels = np.array(Image.open(path).convert('RGB')).astype(int)
  # Both colours in both halves.
  for half in np.array_split(pixels, 2, axis=1):
    for colour in ((31, 119, 180), (255, 127, 14)):
      assert np.all(np.abs(half - colour) < 40, axis=-1).sum() > 100
  assert comparison.draw({'none': [write_run(tmp_path / 'x', [''], 1)]}, path) is None
