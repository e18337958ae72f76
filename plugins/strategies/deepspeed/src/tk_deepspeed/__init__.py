"""The strategy `deepspeed`: optimizer state, gradients and parameters are sharded by DeepSpeed (ZeRO)."""
