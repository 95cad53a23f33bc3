"""NVIDIA GPUs, through the driver alone: memory, streams, launches, graphs. No torch, no nvcc."""
