"""One train loop; its strategies (single process, DDP, DeepSpeed); the Ray Train wrapper; checkpoints."""
