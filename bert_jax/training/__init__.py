"""State, step, sharding, optimizer, checkpoints and logs; knows no model and no task."""
