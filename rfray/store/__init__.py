"""A path or an address -> the names of a run's files, records read and written whole, and who may write there."""
