"""Steps on NVIDIA GPUs: from a planned graph to launches in fixed memory, and one CUDA graph."""
