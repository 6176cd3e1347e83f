"""The notebooks in batch, their report, what they cost, and the authors' own file formats."""
