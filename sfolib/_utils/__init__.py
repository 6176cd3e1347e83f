"""What every room needs: errors, files, provenance, signals, processes, generators."""
