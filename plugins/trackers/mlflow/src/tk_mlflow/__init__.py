"""The tracker mlflow for tk: a run's figures in MLflow."""
