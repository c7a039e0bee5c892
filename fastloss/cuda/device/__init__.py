"""What the loops on CUDA devices are made of."""
