"""A sweep with Optuna: short runs that differ in learning rate and rank, the best by the loss of held-out rows.

python examples/sweep.py --model smollm2-135m-instruct --data chatterbot
"""

from __future__ import annotations

import argparse
from pathlib import Path

import optuna

import tk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="A checkpoint: folder, hub id or short name.")
    parser.add_argument("--data", default="chatterbot", help="A file or data set.")
    parser.add_argument("--trials", type=int, default=4, help="Runs.")
    parser.add_argument("--steps", type=int, default=10, help="Optimizer steps of each.")
    parser.add_argument("--output", type=Path, default=Path("runs/sweep"), help="Folder of the runs.")
    given = parser.parse_args()

    def loss(trial: optuna.Trial) -> float:
        result = tk.train(
            model=given.model,
            data=given.data,
            tuner={"name": "lora", "rank": trial.suggest_categorical("rank", [4, 8, 16])},
            optim={"lr": trial.suggest_float("lr", 1e-4, 1e-2, log=True)},
            train={"steps": given.steps, "batch_size": 8},
            eval={"hold_out": 8},
            output=str(given.output / f"trial-{trial.number}"),
        )
        print(f"trial {trial.number}: loss {result.evals['loss']:.4f} with {trial.params}")
        return result.evals["loss"]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(loss, n_trials=given.trials)
    print(f"best: trial {study.best_trial.number}, loss {study.best_value:.4f} with {study.best_params}")


if __name__ == "__main__":
    main()
