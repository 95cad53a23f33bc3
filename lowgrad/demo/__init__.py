"""The demo: a classifier of handwritten digits, trained with a compiled step."""
