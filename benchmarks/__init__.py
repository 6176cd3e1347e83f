"""`python -m benchmarks` (`make bench`): every claim about speed beside its reference, in results.json."""
