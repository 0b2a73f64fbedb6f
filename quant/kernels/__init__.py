"""The quantizer's compiled kernels: their source, how they are built at first use, and their calls."""
