"""The mathematics: bounds as numbers, exact recursions on a quadratic, and the SymPy derivations of both."""
