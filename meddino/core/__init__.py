"""What every stage shares: errors, atomic files, options, progress, provenance."""
