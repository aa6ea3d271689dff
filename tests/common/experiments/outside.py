"""A program that trains many runs, in place of a population's."""

import pathlib
import sys

if __name__ == '__main__':
  (folder,) = [word.partition('=')[2] for word in sys.argv if word.startswith('--run_dir=')]
  for member in range(2):
    own = pathlib.Path(folder, f'member-{member:02}')
    own.mkdir()
    row = f'5,1,1,5,{member}'
    (own / 'metrics.csv').write_text(f'frames,updates,seconds,frames_per_second,return/a\n{row}\n')
