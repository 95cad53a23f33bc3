"""Finding out which pass or kernel is at fault, from dumps: what `lowgrad dump` does."""
