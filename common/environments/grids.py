"""The tasks of the suites `babyai` and `minigrid`, by the names that EnvPool gives them."""

# All have the same view, 7x7 cells in front of the agent, and the same seven actions.
SUITES = {
  # From one object in one room to two rooms, locked doors and objects to carry.
  'babyai': (
    'BabyAI-GoToRedBallNoDists-v0',
    'BabyAI-GoToRedBallGrey-v0',
    'BabyAI-GoToRedBall-v0',
    'BabyAI-GoToRedBlueBall-v0',
    'BabyAI-GoToObj-v0',
    'BabyAI-GoToLocalS5N2-v0',
    'BabyAI-GoToLocalS6N3-v0',
    'BabyAI-GoToLocalS8N5-v0',
    'BabyAI-GoToLocal-v0',
    'BabyAI-GoToDoor-v0',
    'BabyAI-GoToObjDoor-v0',
    'BabyAI-OpenRedDoor-v0',
    'BabyAI-OpenDoor-v0',
    'BabyAI-OpenDoorLoc-v0',
    'BabyAI-ActionObjDoor-v0',
    'BabyAI-PickupDist-v0',
    'BabyAI-PickupLoc-v0',
    'BabyAI-UnlockLocal-v0',
    'BabyAI-PutNextLocalS5N3-v0',
    'BabyAI-GoToObjMazeS4R2-v0',
  ),
  'minigrid': (
    'MiniGrid-Empty-Random-6x6-v0',
    'MiniGrid-DoorKey-5x5-v0',
    'MiniGrid-DoorKey-6x6-v0',
    'MiniGrid-SimpleCrossingS9N1-v0',
    'MiniGrid-LavaGapS5-v0',
    'MiniGrid-Fetch-5x5-N2-v0',
    'MiniGrid-GoToDoor-5x5-v0',
    'MiniGrid-Unlock-v0',
    'MiniGrid-MemoryS7-v0',
    'MiniGrid-MultiRoom-N2-S4-v0',
  ),
}
