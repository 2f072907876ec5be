"""TorchX only: the `run` command, and the job that every recipe is. Imports neither torch nor another room."""
