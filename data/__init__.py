"""Training pairs and test images, MATLAB's bicubic, and the tools that make and check data sets."""
