"""Training SAEs: losses, fast steps, trainer, checkpoints."""
