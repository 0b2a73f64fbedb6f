"""What the trainer works with: run folder, checkpoints, device, precision, the test pass and the curves."""
