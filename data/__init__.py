"""Training pairs and test images, MATLAB's bicubic, and the tools that make and check data sets."""

from data.build import build_test_sets, build_train_loader

__all__ = ["build_test_sets", "build_train_loader"]
