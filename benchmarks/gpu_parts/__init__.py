"""The parts of `benchmarks.gpu`: what only a GPU can show. Each runs in a process of its own."""
