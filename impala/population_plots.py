"""The picture of a population: fitness, hyperparameters (Figure F.1), and who took over whom.

Colours are those of cividis, by rank: they keep their order for colour-blind readers and in grey.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import ticker

from common.machine import files
from common.reporting import plots
from common.reporting import scores as references_of
from impala import ancestry, exploit_explore
from impala import population_folder as folders

# Imported by `plots` first, which chooses a way of drawing that needs no display.
pyplot = plots.pyplot

_Histories = Mapping[int, Sequence[folders.Event]]


def draw(folder: pathlib.Path, references: str) -> list[pathlib.Path]:
  """Draws `population.png`, and `curves.png` of the best member's line, in a population's folder.

  Args:
    folder: The population's.
    references: The suite's table of human scores; '' for none.

  Returns:
    The pictures; none if no generation has ended.
  """
  population = folders.load(folder)
  histories = {n: folders.history(folder, n) for n in range(population.size)}
  fitness = _Fitness(histories, references, folders.random(folder))
  ranks = ranking(histories, fitness)
  if not ranks:
    return []
  pictures = [folder / 'population.png']
  _draw_population(population, histories, fitness, ranks, pictures[0])
  lines = folder / 'best_line'
  lines.mkdir(exist_ok=True)
  ancestry.write_metrics(folder, ancestry.line(histories, ranks[0]), lines / 'metrics.csv')
  if path := plots.compare({f'line of member {ranks[0]}': lines}, folder / 'curves.png'):
    pictures.append(path)
  return pictures


class _Fitness:
  """The fitness of generations, all on one scale: that of the end."""

  def __init__(self, histories: _Histories, references: str, random: Mapping[str, float]):
    self._references = references
    self._random = random
    all_returns = [event.returns for history in histories.values() for event in history]
    self._best = exploit_explore.best_of(all_returns) if all_returns else {}

  def of(self, event: folders.Event) -> float:
    if self._references:
      percents = references_of.normalised(self._references, event.returns)
    else:
      percents = exploit_explore.own_percents(event.returns, self._random, self._best)
    return exploit_explore.fitness(percents)


def ranking(histories: _Histories, fitness: Any) -> list[int]:
  """The members that have ended a generation, the fittest in its last one first."""
  last = {number: fitness.of(history[-1]) for number, history in histories.items() if history}
  return sorted(last, key=lambda number: -last[number])


def best_member(folder: pathlib.Path, references: str) -> tuple[int, float] | None:
  """The member that was fittest in its last generation, and its fitness; None if none has ended."""
  population = folders.load(folder)
  histories = {n: folders.history(folder, n) for n in range(population.size)}
  fitness = _Fitness(histories, references, folders.random(folder))
  ranks = ranking(histories, fitness)
  return (ranks[0], fitness.of(histories[ranks[0]][-1])) if ranks else None


def _draw_population(
  population: folders.Population,
  histories: _Histories,
  fitness: _Fitness,
  ranks: Sequence[int],
  path: pathlib.Path,
) -> None:
  names = population.adapted
  figure, axes = pyplot.subplots(2, (len(names) + 3) // 2, figsize=(13, 7), layout='constrained')
  panels = list(axes.flat)
  colours = pyplot.get_cmap('cividis')
  # The worst first: the best is drawn on top of all others.
  for place, number in reversed(list(enumerate(ranks))):
    style = {
      'color': colours(0.85 * place / max(1, len(ranks) - 1)),
      'linewidth': 2.5 if place == 0 else 1.0,
      'label': f'member {number}',
    }
    points = ancestry.points(histories, number)
    frames = [float(point.frames) for point in points]
    panels[0].plot(frames, [fitness.of(point.event) for point in points], marker='.', **style)
    for panel, name in zip(panels[1:], names, strict=False):
      panel.step(
        [0.0, *frames],
        [points[0].event.before[name], *(point.after[name] for point in points)],
        where='post',
        **style,
      )
  _draw_takeovers(panels[len(names) + 1], histories)
  _label(panels, names, ranks)
  for panel in panels[len(names) + 2 :]:
    panel.set_visible(False)
  with files.replacing(path, 'wb') as file:
    figure.savefig(file, format='png', dpi=100)
  pyplot.close(figure)


def _label(panels: Sequence[Any], names: Sequence[str], ranks: Sequence[int]) -> None:
  panels[0].set_title(f'fitness along each line; bold: member {ranks[0]}, the best', fontsize=10)
  panels[0].set_ylabel('percent')
  for panel, name in zip(panels[1:], names, strict=False):
    panel.set_title(name.replace('_', ' '), fontsize=10)
    # A cost of 0 stays 0, and has no logarithm.
    panel.set_yscale('log', nonpositive='mask')
    panel.yaxis.set_major_formatter(ticker.FormatStrFormatter('%.2g'))
    panel.yaxis.set_minor_formatter(ticker.FormatStrFormatter('%.2g'))
    panel.tick_params(axis='y', which='both', labelsize=7)
  for panel in panels[: len(names) + 1]:
    panel.set_xlabel('environment frames of the line', fontsize=9)
  for panel in panels[: len(names) + 2]:
    panel.xaxis.set_major_locator(ticker.MaxNLocator(5))
    panel.xaxis.set_major_formatter(ticker.EngFormatter())
    panel.grid(alpha=0.3)


def _draw_takeovers(panel: Any, histories: _Histories) -> None:
  """An arrow from each checkpoint that was taken over to the member that took it."""
  for number, history in histories.items():
    for event in history:
      frames = float(event.frames)
      panel.plot(frames, number, marker='|', color='grey', markersize=5)
      if event.taken_frames is not None:
        panel.annotate(
          '',
          xy=(frames, number),
          xytext=(event.taken_frames, event.partner),
          arrowprops={'arrowstyle': '->', 'color': 'black', 'linewidth': 0.8},
        )
  panel.set_title('who took over whom: from the one copied', fontsize=10)
  panel.set_xlabel('environment frames of the member', fontsize=9)
  panel.set_ylabel('member')
  panel.set_yticks(list(histories) if len(histories) <= 12 else list(histories)[::4])
  panel.set_ylim(-0.7, len(histories) - 0.3)
