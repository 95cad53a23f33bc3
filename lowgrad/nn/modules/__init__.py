"""The layers, an idea to a file; `lowgrad.nn` names them all."""
