"""What every room uses: errors, files, processes, signals, progress."""
