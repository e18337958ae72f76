"""The strategy `fsdp`: parameters, gradients and optimizer state are sharded over the processes."""
