"""The tracker swanlab for tk: a run's figures in SwanLab."""
