"""What can be asked of environments, beside their name."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
  """Choices of a run; families that do not know one leave it alone. The config's fields of the same names say more."""

  tasks: str = ''
  max_training_frames: int | None = None
  dmlab_dataset_path: str = ''
  dmlab_level_cache: str = ''
  dmlab_level_cache_gb: float = 5.0
  dmlab_renderer: str = 'software'
  dmlab_engine: str = ''
  dmlab_episode_seeds: int = 0
