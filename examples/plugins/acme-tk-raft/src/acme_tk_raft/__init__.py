"""Fine-tuning on the best of the model's own answers."""
