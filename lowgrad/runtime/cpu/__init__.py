"""The CPU path: a planned step as straight-line NumPy over one arena (`program.build`)."""
