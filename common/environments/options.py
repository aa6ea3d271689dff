"""The settings of a run that environment families read, beside the environment's name."""

import dataclasses

from common import errors

# Making and resetting environments may take this many times as long as a step: DeepMind Lab
# compiles maps then, for minutes.
RESET_FACTOR = 3
_OF_GYM = ('env_kwargs', 'wrappers', 'grayscale', 'image_size', 'frame_stack', 'action_repeat')


@dataclasses.dataclass(frozen=True)
class Options:
  """Settings for a family's `load`; a family ignores those that are not its own.

  The fields have the names of the configuration's fields, where `--help` describes them for users.

  Attributes:
    tasks: Names of the suite's tasks to keep, separated by commas; '' for all of them.
    environment_timeout_seconds: How long a step may take in a child process, until it is killed and
      started again. Resets may take `RESET_FACTOR` times as long.
    max_training_frames: Environment frames after which an Atari game is truncated in training;
      None for the limit of evaluation.
    pictures: Whether people will look, see `suite.picture`. Evaluation sets it for films.
    env_kwargs: Arguments of an environment's constructor, `NAME=VALUE,NAME=VALUE`. These and the
      following are for `gym:` and MODULE:FUNCTION.
    wrappers: What wraps the environment, the innermost first, `MODULE:NAME,MODULE:NAME`.
    grayscale: Whether images are made grey.
    image_size: `HEIGHTxWIDTH` that images are resized to; '' for their own size.
    frame_stack: Grey images in one observation.
    action_repeat: Environment frames in one agent step.
    env_processes: Whether each environment steps in a process of its own, `always`, `never`, or
      `auto` to measure which is faster.
    dmlab_dataset_path: Folder of the images that some levels of Psychlab show, `dummy` for the
      levels' own dummy images, or '' to leave those levels out.
    dmlab_level_cache: Folder of compiled maps; '' to compile a map at every reset.
    dmlab_level_cache_gb: The most that folder may hold, in units of 10^9 bytes.
    dmlab_renderer: `software` or `hardware`.
    dmlab_engine: Further settings of the engine or the level, `KEY=VALUE,KEY=VALUE`.
    dmlab_episode_seeds: Training draws its episodes from the seeds 0 to N-1; 0 for all seeds.
  """

  tasks: str = ''
  environment_timeout_seconds: float = 600.0
  max_training_frames: int | None = None
  pictures: bool = False
  env_kwargs: str = ''
  wrappers: str = ''
  grayscale: bool = False
  image_size: str = ''
  frame_stack: int = 1
  action_repeat: int = 1
  env_processes: str = 'auto'
  dmlab_dataset_path: str = ''
  dmlab_level_cache: str = ''
  dmlab_level_cache_gb: float = 5.0
  dmlab_renderer: str = 'software'
  dmlab_engine: str = ''
  dmlab_episode_seeds: int = 0

  def check_family(self, name: str) -> None:
    """Refuses settings that are for `gym:` and MODULE:FUNCTION, for an environment of our own.

    Raises:
      UserError: Names the setting.
    """
    defaults = Options()
    for setting in _OF_GYM:
      value = getattr(self, setting)
      if value != getattr(defaults, setting):
        raise errors.UserError(
          f'{setting} is {value!r}, which is for gym:ID and MODULE:FUNCTION: {name} is made in its '
          'own way. Leave it out'
        )
