"""What the trainer works with: run folder, checkpoints, device, the test pass and the curves."""
