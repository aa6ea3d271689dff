"""The suites `babyai` and `minigrid`: their tasks, and the missions kept for evaluation.

All tasks have the same view, 7x7 cells in front of the agent, and the same seven actions.
"""

# By suite, the name that EnvPool gives a task.
_IDS = {'babyai': 'BabyAI-{}-v0', 'minigrid': 'MiniGrid-{}-v0'}

SUITES = {
  # From one object in one room to mazes of rooms, locked doors and objects to carry.
  'babyai': (
    'GoToRedBallNoDists',
    'GoToRedBallGrey',
    'GoToRedBall',
    'GoToRedBlueBall',
    'GoToObj',
    'GoToLocalS5N2',
    'GoToLocalS6N3',
    'GoToLocalS8N5',
    'GoToLocal',
    'GoToDoor',
    'GoToObjDoor',
    'OpenRedDoor',
    'OpenDoor',
    'OpenDoorLoc',
    'ActionObjDoor',
    'PickupDist',
    'PickupLoc',
    'UnlockLocal',
    'PutNextLocalS5N3',
    'GoToObjMazeS4R2',
  ),
  'minigrid': (
    'Empty-Random-6x6',
    'DoorKey-5x5',
    'DoorKey-6x6',
    'SimpleCrossingS9N1',
    'LavaGapS5',
    'Fetch-5x5-N2',
    'GoToDoor-5x5',
    'Unlock',
    'MemoryS7',
    'MultiRoom-N2-S4',
  ),
}

# Of each kind one colour, which training's missions never name together. The red and the blue ball
# have levels of their own.
HELD_OUT = ('red key', 'green ball', 'blue box', 'yellow door')
# Levels that never name any of these: their missions are the same in training and evaluation.
_WITHOUT = frozenset(
  (
    'GoToRedBallNoDists',
    'GoToRedBallGrey',
    'GoToRedBall',
    'GoToRedBlueBall',
    'OpenRedDoor',
    'OpenDoorLoc',
    'UnlockLocal',
  )
)


def is_grid(env: str) -> bool:
  """Whether a value of `--env` is a task of MiniGrid or BabyAI in EnvPool."""
  return env in SUITES or env.startswith(('envpool:MiniGrid-', 'envpool:BabyAI-'))


def engine_id(suite: str, task: str) -> str:
  """EnvPool's name of a task."""
  return _IDS[suite].format(task)


def has_held_out(suite: str, task: str) -> bool:
  """Whether some of a task's missions are kept for evaluation."""
  return suite == 'babyai' and task not in _WITHOUT


def is_held_out(mission: str) -> bool:
  """Whether a mission is kept for evaluation."""
  return any(name in mission for name in HELD_OUT)
