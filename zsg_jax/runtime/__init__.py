"""What all of the package uses: errors, files, shards, processes, signals, progress."""
