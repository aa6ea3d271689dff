"""The settings of a run that environment families read, beside the environment's name."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
  """Settings for a family's `load`; a family ignores those that are not its own.

  The fields have the names of the configuration's fields, where `--help` describes them for users.

  Attributes:
    tasks: Names of the suite's tasks to keep, separated by commas; '' for all of them.
    max_training_frames: Environment frames after which an Atari game is truncated in training;
      None for the limit of evaluation.
    dmlab_dataset_path: Folder of the images that some levels of Psychlab show, `dummy` for the
      levels' own dummy images, or '' to leave those levels out.
    dmlab_level_cache: Folder of compiled maps; '' to compile a map at every reset.
    dmlab_level_cache_gb: The most that folder may hold, in units of 10^9 bytes.
    dmlab_renderer: `software` or `hardware`.
    dmlab_engine: Further settings of the engine or the level, `KEY=VALUE,KEY=VALUE`.
    dmlab_episode_seeds: Training draws its episodes from the seeds 0 to N-1; 0 for all seeds.
  """

  tasks: str = ''
  max_training_frames: int | None = None
  dmlab_dataset_path: str = ''
  dmlab_level_cache: str = ''
  dmlab_level_cache_gb: float = 5.0
  dmlab_renderer: str = 'software'
  dmlab_engine: str = ''
  dmlab_episode_seeds: int = 0
